//go:build !unix

package main

import "os"

// sharedDir is where a token is looked for in a session without a folder of its own.
var sharedDir = os.TempDir()

// handedOn are the signals that a program gets which wts runs.
var handedOn = []os.Signal{os.Interrupt}

// fromTerminal tells a signal that the program gets from its terminal by itself.
func fromTerminal(os.Signal) bool { return true }

// codeOf is a program's exit code.
func codeOf(state *os.ProcessState) int { return state.ExitCode() }
