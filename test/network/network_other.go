//go:build !linux

package network

import "testing"

// Own fails: network namespaces are Linux's.
func Own(t *testing.T) bool {
	t.Helper()
	t.Fatal("this test needs network namespaces, which are Linux's: run it on Linux")
	return false
}

// Host is a namespace of Linux's.
type Host struct{ Address string }

// Hosts makes none.
func Hosts(testing.TB, int) []*Host { return nil }

// Within runs a function.
func (*Host) Within(do func() error) error { return do() }

// Drop does nothing.
func (*Host) Drop(Path, Way) error { return nil }

// Heal does nothing.
func (*Host) Heal(Path) error { return nil }
