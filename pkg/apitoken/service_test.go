package apitoken

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// keeper is a Store of one token, and no feed tells of its changes.
type keeper struct {
	Store
	token Token
}

func (k *keeper) Token(context.Context, string) (Token, error) { return k.token, nil }

func (k *keeper) TokenOf(_ context.Context, digest Digest) (Token, error) {
	if digest != k.token.Values[0].Digest {
		return Token{}, ErrUnknown
	}
	return k.token, nil
}

func (k *keeper) UpdateToken(_ context.Context, _ string, update func(Token, time.Time) (Token, error)) (token Token, err error) {
	k.token, err = update(k.token, time.Now())
	return k.token, err
}

func (k *keeper) Used(context.Context, string, time.Time, string, time.Duration) error { return nil }

// What was revoked on a replica is refused by it at once, before the change feed says so.
func TestARevokedTokenIsRefusedWithoutTheFeed(t *testing.T) {
	value := newValue(Personal)
	kept := &keeper{token: Token{ID: "t", Kind: Personal, UserID: "alice", Values: []Value{{Digest: DigestOf(value)}}}}
	s := New(Parts{Store: kept, Uses: kept, Now: time.Now})
	here := netip.MustParseAddr("192.0.2.1")
	if _, err := s.Check(t.Context(), value, here); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Revoke(t.Context(), issuer.Person{ID: "alice"}, "t"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Check(t.Context(), value, here); !errors.Is(err, ErrRevoked) {
		t.Errorf("got %v, want ErrRevoked", err)
	}
}

// Values that are none are bounded by network: an IPv4 address, or an IPv6 one's /64.
func TestStrangersByNetwork(t *testing.T) {
	known := newValue(Personal)
	kept := &keeper{token: Token{ID: "t", Kind: Personal, UserID: "alice", Values: []Value{{Digest: DigestOf(known)}}}}
	s := New(Parts{Store: kept, Uses: kept, Now: time.Now})
	present := func(value, from string) error {
		t.Helper()
		_, err := s.Check(t.Context(), value, netip.MustParseAddr(from))
		return err
	}
	for range strangersAtOnce {
		if err := present(newValue(Personal), "2001:db8::1"); !errors.Is(err, ErrUnknown) {
			t.Fatalf("got %v, want ErrUnknown", err)
		}
	}
	for _, row := range []struct { // in this order: the last one makes the token known
		name, value, from string
		want              error
	}{
		{"the same network", newValue(Personal), "2001:db8::2", ErrTooOften},
		{"another network", newValue(Personal), "2001:db8:0:1::1", ErrUnknown},
		{"an IPv4 address", newValue(Personal), "192.0.2.1", ErrUnknown},
		{"what is no value", "wtsp_x", "2001:db8::1", ErrForm},
		{"a token that is not yet known", known, "2001:db8::1", ErrTooOften},
		{"the token from another network", known, "192.0.2.1", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := present(row.value, row.from); !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
		})
	}
	if err := present(known, "2001:db8::1"); err != nil {
		t.Errorf("a token that is known: got %v, want it accepted", err)
	}
}
