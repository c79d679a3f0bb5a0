package aggregate

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestConfigFaults(t *testing.T) {
	for _, path := range []string{"", "/", "authz", "/a?b", "/a#b", "/../etc", "/a b", "/a\\b"} {
		if err := (Config{Endpoints: []string{path}}).Validate(); err == nil {
			t.Errorf("%q is accepted", path)
		}
	}
	if err := (Config{Endpoints: []string{"/authz/mapping/"}, Timeout: time.Second}).Validate(); err != nil {
		t.Error(err)
	}
	if err := (Config{Timeout: -1}).Validate(); err == nil {
		t.Error("a negative timeout")
	}
}

// However many ask, so many requests are under way to commons and no more; whoever finds no room in
// time gets null.
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
	commons := make([]Commons, 3*maxAsking)
	for at := range commons {
		commons[at] = Commons{Host: strings.Repeat("h", at+1), Origin: slow.URL}
	}
	answers, err := asked.Get(t.Context(), commons, "/x", url.Values{})
	if err != nil || len(answers) != len(commons) || string(answers["h"]) != "{}" {
		t.Errorf("%d answers, %v", len(answers), err)
	}
	if most.Load() > maxAsking {
		t.Errorf("%d at once", most.Load())
	}
}

func TestATokenThatCannotBeHadIsNull(t *testing.T) {
	asked := New(Config{Endpoints: []string{"/x"}})
	answers, err := asked.Get(t.Context(), []Commons{{Host: "h", Origin: "http://127.0.0.1:1", Token: func(context.Context) (string, error) {
		return "", errors.New("no")
	}}}, "/x", nil)
	if err != nil || string(answers["h"]) != "null" {
		t.Errorf("%s, %v", answers["h"], err)
	}
	if _, err := asked.Get(t.Context(), nil, "/y", nil); !errors.Is(err, ErrEndpoint) {
		t.Errorf("another endpoint: %v", err)
	}
}
