package server

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// row is a store with one connection, which counts how often it is asked.
type row struct{ asked int }

func (r *row) Row(context.Context, string, string) (broker.Row, error) {
	r.asked++
	at := time.Now()
	return broker.Row{Connection: broker.Connection{
		UserID: "u1", Provider: "main", Phase: broker.Ready, Version: 1, RefreshToken: "rt", AccessToken: secret.Text(make([]byte, 900)),
		AccessIssuedAt: at, AccessExpiresAt: at.Add(time.Hour),
	}, Reading: broker.Reading{Database: at, Sent: at, Received: at}}, nil
}

func (r *row) Disconnect(context.Context, string, string) error { return errNever }

func (r *row) UserByID(context.Context, string) (authn.User, error) { return alice, nil }
func (r *row) UserByName(context.Context, string) (authn.User, error) {
	r.asked++
	return alice, nil
}

func (r *row) Rows(context.Context, string) ([]broker.Row, error) { return nil, nil }

func (r *row) Apply(context.Context, broker.Row, broker.Action) (broker.Change, error) {
	return broker.Change{}, errNever
}

func (r *row) Orphans(context.Context, broker.Look) ([]broker.Orphan, broker.Pulse, error) {
	return nil, broker.Pulse{}, nil
}

func (r *row) UserBySubject(context.Context, string, string, string) (authn.User, error) {
	return alice, nil
}

var (
	alice    = authn.User{ID: "u1", Username: "alice"}
	errNever = errors.New("nobody should ask for this")
)

type silent struct{}

func (silent) Route(string) func(int, time.Duration) { return func(int, time.Duration) {} }
func (silent) Proven(authn.Proof)                    {}
func (silent) Reached() bool                         { return true }
func (silent) Ping(context.Context) error            { return nil }

func newServer(tb testing.TB, log *slog.Logger) (*Server, *row) {
	tb.Helper()
	parts, one := newParts(log)
	s, err := New(parts)
	if err != nil {
		tb.Fatal(err)
	}
	return s, one
}

// plenty are more requests than a test makes.
var plenty = map[string]float64{handouts: 1e6, mints: 1e6}

func newParts(log *slog.Logger) (Parts, *row) {
	one := &row{}
	config := authn.Config{Workers: map[string]string{"10.0.0.7": "alice"}}
	sessions := authn.NewSessions(config, nil, true, time.Now)
	return Parts{
		Config:   Config{URL: "https://wts.example.org", RateLimits: plenty},
		Authn:    authn.New(authn.Parts{Config: config, Directory: one, Sessions: sessions, Pods: authn.NewStaticWorkers(config.Workers), OwnIssuer: "https://wts.example.org"}),
		Sessions: sessions,
		Broker: broker.New(broker.Parts{
			Config: broker.Config{DefaultProvider: "main"}, Providers: []*provider.Provider{provider.New("main", provider.Config{}, "")},
			Store: one, Now: time.Now,
		}),
		Grants: grant.New(grant.Parts{}), Issuer: issuer.New(issuer.Config{}, nil, time.Now), Database: silent{}, Observer: silent{}, Log: log, Trail: audit.NewTrail(nil, "", time.Now),
	}, one
}
