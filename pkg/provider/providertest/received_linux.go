package providertest

import (
	"net"

	"golang.org/x/sys/unix"
)

// unacknowledged is how many bytes that were written to a connection its other end has not acknowledged; ok is
// false once the connection is closed.
func unacknowledged(connection *net.TCPConn) (bytes int, ok bool) {
	raw, err := connection.SyscallConn()
	if err != nil {
		return 0, false
	}
	failed := raw.Control(func(descriptor uintptr) { bytes, err = unix.IoctlGetInt(int(descriptor), unix.TIOCOUTQ) })
	return bytes, failed == nil && err == nil
}
