package broker_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// sealed is what a failure must leave as it was, byte for byte, and where the connection stands.
type sealed struct {
	RefreshToken, RefreshDigest, AccessToken, ParentDigest []byte
	AccessIssuedAt, AccessExpiresAt, RefreshExpiresAt      sql.NullInt64
	Phase, Reason, Flight                                  string
}

func (h *fixture) sealed(t *testing.T, userID string) (row sealed) {
	t.Helper()
	database, err := sql.Open("sqlite", h.path)
	if err != nil {
		t.Fatal(err)
	}
	defer database.Close()
	err = database.QueryRow(`SELECT refresh_token, refresh_digest, access_token, parent_digest, access_issued_at, access_expires_at, refresh_expires_at, phase, reason, flight
		FROM connections WHERE user_id = ? AND provider = 'main'`, userID).
		Scan(&row.RefreshToken, &row.RefreshDigest, &row.AccessToken, &row.ParentDigest, &row.AccessIssuedAt, &row.AccessExpiresAt, &row.RefreshExpiresAt, &row.Phase, &row.Reason, &row.Flight)
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// Every line of the table of outcomes (refresh-engine.md step 8) and of the table of quirks, with the
// row before and after it. What ends a grant is the provider's verdict alone, and even that keeps the
// sealed tokens; what brings a token changes no more than it brought.
func TestEveryLineOfTheTables(t *testing.T) {
	js, form := http.Header{"Content-Type": {"application/json"}}, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	says := func(status int, body string) *providertest.Fault {
		return &providertest.Fault{Status: status, Body: body, Header: js}
	}
	const (
		kept    = "kept"    // nothing of the tokens changes, and it is tried again
		ended   = "ended"   // nothing of the tokens changes, and a login is needed
		access  = "access"  // a new access token; the refresh token's bytes stay
		rotated = "rotated" // both are new
	)
	for name, line := range map[string]struct {
		quirks string
		fault  *providertest.Fault // nil: there is nobody to be dialled
		twice  *providertest.Fault // befalls the presentation before it
		what   string
		phase  broker.Phase
		reason string
	}{
		"not sent":                               {what: kept, phase: broker.Ready},
		"a connection that breaks":               {fault: &providertest.Fault{Down: true}, what: kept, phase: broker.Suspect, reason: "suspect"},
		"no answer in time":                      {fault: &providertest.Fault{Delay: 2500 * time.Millisecond, Status: 500}, what: kept, phase: broker.Suspect, reason: "suspect"},
		"a 500":                                  {fault: says(500, ""), what: kept, phase: broker.Suspect, reason: "suspect"},
		"a 502 from a proxy":                     {fault: &providertest.Fault{Status: 502, Body: "<html>"}, what: kept, phase: broker.Suspect, reason: "suspect"},
		"a 503 that says when":                   {fault: &providertest.Fault{Status: 503, Header: http.Header{"Retry-After": {"3"}}}, what: kept, phase: broker.Suspect, reason: "suspect"},
		"JSON that is cut off":                   {fault: says(200, `{"access_token":"a","refresh_to`), what: kept, phase: broker.Suspect, reason: "suspect"},
		"an answer without a token":              {fault: says(200, `{}`), what: kept, phase: broker.Suspect, reason: "suspect"},
		"invalid_grant":                          {fault: says(400, `{"error":"invalid_grant"}`), what: ended, phase: broker.Broken, reason: "revoked"},
		"invalid_grant of a token in doubt":      {fault: says(400, `{"error":"invalid_grant"}`), twice: says(500, ""), what: ended, phase: broker.Broken, reason: "lost_in_rotation"},
		"invalid_client":                         {fault: says(401, `{"error":"invalid_client"}`), what: kept, phase: broker.Ready},
		"unauthorized_client":                    {fault: says(400, `{"error":"unauthorized_client"}`), what: kept, phase: broker.Ready},
		"unsupported_grant_type":                 {fault: says(400, `{"error":"unsupported_grant_type"}`), what: kept, phase: broker.Ready},
		"invalid_scope":                          {fault: says(400, `{"error":"invalid_scope"}`), what: kept, phase: broker.Ready},
		"a 429":                                  {fault: &providertest.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, what: kept, phase: broker.Ready},
		"HTML from a firewall, refusing":         {fault: &providertest.Fault{Status: 403, Body: "<html>"}, what: kept, phase: broker.Ready},
		"HTML from a firewall, all right":        {fault: &providertest.Fault{Status: 200, Body: "<html>"}, what: kept, phase: broker.Ready},
		"another 4xx":                            {fault: says(418, `{"error":"teapot"}`), what: kept, phase: broker.Ready},
		"a redirect":                             {fault: &providertest.Fault{Status: 307, Header: http.Header{"Location": {"https://elsewhere.example"}}}, what: kept, phase: broker.Suspect, reason: "suspect"},
		"GitHub's bad_refresh_token, status 200": {quirks: "github", fault: says(200, `{"error":"bad_refresh_token"}`), what: ended, phase: broker.Broken, reason: "revoked"},
		"GitHub's incorrect_client_credentials":  {quirks: "github", fault: says(200, `{"error":"incorrect_client_credentials"}`), what: kept, phase: broker.Ready},
		"Gitea's unauthorized_client":            {quirks: "gitea", fault: says(400, `{"error":"unauthorized_client"}`), what: ended, phase: broker.Broken, reason: "revoked"},
		"Hydra's invalid_client":                 {quirks: "hydra", fault: says(401, `{"error":"invalid_client"}`), what: kept, phase: broker.Ready},
		"no id_token, no new refresh token":      {fault: says(200, `{"access_token":"a","token_type":"Bearer","expires_in":60}`), what: access, phase: broker.Ready},
		"an empty refresh token":                 {fault: says(200, `{"access_token":"a","refresh_token":"","expires_in":60}`), what: access, phase: broker.Ready},
		"expires_in as a string":                 {fault: says(200, `{"access_token":"a","refresh_token":"r2","expires_in":"60"}`), what: rotated, phase: broker.Ready},
		"expires_in absent":                      {fault: says(200, `{"access_token":"a","refresh_token":"r2"}`), what: rotated, phase: broker.Ready},
		"a form":                                 {fault: &providertest.Fault{Status: 200, Body: "access_token=a&refresh_token=r2&expires_in=60", Header: form}, what: rotated, phase: broker.Ready},
		"an id_token that is no good":            {fault: says(200, `{"access_token":"a","refresh_token":"r2","id_token":"x.y.z"}`), what: rotated, phase: broker.Ready},
		"Entra, which is sent the scope":         {quirks: "entra", fault: says(200, `{"access_token":"a","refresh_token":"r2"}`), what: rotated, phase: broker.Ready},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newFixture(t, func(c *provider.Config) { c.Quirks = line.quirks })
			alice := h.connect(t, "main", "", "alice", "a").UserID
			before, held := h.sealed(t, alice), h.row(t, alice)
			h.advance(61 * time.Second) // her token has run out
			if line.twice != nil {
				h.main.Fail(line.twice)
				_, _ = h.Token(t.Context(), alice, "main", 0)
				if got := h.sealed(t, alice); got.Phase != string(broker.Suspect) {
					t.Fatalf("it is %s, and not in doubt", got.Phase)
				}
			}
			if line.fault == nil {
				_ = h.main.Close()
				time.Sleep(200 * time.Millisecond) // for the client to see that its connections are gone
			} else {
				h.main.Fail(line.fault)
			}
			var after sealed
			_, err := h.Token(t.Context(), alice, "main", 0)
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				// A doubt is presented again by itself: after a back-off, as everything else.
				after = h.sealed(t, alice)
				if after.Phase == string(line.phase) && after.Flight == "" || time.Now().After(deadline) {
					break
				}
			}
			if line.twice != nil {
				_, err = h.Token(t.Context(), alice, "main", 0)
			}
			if after.Phase != string(line.phase) || after.Reason != line.reason {
				t.Errorf("it is %s, %q; want %s, %q", after.Phase, after.Reason, line.phase, line.reason)
			}
			want := before
			want.Phase, want.Reason, want.Flight = after.Phase, after.Reason, after.Flight
			switch line.what {
			case kept:
				var outage *broker.Unavailable
				if !errors.As(err, &outage) || outage.RetryAfter <= 0 {
					t.Errorf("got %v, want an outage with a time to try again", err)
				}
			case ended:
				if !errors.Is(err, broker.ErrGrantBroken) {
					t.Errorf("got %v, want ErrGrantBroken", err)
				}
			case rotated:
				if row := h.row(t, alice); row.RefreshToken != "r2" {
					t.Errorf("the successor is not stored")
				}
				want.RefreshToken, want.RefreshDigest, want.ParentDigest = after.RefreshToken, after.RefreshDigest, before.RefreshDigest
				fallthrough
			case access:
				if token := h.token(t, alice, 0); token.Value != "a" || err != nil {
					t.Errorf("%v: another token than the one that came", err)
				}
				if row := h.row(t, alice); line.what == access && row.RefreshToken != held.RefreshToken {
					t.Error("the refresh token changed, and none came")
				}
				want.RefreshToken = after.RefreshToken // sealed again, since the version that it is sealed for moved
				want.AccessToken, want.AccessIssuedAt, want.AccessExpiresAt = after.AccessToken, after.AccessIssuedAt, after.AccessExpiresAt
			}
			if diff := cmp.Diff(want, after); diff != "" {
				t.Errorf("the row changed (-before +after):\n%s", diff)
			}
		})
	}
}

// A provider that ends the access token before with a refresh is not asked ahead of need.
func TestATokenThatDiesOnRefreshIsNotRefreshedAhead(t *testing.T) {
	for revokes, want := range map[bool]int{true: 0, false: 1} {
		t.Run(fmt.Sprint(revokes), func(t *testing.T) {
			h := newFixture(t, func(c *provider.Config) { c.RevokesAccess = revokes })
			alice := h.connect(t, "main", "", "alice", "a").UserID
			before, posts := h.sealed(t, alice), h.main.Ledger().TokenPosts
			h.token(t, alice, 0)
			h.advance(50 * time.Second) // four fifths of its life are over
			h.token(t, alice, 0)
			for deadline := time.Now().Add(2 * time.Second); h.main.Ledger().TokenPosts-posts < max(want, 1) && time.Now().Before(deadline); {
				time.Sleep(10 * time.Millisecond)
				if want == 0 && time.Until(deadline) < 1500*time.Millisecond {
					break
				}
			}
			if got := h.main.Ledger().TokenPosts - posts; got != want {
				t.Errorf("revokes_access %t: %d posts, want %d", revokes, got, want)
			}
			if diff := cmp.Diff(before, h.sealed(t, alice)); revokes && diff != "" {
				t.Errorf("the row changed:\n%s", diff)
			}
		})
	}
}
