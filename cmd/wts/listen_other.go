//go:build !linux

package main

import "net"

func listenPrivileged(address string) (net.Listener, error) { return net.Listen("tcp", address) }
