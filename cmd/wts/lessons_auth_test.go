package main

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// The tests of docs/lessons.md about logging in at /auth, and about developer keys. Each is named after its number there.

// locations follows a browser from an address as far as the provider's login, and returns every address on the way.
func (r *replica) locations(t *testing.T, path string) (all []string) {
	t.Helper()
	browser := providertest.Browser()
	next := r.url + path
	for range 6 {
		all = append(all, next)
		base, path := next, ""
		if address, err := url.Parse(next); err == nil {
			base, path = address.Scheme+"://"+address.Host, address.RequestURI()
		}
		got := r.through(t, base, browser, http.MethodGet, path, page...)
		location := got.header.Get("Location")
		if location == "" {
			break
		}
		if strings.HasPrefix(location, "/") {
			location = base + location
		}
		next = location
	}
	return all
}

// restarted ends a replica, and starts another one in its place.
func restarted(t *testing.T, r *replica) *replica {
	t.Helper()
	r.stop()
	<-r.ended
	again := &replica{url: r.url, log: &syncBuffer{}, first: r.first, second: r.second}
	again.start(t, r.config)
	return again
}

// device begins as PEPHubClient does.
func (r *replica) device(t *testing.T) (code, address string) {
	t.Helper()
	begun := decoded[struct {
		Code string `json:"device_code"`
		URL  string `json:"auth_url"`
	}](t, r.sendJSON(t, nil, http.MethodPost, "/auth/device/init", ""), http.StatusOK)
	return begun.Code, begun.URL
}

// pollDevice asks as PEPHubClient does.
func (r *replica) pollDevice(t *testing.T, code string) answer {
	t.Helper()
	return r.sendJSON(t, nil, http.MethodPost, "/auth/device/token", "", "device-code", code)
}

func TestLesson01NoSecretInARedirect(t *testing.T) {
	r := startReplica(t, withHub)
	code, address := r.device(t)
	for _, path := range []string{"/auth/login" + toHub, strings.TrimPrefix(address, r.url)} {
		all := r.locations(t, path)
		if len(all) < 3 || !strings.HasPrefix(all[len(all)-1], r.first.Issuer) {
			t.Fatalf("%s leads no further than %v, want the provider", path, all)
		}
		for _, at := range all {
			clear, _ := url.QueryUnescape(at)
			for _, secret := range []string{hubSecret, code, "canary-client-secret"} {
				if strings.Contains(at, secret) || strings.Contains(clear, secret) {
					t.Errorf("%s stands in %s", secret, at)
				}
			}
		}
	}
}

func TestLesson02TheStateIsSealed(t *testing.T) {
	r := startReplica(t, withHub)
	browser := providertest.Browser()
	back := r.callback(t, browser, "/auth/login"+toHub)
	query := back.Query()
	if state := query.Get("state"); strings.Contains(state, "hub.example.org") || strings.Contains(state, "{") {
		t.Errorf("the state says what it is about: %s", state)
	}
	program, another := &http.Client{Jar: browser.Jar}, http.DefaultClient // no pages for them
	if got := r.call(t, another, http.MethodGet, back.RequestURI(), "Accept", "application/json"); got.status != http.StatusForbidden {
		t.Errorf("in another browser: %d %s", got.status, got.body)
	}
	query.Set("state", query.Get("state")+"x")
	if got := r.call(t, program, http.MethodGet, back.Path+"?"+query.Encode(), "Accept", "application/json"); got.status != http.StatusForbidden {
		t.Errorf("with another state: %d %s", got.status, got.body)
	}
	if got := r.call(t, browser, http.MethodGet, back.RequestURI()); got.status != http.StatusFound || !strings.Contains(got.header.Get("Location"), "/auth/complete?") {
		t.Errorf("as it was: %d %s", got.status, got.body)
	}
}

func TestLesson03RedirectsAreRegistered(t *testing.T) {
	r := startReplica(t, withHub)
	signedIn := r.signedIn(t, "alice")
	program := &http.Client{Jar: signedIn.Jar} // no pages for it
	for _, redirect := range []string{"https://evil.example.org/", hubCallback + "/", hubCallback + "?x=1", hubOrigin, "//evil.example.org", "javascript:alert(1)", hubCallback + "#x", "https://hub.example.org@evil.example.org/login/callback"} {
		for _, path := range []string{"/auth/login", "/auth/complete"} {
			got := r.call(t, program, http.MethodGet, path+"?client_redirect_uri="+url.QueryEscape(redirect), "Accept", "application/json")
			if got.status != http.StatusBadRequest || got.header.Get("Location") != "" || !strings.Contains(detailOf(got), "auth.redirect_uris") {
				t.Errorf("%s to %s: %d %s %v", path, redirect, got.status, got.body, got.header)
			}
		}
	}
	if got := r.call(t, signedIn, http.MethodGet, "/auth/complete"+toHub); got.status != http.StatusFound || !strings.HasPrefix(got.header.Get("Location"), hubCallback+"?code=") {
		t.Errorf("to the registered one: %d %v", got.status, got.header)
	}
	// A page that sends the browser there later, with a session that is hours old, gets no code: the person logs in.
	r.later(t, "sessions", "created_at", -time.Hour)
	second := restarted(t, r)
	if got := second.call(t, signedIn, http.MethodGet, "/auth/complete"+toHub); got.status != http.StatusFound || !strings.HasPrefix(got.header.Get("Location"), "/auth/login?") {
		t.Errorf("with an old session: %d %v", got.status, got.header)
	}
	if page := second.see(t, signedIn, "/auth/login?client_redirect_uri=https%3A%2F%2Fevil.example.org"); page.status != http.StatusBadRequest || !strings.Contains(page.body, "not registered") {
		t.Errorf("the person is told: %d %s", page.status, page.body)
	}
	if got := second.call(t, program, http.MethodGet, "/auth/complete"+toHub, "Sec-Fetch-Dest", "iframe", "Accept", "application/json"); got.status != http.StatusForbidden {
		t.Errorf("within another page: %d %s", got.status, got.body)
	}
}

func TestLesson04ACodeDiesWithAnyAttempt(t *testing.T) {
	r := startReplica(t, withHub)
	const invalid, redirect = "Invalid authorization code.", "The provided client_redirect_uri is invalid. Please try logging in again."
	good := `, "client_redirect_uri": "` + hubCallback + `"`
	for name, row := range map[string]struct{ more, want string }{
		"another redirect URI": {`, "client_redirect_uri": "http://127.0.0.1:8000/callback"`, redirect},
		"no redirect URI":      {"", redirect},
	} {
		code := r.authCodeOf(t, "alice", toHub).Get("code")
		if got := r.authRedeem(t, code, row.more); got.status != http.StatusBadRequest || detailOf(got) != row.want {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		if got := r.authRedeem(t, code, good); got.status != http.StatusBadRequest || detailOf(got) != invalid {
			t.Errorf("after an attempt with %s: %d %s", name, got.status, got.body)
		}
	}
	code := r.authCodeOf(t, "alice", toHub).Get("code")
	statuses := make(chan int, 8)
	for range cap(statuses) {
		go func() { statuses <- r.authRedeem(t, code, good).status }()
	}
	taken := 0
	for range cap(statuses) {
		if <-statuses == http.StatusOK {
			taken++
		}
	}
	if taken != 1 {
		t.Errorf("of eight at once %d got a token", taken)
	}
	late := r.authCodeOf(t, "alice", toHub).Get("code")
	r.later(t, "authorizations", "expires_at", -6*time.Minute)
	if got := r.authRedeem(t, late, good); detailOf(got) != invalid {
		t.Errorf("after five minutes: %d %s", got.status, got.body)
	}
	if got := r.authRedeem(t, "guess", ""); got.status != http.StatusBadRequest || detailOf(got) != invalid {
		t.Errorf("a guess: %d %s", got.status, got.body)
	}
}

func TestLesson05DeviceCodesCannotBeGuessed(t *testing.T) {
	r := startReplica(t, withHub)
	code, address := r.device(t)
	shown := address[strings.LastIndexByte(address, '/')+1:]
	if len(code) < 52 || strings.Contains(address, code) || len(shown) != 9 {
		t.Fatalf("the device keeps %q and shows %q", code, address)
	}
	alice := r.signedIn(t, "alice")
	r.decide(t, alice, r.see(t, alice, "/device?user_code="+shown), "allow")
	for _, guess := range []string{shown, strings.ReplaceAll(shown, "-", ""), "", code[:len(code)-1], code + "A"} {
		if got := r.pollDevice(t, guess); got.status != http.StatusUnauthorized || detailOf(got) != "Item not found" {
			t.Errorf("with %q: %d %s", guess, got.status, got.body)
		}
	}
	if got := r.pollDevice(t, code); got.status != http.StatusOK || got.member("jwt_token") == "" {
		t.Errorf("with its own: %d %s", got.status, got.body)
	}
	if got := r.pollDevice(t, code); got.status != http.StatusUnauthorized {
		t.Errorf("once more: %d %s", got.status, got.body)
	}
	// Its client reads a 401 and breaks at any other refusal, also where a flood is held back.
	waiting, _ := r.device(t)
	for range 1200 {
		if got := r.pollDevice(t, waiting); got.status != http.StatusUnauthorized || detailOf(got) != "User didn't log in" {
			t.Fatalf("while it waits: %d %s", got.status, got.body)
		}
	}
}

func TestLesson06ADeviceMayChangeItsAddress(t *testing.T) {
	r := startReplica(t, withHub)
	code, address := r.device(t) // from 127.0.0.1
	alice := r.signedIn(t, "alice")
	r.decide(t, alice, r.see(t, alice, "/device?user_code="+address[strings.LastIndexByte(address, '/')+1:]), "allow")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/auth/device/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Device-Code", code)
	response, err := clientAt("127.0.0.9").Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("from behind another address: %d", response.StatusCode)
	}
}

func TestLesson07AStrangersLinkGivesNothing(t *testing.T) {
	r := startReplica(t, withHub)
	code, address := r.device(t)
	alice := r.signedIn(t, "alice")
	got := r.see(t, alice, strings.TrimPrefix(address, r.url))
	if got.status != http.StatusFound {
		t.Fatalf("the link: %d %s", got.status, got.body)
	}
	asked := r.see(t, alice, got.header.Get("Location"))
	for _, text := range []string{"hub", "127.0.0.1", "allow", "deny"} {
		if !strings.Contains(asked.body, text) {
			t.Errorf("the page does not say %q", text)
		}
	}
	if got := r.pollDevice(t, code); got.status != http.StatusUnauthorized {
		t.Fatalf("one click on the link gave a token: %d", got.status)
	}
	r.decide(t, alice, asked, "deny")
	if got := r.pollDevice(t, code); got.status != http.StatusUnauthorized {
		t.Errorf("denied: %d %s", got.status, got.body)
	}
}

func TestLesson08NothingIsLostAtARestart(t *testing.T) {
	r := startReplica(t, withHub)
	device, address := r.device(t)
	code := r.authCodeOf(t, "alice", toHub).Get("code")
	login, ended := r.hubToken(t, "alice"), r.hubToken(t, "alice")
	key := decoded[keyMade](t, r.authAs(t, login, http.MethodPost, "/auth/user/keys", ""), http.StatusOK).Key.Key
	revoked := decoded[keyMade](t, r.authAs(t, login, http.MethodPost, "/auth/user/keys", ""), http.StatusOK).Key.Key
	r.authAs(t, login, http.MethodDelete, "/auth/user/keys", `{"last_five_chars": "`+revoked[len(revoked)-5:]+`"}`)
	r.authAs(t, ended, http.MethodPost, "/auth/logout", "")
	again := restarted(t, r)
	alice := again.signedIn(t, "alice")
	again.decide(t, alice, again.see(t, alice, "/device?user_code="+address[strings.LastIndexByte(address, '/')+1:]), "allow")
	for name, row := range map[string]struct {
		got  answer
		want int
	}{
		"the device":      {again.pollDevice(t, device), http.StatusOK},
		"the code":        {again.authRedeem(t, code, `, "client_redirect_uri": "`+hubCallback+`"`), http.StatusOK},
		"the login":       {again.authAs(t, login, http.MethodGet, "/auth/session", ""), http.StatusOK},
		"the key":         {again.authAs(t, key, http.MethodGet, "/auth/session", ""), http.StatusOK},
		"the ended login": {again.authAs(t, ended, http.MethodGet, "/auth/session", ""), http.StatusUnauthorized},
		"the revoked key": {again.authAs(t, revoked, http.MethodGet, "/auth/session", ""), http.StatusUnauthorized},
	} {
		if row.got.status != row.want {
			t.Errorf("%s after the restart: %d %s, want %d", name, row.got.status, row.got.body, row.want)
		}
	}
}

func TestLesson09KeysAreRevokedByTheirOwner(t *testing.T) {
	r := startReplica(t, withHub)
	alice, bob := r.hubToken(t, "alice"), r.hubToken(t, "bob")
	key := decoded[keyMade](t, r.authAs(t, alice, http.MethodPost, "/auth/user/keys", ""), http.StatusOK).Key.Key
	five := key[len(key)-5:]
	drop := func(token, five string) answer {
		return r.authAs(t, token, http.MethodDelete, "/auth/user/keys", `{"last_five_chars": "`+five+`"}`)
	}
	if got := drop(bob, five); got.status != http.StatusNotFound {
		t.Errorf("by another user: %d %s", got.status, got.body)
	}
	if got := drop(bob, alice[len(alice)-5:]); got.status != http.StatusNotFound {
		t.Errorf("another user's login by another user: %d %s", got.status, got.body)
	}
	if got := r.authAs(t, key, http.MethodGet, "/auth/session", ""); got.status != http.StatusOK {
		t.Fatalf("the key after that: %d %s", got.status, got.body)
	}
	if got := drop(key, five); got.status != http.StatusForbidden {
		t.Errorf("by the key: %d %s", got.status, got.body)
	}
	execSQLite(t, r, "UPDATE api_token_values SET suffix = '"+five+"'")
	second := decoded[keyMade](t, r.authAs(t, alice, http.MethodPost, "/auth/user/keys", ""), http.StatusOK).Key.Key
	execSQLite(t, r, "UPDATE api_token_values SET suffix = '"+five+"'")
	if got := drop(alice, five); got.status != http.StatusConflict {
		t.Errorf("where two of hers end so: %d %s", got.status, got.body)
	}
	execSQLite(t, r, "UPDATE api_token_values SET suffix = '"+second[len(second)-5:]+"' WHERE token_id = (SELECT id FROM api_tokens ORDER BY created_at DESC LIMIT 1)")
	if got := drop(alice, five); got.status != http.StatusAccepted || got.member("message") != "Key deleted successfully." {
		t.Errorf("by its owner: %d %s", got.status, got.body)
	}
	if got := r.authAs(t, key, http.MethodGet, "/auth/session", ""); got.status != http.StatusUnauthorized || detailOf(got) != "JWT has been revoked" {
		t.Errorf("the revoked key: %d %s", got.status, got.body)
	}
	if got := r.authAs(t, second, http.MethodGet, "/auth/session", ""); got.status != http.StatusOK {
		t.Errorf("the other key: %d %s", got.status, got.body)
	}
	if got := drop(alice, five); got.status != http.StatusAccepted {
		t.Errorf("once more: %d %s", got.status, got.body)
	}
}

func TestLesson10GroupsAreAskedForAtEachMint(t *testing.T) {
	r, hub := atGitHub(t, false, withHub)
	login := r.hubToken(t, "alice")
	if orgs := jwtClaims(t, login)["orgs"].([]any); !slices.Contains(orgs, any("databio")) {
		t.Fatalf("she is in %v", orgs)
	}
	hub.Change("alice", func(one *providertest.GitHubUser) { one.Organisations = []string{"pepkit"} })
	time.Sleep(1100 * time.Millisecond) // claims_max_age
	key := decoded[keyMade](t, r.authAs(t, login, http.MethodPost, "/auth/user/keys", ""), http.StatusOK).Key.Key
	fresh := r.worker(t, "/token/?audience=hub").member("token")
	for name, token := range map[string]string{"a key": key, "a login": r.hubToken(t, "alice"), "a worker's token": fresh} {
		if diff := cmp.Diff([]any{"pepkit"}, jwtClaims(t, token)["orgs"]); diff != "" {
			t.Errorf("%s, made after she left (-want +got):\n%s", name, diff)
		}
	}
}

func TestLesson11KeysMakeNoKeys(t *testing.T) {
	r := startReplica(t, withHub)
	login := r.hubToken(t, "alice")
	key := decoded[keyMade](t, r.authAs(t, login, http.MethodPost, "/auth/user/keys", ""), http.StatusOK).Key.Key
	forge := func(from string, change func(map[string]any)) string { // as who knows the secret can
		claims := jwtClaims(t, from)
		change(claims)
		return forged(t, claims)
	}
	long := float64(time.Now().Add(1000 * time.Hour).Unix())
	for name, token := range map[string]string{
		"a key":                            key,
		"a token of a worker":              r.worker(t, "/token/?audience=hub").member("token"),
		"a login without its jti":          forge(login, func(claims map[string]any) { claims["jti"] = "another" }),
		"a key that says it is of a login": forge(key, func(claims map[string]any) { claims["sid"] = jwtClaims(t, login)["sid"] }),
		"a login that was made up":         forge(login, func(claims map[string]any) { claims["sid"] = strings.Repeat("ab", 32) }),
	} {
		if got := r.authAs(t, token, http.MethodPost, "/auth/user/keys", ""); got.status != http.StatusUnauthorized && got.status != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	// Who forges the name of another user gets a key of the login's user at most.
	other := forge(login, func(claims map[string]any) { claims["login"], claims["sub"] = "bob", "another" })
	got := r.authAs(t, other, http.MethodPost, "/auth/user/keys", "")
	if made := decoded[keyMade](t, got, http.StatusOK).Key.Key; jwtClaims(t, made)["login"] != "alice" {
		t.Errorf("a forged name has a key: %v", jwtClaims(t, made))
	}
	// And a login that has ended makes none, however long a forged token says that it lives.
	r.authAs(t, login, http.MethodPost, "/auth/logout", "")
	if got := r.authAs(t, forge(login, func(claims map[string]any) { claims["exp"] = long }), http.MethodPost, "/auth/user/keys", ""); got.status != http.StatusUnauthorized {
		t.Errorf("an ended login, prolonged: %d %s", got.status, got.body)
	}
}

func TestLesson12EndedKeysDoNotCount(t *testing.T) {
	r := startReplica(t, withHub)
	login := r.hubToken(t, "alice")
	var last string
	for range 5 {
		last = decoded[keyMade](t, r.authAs(t, login, http.MethodPost, "/auth/user/keys", ""), http.StatusOK).Key.Key
	}
	if got := r.authAs(t, login, http.MethodPost, "/auth/user/keys", ""); got.status != http.StatusBadRequest || detailOf(got) != "You have reached the maximum number of keys allowed" {
		t.Fatalf("a sixth: %d %s", got.status, got.body)
	}
	r.authAs(t, login, http.MethodDelete, "/auth/user/keys", `{"last_five_chars": "`+last[len(last)-5:]+`"}`)
	if got := r.authAs(t, login, http.MethodPost, "/auth/user/keys", ""); got.status != http.StatusOK {
		t.Errorf("after one was revoked: %d %s", got.status, got.body)
	}
	r.later(t, "api_tokens", "expires_at", -31*24*time.Hour)
	if got := r.authAs(t, login, http.MethodPost, "/auth/user/keys", ""); got.status != http.StatusOK {
		t.Errorf("after all have run out: %d %s", got.status, got.body)
	}
}

func TestLesson13ListingChangesNothing(t *testing.T) {
	r := startReplica(t, withHub)
	login := r.hubToken(t, "alice")
	key := decoded[keyMade](t, r.authAs(t, login, http.MethodPost, "/auth/user/keys", ""), http.StatusOK).Key.Key
	first := r.authAs(t, login, http.MethodGet, "/auth/user/keys", "")
	for range 3 {
		if got := r.authAs(t, login, http.MethodGet, "/auth/user/keys", ""); got.body != first.body || strings.Contains(got.body, key) {
			t.Errorf("listed again: %s, first %s", got.body, first.body)
		}
	}
	if got := r.authAs(t, key, http.MethodGet, "/auth/session", ""); got.status != http.StatusOK {
		t.Errorf("the key after it was listed: %d %s", got.status, got.body)
	}
	if page := r.see(t, r.signedIn(t, "alice"), "/tokens"); !strings.Contains(page.body, "Developer key") || strings.Contains(page.body, key) {
		t.Error("the page does not list the key, or shows it")
	}
}

func TestLesson14LogoutEndsTheLogin(t *testing.T) {
	for name, change := range map[string]func(*config.Config){"HS256": func(*config.Config) {}, "ES256": signedByWTS} {
		t.Run(name, func(t *testing.T) {
			r := startReplica(t, withHub, change)
			login, other := r.hubToken(t, "alice"), r.hubToken(t, "alice")
			if got := r.authAs(t, login, http.MethodPost, "/auth/logout", ""); got.status != http.StatusOK {
				t.Fatalf("%d %s", got.status, got.body)
			}
			for path, method := range map[string]string{"/auth/session": http.MethodGet, "/auth/renew": http.MethodPost, "/auth/user/keys": http.MethodPost, "/auth/logout": http.MethodPost} {
				if got := r.authAs(t, login, method, path, ""); got.status != http.StatusUnauthorized || detailOf(got) != "JWT has been revoked" {
					t.Errorf("%s after the logout: %d %s", path, got.status, got.body)
				}
			}
			if got := r.authAs(t, other, http.MethodGet, "/auth/session", ""); got.status != http.StatusOK {
				t.Errorf("the other login: %d %s", got.status, got.body)
			}
			// The page of sessions shows the login that goes on, and ends it.
			alice := r.signedIn(t, "alice")
			shown := r.see(t, alice, "/sessions")
			if !strings.Contains(shown.body, "hub") {
				t.Errorf("the page of sessions does not name the hub:\n%s", shown.body)
			}
			r.submit(t, alice, "/sessions/end", "which", "all")
			r.sendJSON(t, alice, http.MethodDelete, "/api/v1/sessions", "", "Sec-Fetch-Site", "same-origin")
			if got := r.authAs(t, other, http.MethodGet, "/auth/session", ""); got.status != http.StatusUnauthorized {
				t.Errorf("after all sessions were ended: %d %s", got.status, got.body)
			}
		})
	}
}
