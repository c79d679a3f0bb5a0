package main

import (
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// listenPrivileged listens, with the right to open ports below 1024 where the binary's file has it
// (setcap cap_net_bind_service=+p). The file does not put it into effect by itself: if it did, a pod
// that drops all capabilities could not even start the program.
func listenPrivileged(address string) (net.Listener, error) {
	runtime.LockOSThread() // capabilities are a thread's
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if unix.Capget(&header, &before[0]) == nil {
		raised := before
		raised[0].Effective |= raised[0].Permitted & (1 << unix.CAP_NET_BIND_SERVICE)
		if unix.Capset(&header, &raised[0]) == nil {
			defer func() { _ = unix.Capset(&header, &before[0]) }() // it gives up what it just had
		}
	}
	return net.Listen("tcp", address)
}
