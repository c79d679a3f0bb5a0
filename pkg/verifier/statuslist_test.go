package verifier_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/verifier"
)

// statusList is a status list that the authority signs, in which the numbers given are revoked.
func (a *authority) statusList(issuedAt time.Time, changes object, revoked ...int) string {
	bits := make([]byte, 16)
	for _, number := range revoked {
		bits[number/8] |= 1 << (number % 8)
	}
	claims := object{
		"sub": a.URL + "/status/0", "iat": issuedAt.Unix(), "exp": issuedAt.Add(time.Hour).Unix(), "ttl": 45, "status_list": must(issuer.CompressStatuses(bits)),
	}
	for name, value := range changes {
		claims[name] = value
	}
	return forge(object{"alg": "ES256", "typ": "statuslist+jwt", "kid": "ec"}, claims, a.keys["ec"])
}

// serve has the authority answer with a list from now on.
func (a *authority) serve(list string) {
	a.change(func(a *authority) {
		a.list = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(list)) }
	})
}

// numbered is a token with a number in the list.
func (a *authority) numbered(number int) string {
	status := object{"status_list": object{"idx": number, "uri": a.URL + "/status/0"}}
	exp := time.Now().Add(24 * time.Hour).Unix()
	return forge(object{"alg": "ES256", "typ": "at+jwt", "kid": "ec"}, a.claims(object{"status": status, "exp": exp}), a.keys["ec"])
}

// clock is a verifier's clock that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time        { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) move(by time.Duration) { c.ahead.Add(int64(by)) }

func TestAStatusListIsHonoured(t *testing.T) {
	a, at := newAuthority(t), &clock{}
	v := newVerifier(t, a, verifier.WithClock(at.now))
	verify := func(what string, number int, want error) {
		t.Helper()
		if _, err := v.Verify(t.Context(), a.numbered(number)); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	a.serve(a.statusList(time.Now(), nil, 3))
	verify("a token that is not revoked", 2, nil)
	verify("one that is", 3, verifier.ErrRevoked)
	verify("a number that is in no list", 128, verifier.ErrMalformed)
	a.serve(a.statusList(time.Now(), nil, 2, 3))
	verify("within the list's ttl", 2, nil)
	at.move(46 * time.Second)
	verify("beyond it", 2, verifier.ErrRevoked)
	// Another replica of the issuer serves a list that is older: what was revoked stays so.
	a.serve(a.statusList(time.Now().Add(-time.Minute), nil))
	at.move(46 * time.Second)
	verify("by an older list", 2, verifier.ErrRevoked)
}

func TestAStatusListThatIsNotTheOneAskedFor(t *testing.T) {
	a := newAuthority(t)
	for name, changes := range map[string]object{
		"another list":       {"sub": "https://op.example.org/status/1"},
		"issued in a while":  {"iat": time.Now().Add(time.Hour).Unix()},
		"ended":              {"exp": time.Now().Add(-time.Second).Unix()},
		"another list's bit": {"status_list": object{"bits": 3, "lst": "eNrbuRgAAhcBXQ"}},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, a)
			a.serve(a.statusList(time.Now(), changes))
			if _, err := v.Verify(t.Context(), a.numbered(1)); !errors.Is(err, verifier.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable: nothing is known of the token", err)
			}
		})
	}
}

// An issuer that hangs, rather than refuses, keeps callers waiting for a second once in a while, and none beyond their
// own context.
func TestAnIssuerWhoseStatusListHangs(t *testing.T) {
	a, at := newAuthority(t), &clock{}
	v := newVerifier(t, a, verifier.WithClock(at.now))
	a.serve(a.statusList(time.Now(), nil))
	token := a.numbered(1)
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	defer close(hang)
	a.change(func(a *authority) { a.list = func(http.ResponseWriter, *http.Request) { <-hang } })
	at.move(46 * time.Second)
	began := time.Now()
	for range 5 {
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Errorf("with a list at hand: got %v", err)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("five tokens took %s, want one caller to wait for a second", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began = time.Now()
	if _, err := newVerifier(t, a).Verify(ctx, token); !errors.Is(err, verifier.ErrUnavailable) || time.Since(began) > 2*time.Second {
		t.Errorf("without a list: got %v after %s, want ErrUnavailable with the caller's context", err, time.Since(began))
	}
}

// A token is recalled that was found good, until it expires, is revoked, or its key is withdrawn; no other is.
func TestATokenIsRecalledWhileItIsGood(t *testing.T) {
	recalls := func(v *verifier.Verifier, token string) bool { _, known := v.Recall(t.Context(), token); return known }
	for name, row := range map[string]struct {
		end  func(a *authority, at *clock)
		want bool
	}{
		"nothing ended it": {func(*authority, *clock) {}, true},
		"it has expired":   {func(_ *authority, at *clock) { at.move(25 * time.Hour) }, false},
		"it was revoked": {func(a *authority, at *clock) {
			a.serve(a.statusList(time.Now(), nil, 2))
			at.move(46 * time.Second)
		}, false},
		"its key was withdrawn": {func(a *authority, at *clock) {
			a.change(func(a *authority) {
				a.keys["new"] = a.keys["ec"]
				delete(a.keys, "ec")
			})
			at.move(6 * time.Minute)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, at := newAuthority(t), &clock{}
			v, token := newVerifier(t, a, verifier.WithClock(at.now)), a.numbered(2)
			a.serve(a.statusList(time.Now(), nil))
			if recalls(v, token) {
				t.Fatal("recalled before it was verified")
			}
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Fatal(err)
			}
			row.end(a, at)
			deadline := time.Now().Add(5 * time.Second) // keys are fetched beside
			for recalls(v, token) != row.want && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			if got := recalls(v, token); got != row.want {
				t.Errorf("recalled: %t, want %t", got, row.want)
			}
			if recalls(v, token[:len(token)-1]+"x") {
				t.Error("one that was changed is recalled")
			}
		})
	}
}
