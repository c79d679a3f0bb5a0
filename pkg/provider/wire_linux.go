package provider

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout bounds how long sent data may stay unacknowledged (RFC 5482, TCP_USER_TIMEOUT, milliseconds).
func userTimeout(patience time.Duration) func(network, address string, connection syscall.RawConn) error {
	return func(_, _ string, connection syscall.RawConn) (err error) {
		failed := connection.Control(func(descriptor uintptr) {
			err = unix.SetsockoptInt(int(descriptor), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
		})
		if failed != nil {
			return failed
		}
		return err
	}
}
