//go:build !linux

package provider

import (
	"syscall"
	"time"
)

// userTimeout is Linux's; elsewhere keep-alive and the refresh timeout find a dead path.
func userTimeout(time.Duration) func(network, address string, connection syscall.RawConn) error {
	return nil
}
