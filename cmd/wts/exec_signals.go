package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sharedDir is where a token is looked for in a session without a folder of its own.
const sharedDir = "/tmp"

// handedOn are the signals that a program gets which wts runs.
var handedOn = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH}

// fromTerminal tells a signal that the program gets from its terminal by itself: what is typed goes to every process in
// the foreground.
func fromTerminal(got os.Signal) bool {
	if got != syscall.SIGINT && got != syscall.SIGQUIT && got != syscall.SIGWINCH {
		return false
	}
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer terminal.Close() //nolint:errcheck // it was read
	foreground, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// codeOf is a program's exit code, as a shell has it: 128 and the signal for one that a signal ended.
func codeOf(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
