package providertest_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// What the provider promises to the tests that rely on it is itself tested, through a client.

const callback = "https://client.example/back"

func start(t *testing.T, options providertest.Options) (*providertest.Server, *provider.Provider) {
	t.Helper()
	options.Users = []providertest.User{{Name: "alice", Password: "a", Email: "alice@example.org"}}
	server, err := providertest.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	server.Register(providertest.Client{ID: "c", Secret: "s", RedirectURI: callback})
	return server, provider.New("p", provider.Config{Issuer: server.Issuer, ClientID: "c", ClientSecret: "s"}, callback)
}

func grant(t *testing.T, client *provider.Provider) provider.Tokens {
	t.Helper()
	login := provider.Login{State: "state", Nonce: "nonce", Verifier: "verifier-verifier-verifier-verifier-verifier"}
	address, err := client.LoginURL(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	browser := providertest.Browser()
	var back *url.URL
	browser.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
		if next.URL.Host == "client.example" {
			back = next.URL
			return http.ErrUseLastResponse
		}
		return nil
	}
	if page, err := providertest.LogIn(t.Context(), browser, address, "alice", "wrong"); err != nil || page.Status != http.StatusForbidden {
		t.Fatalf("a wrong password: %d, %v", page.Status, err)
	}
	if _, err := providertest.LogIn(t.Context(), browser, address, "alice", "a"); err != nil || back == nil {
		t.Fatalf("logging in: %v", err)
	}
	tokens, identity, err := client.Exchange(t.Context(), back.Query().Get("code"), login)
	if err != nil || identity.Username != "alice@example.org" {
		t.Fatalf("exchanging: %+v, %v", identity, err)
	}
	if _, _, err := client.Exchange(t.Context(), back.Query().Get("code"), login); err == nil {
		t.Error("a code was good twice")
	}
	return tokens
}

func outcome(err error) provider.Outcome {
	var failure *provider.Error
	if errors.As(err, &failure) {
		return failure.Outcome
	}
	return ""
}

func TestASpentTokenEndsTheFamily(t *testing.T) {
	server, client := start(t, providertest.Options{})
	first := grant(t, client)
	second, err := client.Refresh(t.Context(), first.RefreshToken, "", nil)
	if err != nil || second.RefreshToken == "" {
		t.Fatalf("the first refresh: %v", err)
	}
	if _, err := client.Refresh(t.Context(), first.RefreshToken, "", nil); outcome(err) != provider.Refused {
		t.Errorf("a spent token: %v", err)
	}
	if _, err := client.Refresh(t.Context(), second.RefreshToken, "", nil); outcome(err) != provider.Refused {
		t.Errorf("its successor, after that: %v", err)
	}
	if ledger := server.Ledger(); ledger.Rotations != 1 || ledger.Reused != 1 || ledger.Refused != 1 || ledger.Grants != 1 {
		t.Errorf("the ledger: %+v", ledger)
	}
}

func TestWithinTheGraceASpentTokenIsGood(t *testing.T) {
	_, client := start(t, providertest.Options{Grace: time.Second})
	first := grant(t, client)
	for range 2 {
		if _, err := client.Refresh(t.Context(), first.RefreshToken, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(1100 * time.Millisecond)
	if _, err := client.Refresh(t.Context(), first.RefreshToken, "", nil); outcome(err) != provider.Refused {
		t.Errorf("after the grace: %v", err)
	}
}

func TestWithoutRotationTheTokenStays(t *testing.T) {
	server, client := start(t, providertest.Options{KeepRefreshTokens: true})
	first := grant(t, client)
	for range 3 {
		if again, err := client.Refresh(t.Context(), first.RefreshToken, "", nil); err != nil || again.RefreshToken != "" {
			t.Fatalf("a successor came, or %v", err)
		}
	}
	server.Revoke("alice")
	if _, err := client.Refresh(t.Context(), first.RefreshToken, "", nil); outcome(err) != provider.Refused {
		t.Errorf("after a revocation: %v", err)
	}
}

func TestFaults(t *testing.T) {
	server, client := start(t, providertest.Options{})
	tokens := grant(t, client)
	server.Fail(&providertest.Fault{Times: 1, LoseAnswer: true})
	if _, err := client.Refresh(t.Context(), tokens.RefreshToken, "", nil); outcome(err) != provider.Unknown {
		t.Errorf("a lost answer: %v", err)
	}
	if ledger := server.Ledger(); ledger.Rotations != 1 {
		t.Errorf("the answer was lost, but nothing rotated: %+v", ledger)
	}
	tokens = grant(t, client)
	server.Fail(&providertest.Fault{Times: 2, Status: http.StatusServiceUnavailable})
	for range 2 {
		if _, err := client.Refresh(t.Context(), tokens.RefreshToken, "", nil); outcome(err) != provider.Unknown {
			t.Errorf("a 503: %v", err)
		}
	}
	if _, err := client.Refresh(t.Context(), tokens.RefreshToken, "", nil); err != nil {
		t.Errorf("after two faults: %v", err)
	}
	server.Fail(&providertest.Fault{Down: true})
	if _, err := client.Refresh(t.Context(), tokens.RefreshToken, "", nil); outcome(err) != provider.Unknown {
		t.Errorf("down: %v", err)
	}
	server.Fail(nil)
}

// A loss is explained from the ledger: which token each request presented, what it got, and whether the answer
// left.
func TestTheLedgerTellsEachRequest(t *testing.T) {
	server, client := start(t, providertest.Options{})
	first := grant(t, client)
	second, err := client.Refresh(t.Context(), first.RefreshToken, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	server.Fail(&providertest.Fault{Times: 1, LoseAnswer: true})
	if _, err := client.Refresh(t.Context(), second.RefreshToken, "", nil); err == nil {
		t.Fatal("the answer was to be lost")
	}
	if _, err := client.Refresh(t.Context(), second.RefreshToken, "", nil); outcome(err) != provider.Refused {
		t.Fatal(err)
	}
	var got []string
	posts := map[int]bool{}
	events := slices.DeleteFunc(server.Events(), func(one providertest.Event) bool { return one.What == providertest.Received })
	for _, event := range events[len(events)-9:] {
		line := event.What
		for name, token := range map[string]string{" first": string(first.RefreshToken), " second": string(second.RefreshToken)} {
			if event.Presented == token {
				line += name
			}
		}
		if event.Given == string(second.RefreshToken) {
			line += " -> second"
		}
		if event.What == providertest.Answered {
			line += fmt.Sprint(" ", event.Status)
		}
		if event.AnswerLost {
			line += " lost"
		}
		if event.Subject != "alice" || event.From == "" || event.At.IsZero() {
			t.Errorf(`got %+v; want event.Subject "alice", a event.From, not event.At.IsZero()`, event)
		}
		posts[event.Post] = true
		got = append(got, line)
	}
	want := []string{
		"posted first", "rotated first -> second", "answered 200",
		"posted second", "rotated second lost", "answered 0",
		"posted second", "reused second", "answered 400",
	}
	if diff := cmp.Diff(want, got); diff != "" || len(posts) != 3 {
		t.Errorf("%d posts: %s", len(posts), diff)
	}
}
