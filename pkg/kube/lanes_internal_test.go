package kube

import (
	"net/netip"
	"testing"
)

// Tokens that claim to be a good pod's use up that pod's share, and then their origin's. The token that was
// good needs neither.
func TestATokenThatWasGoodNeedsNoShare(t *testing.T) {
	t.Parallel()
	l, origin := newLanes(), netip.MustParseAddr("10.9.0.1")
	good := [32]byte{1}
	l.remember(good, "alice", true)
	entered := 0
	for i := range 100 {
		if l.enter(t.Context(), [32]byte{2, byte(i)}, "alice", origin) == nil {
			entered++
		}
	}
	if entered < podBurst+originBurst || entered > podBurst+originBurst+2 {
		t.Errorf("%d made-up tokens may be reviewed, want %d", entered, podBurst+originBurst)
	}
	if err := l.enter(t.Context(), good, "alice", origin); err != nil {
		t.Errorf("the token that was good: %v", err)
	}
	l.remember(good, "alice", false)
	if l.enter(t.Context(), good, "alice", origin) == nil {
		t.Error("a token that was refused since then keeps its lane")
	}
}
