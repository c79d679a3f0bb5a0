package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
)

// listen opens every address. One whose port this user may not open is passed over while there is
// another: the Python service's pods listen on 80 and 8000, and some of them may not open 80.
func (s *service) listen(addresses []string) (listeners []net.Listener, err error) {
	var refused error
	for _, address := range addresses {
		listener, err := listenPrivileged(address)
		if errors.Is(err, syscall.EACCES) {
			refused = fmt.Errorf("listening: %w", err)
			s.log.Warn("an address is passed over: its port takes a right that this process has not", slog.String("address", address))
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listening: %w", err), closeAll(listeners))
		}
		listeners = append(listeners, listener)
	}
	if len(listeners) == 0 {
		return nil, refused
	}
	return listeners, nil
}

func closeAll[C io.Closer](all []C) (err error) {
	for _, one := range all {
		err = errors.Join(err, one.Close())
	}
	return err
}
