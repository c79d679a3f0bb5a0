package aggregate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestConfigFaults(t *testing.T) {
	for _, path := range []string{"", "/", "authz", "/a?b", "/a#b", "/../etc", "/a b", "/a\\b"} {
		t.Run(path, func(t *testing.T) {
			if err := (Config{Endpoints: []string{path}}).Validate(); err == nil {
				t.Errorf("%q is accepted", path)
			}
		})
	}
	if err := (Config{Endpoints: []string{"/authz/mapping/"}, Timeout: time.Second}).Validate(); err != nil {
		t.Error(err)
	}
	if err := (Config{Timeout: -1}).Validate(); err == nil {
		t.Error("a negative timeout")
	}
}

// A commons has places for a few requests at once, and a caller who finds none in time gets null.
func TestRequestsUnderWayAreBounded(t *testing.T) {
	var now, most atomic.Int32
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		time.Sleep(50 * time.Millisecond)
		now.Add(-1)
		_, _ = w.Write([]byte(`{}`))
	}))
	defer slow.Close()
	asked := New(Config{Endpoints: []string{"/x"}, Timeout: 10 * time.Second})
	var all sync.WaitGroup
	for range 3 * maxUsersAsking {
		all.Go(func() {
			answers, err := asked.Get(t.Context(), []Commons{{Host: "h", Origin: slow.URL}}, "/x", nil, false)
			if err != nil || string(answers["h"]) != "{}" {
				t.Errorf(`got %s, %v; want "{}"`, answers["h"], err)
			}
		})
	}
	all.Wait()
	if most.Load() > maxUsersAsking {
		t.Errorf("%d at once, want at most %d", most.Load(), maxUsersAsking)
	}
}

// A commons that hangs takes no place of another's, and anonymous callers take no place of users.
func TestAnonymousCallersAndAHangingCommonsTakeNoPlaceOfUsers(t *testing.T) {
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hanging.Close()
	var anonymous atomic.Int32
	quick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" && anonymous.Add(1) > 0 {
			<-release
		}
		_, _ = w.Write([]byte(`{}`))
	}))
	defer quick.Close()
	defer close(release)
	asked := New(Config{Endpoints: []string{"/x"}, Timeout: time.Minute})
	for range 50 { // anonymous callers, at both
		go func() {
			_, _ = asked.Get(t.Context(), []Commons{{Host: "hanging", Origin: hanging.URL}, {Host: "quick", Origin: quick.URL}}, "/x", nil, true)
		}()
	}
	for range 50 { // users whose commons hangs
		go func() {
			_, _ = asked.Get(t.Context(), []Commons{{Host: "hanging", Origin: hanging.URL}}, "/x", nil, false)
		}()
	}
	for deadline := time.Now().Add(10 * time.Second); anonymous.Load() < maxAnonymousAsking; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the anonymous callers were not seen within 10 s")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	token := func(context.Context) (string, error) { return "t", nil }
	for range 20 {
		answers, err := asked.Get(ctx, []Commons{{Host: "quick", Origin: quick.URL, Token: token}}, "/x", nil, false)
		if err != nil || string(answers["quick"]) != "{}" {
			t.Fatalf("a user gets %s, %v", answers["quick"], err)
		}
	}
}

// Gen3 contract 1.4: where no token can be had, or not in half of the time, the commons is asked without it.
func TestACommonsWhoseTokenCannotBeHadIsAskedWithoutIt(t *testing.T) {
	commons := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q", r.Header.Get("Authorization"))
	}))
	defer commons.Close()
	asked := New(Config{Endpoints: []string{"/x"}, Timeout: 2 * time.Second})
	for name, token := range map[string]func(context.Context) (string, error){
		"none":     nil,
		"refused":  func(context.Context) (string, error) { return "", errors.New("no") },
		"too late": func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			answers, err := asked.Get(t.Context(), []Commons{{Host: "h", Origin: commons.URL, Token: token}}, "/x", nil, false)
			if err != nil || string(answers["h"]) != `""` {
				t.Errorf("got %s, %v; want `\"\"`", answers["h"], err)
			}
		})
	}
	if _, err := asked.Get(t.Context(), nil, "/y", nil, false); !errors.Is(err, ErrEndpoint) {
		t.Errorf("another endpoint: %v", err)
	}
}
