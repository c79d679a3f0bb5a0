// Package audit records who got which token, when, and by which proof.
//
// One event is filled along a request and written once: at its end, and where a token is handed out before the caller
// has it. It names tokens by their SHA-256 or their id; no token, code or secret is ever part of one.
package audit

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// Action is what was attempted.
type Action string

// The actions that are audited.
const (
	Login      Action = "login"      // a person proved who they are at the default provider
	Connect    Action = "connect"    // a grant of a provider was stored
	Disconnect Action = "disconnect" // a connection was removed
	Logout     Action = "logout"     // a session was ended
	Handout    Action = "handout"    // an upstream access token was handed on
	Mint       Action = "mint"       // a token of our own was signed

	ListEvents   Action = "list events"   // a person looked at what the audit has of them
	ListSessions Action = "list sessions" // a person looked at their sessions
	EndSession   Action = "end session"   // a person or an operator ended one of a person's, or all

	ListTokens      Action = "list tokens"  // API tokens or resources were looked at
	CreateToken     Action = "create token" // an API token was made
	EditToken       Action = "edit token"
	RotateToken     Action = "rotate token"
	RevokeToken     Action = "revoke token"
	UseToken        Action = "use token"     // an API token asked about itself
	ReportToken     Action = "report token"  // the value of one was found in public, and reported
	Exchange        Action = "exchange"      // a token was sent to be exchanged for another one
	Introspect      Action = "introspect"    // a resource service asked what a token is worth
	Allow           Action = "allow"         // a person let a program act for them, or did not
	AddPublisher    Action = "add publisher" // a maintainer named whose CI jobs act for a resource
	RemovePublisher Action = "remove publisher"

	PutResource Action = "put resource" // a resource, and who maintains it

	DisableUser Action = "user disable" // an operator refused a user everything
	RenameUser  Action = "user rename"  // an operator let a user be called otherwise
	EnableUser  Action = "user enable"  // an operator took that back
	Lost        Action = "lost"         // so many entries are in the log alone
	Moved       Action = "moved"        // the chain before was not where its process left it; the token is its id
	// MakeAudienceKey, ActivateAudienceKey and DropAudienceKey: an admin made the next key of an audience's own, had it
	// sign, or dropped it; the token is its id.
	MakeAudienceKey     Action = "make audience key"
	ActivateAudienceKey Action = "activate audience key"
	DropAudienceKey     Action = "drop audience key"
	TestIntegration     Action = "test integration" // an admin had a token of an integration tried where it is read

	AddKey Action = "add key" // a signing key was made and published; the event's token is its id
)

// Config is the audit, as the operator writes it.
type Config struct {
	// Retention is how long entries are kept in the database. Default 400 days, at least one.
	Retention time.Duration `config:"retention"`
	// LogOnly keeps nothing new in the database; the log has everything in any case.
	LogOnly bool `config:"log_only"`
}

// WithDefaults fills in what the operator left out.
func (c Config) WithDefaults() Config {
	if c.Retention == 0 {
		c.Retention = 400 * 24 * time.Hour
	}
	return c
}

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	if c.Retention != 0 && c.Retention < 24*time.Hour {
		return fmt.Errorf("audit.retention: is %s, want at least 24h", c.Retention)
	}
	return nil
}

// Event is one attempt and how it ended. The zero Action is no event.
type Event struct {
	Action   Action
	Reason   string // why it was refused, in our own words; empty where it was not
	UserID   string
	Username string
	Proof    string // pod, session, bearer
	Actor    string // what the proof was: a worker's address, a session's or a token's id
	Provider string
	Audience string
	Resource string
	Client   string // the program that a person let in, or did not
	Token    string // SHA-256 of the token handed out, in hex; or the id of the one minted
}

// Attrs appends the event to the attributes of a log line.
func (e *Event) Attrs(attrs []slog.Attr) []slog.Attr {
	outcome := "done"
	if e.Reason != "" {
		outcome = "refused"
	}
	attrs = append(attrs, slog.String("audit", string(e.Action)), slog.String("outcome", outcome))
	for _, field := range [...]struct{ name, value string }{
		{"reason", e.Reason},
		{"user_id", e.UserID},
		{"user", e.Username},
		{"proof", e.Proof},
		{"actor", e.Actor},
		{"provider", e.Provider},
		{"audience", e.Audience},
		{"resource", e.Resource},
		{"client", e.Client},
		{"token", e.Token},
	} {
		if field.value != "" {
			attrs = append(attrs, slog.String(field.name, field.value))
		}
	}
	return attrs
}

// Write logs an event that belongs to no request, such as an operator's command.
func Write(ctx context.Context, log *slog.Logger, event Event) {
	log.LogAttrs(ctx, slog.LevelInfo, "audit", event.Attrs(nil)...)
}
