package providertest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// GitHub answers as GitHub's documentation says, at an address that is an own server's: an OAuth app, or with Expiring a
// GitHub App, whose tokens end and are refreshed.
type GitHub struct {
	BaseURL string

	http     *http.Server
	expiring bool

	mu      sync.Mutex
	clients map[string]Client
	people  map[string]*GitHubUser // by login
	asked   map[string]url.Values  // authorization requests, by the id that the login page carries
	codes   map[string]githubCode
	tokens  map[string]string // access tokens, and whose they are
	refresh map[string]string
	limited bool
	calls   map[string]int // of the API, by path
}

// GitHubUser is a person there.
type GitHubUser struct {
	ID            int64
	Login, Name   string
	Organisations []string
}

type githubCode struct{ login, challenge, client, redirect string }

// StartGitHub starts one.
func StartGitHub(expiring bool, people ...GitHubUser) (*GitHub, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting a GitHub: %w", err)
	}
	g := &GitHub{
		BaseURL: "http://" + listener.Addr().String(), expiring: expiring, clients: map[string]Client{}, people: map[string]*GitHubUser{}, asked: map[string]url.Values{},
		codes: map[string]githubCode{}, tokens: map[string]string{}, refresh: map[string]string{}, calls: map[string]int{},
	}
	for _, one := range people {
		g.people[strings.ToLower(one.Login)] = &one
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login/oauth/authorize", g.authorize)
	mux.HandleFunc("GET /login", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /login", g.logIn)
	mux.HandleFunc("POST /login/oauth/access_token", g.token)
	mux.HandleFunc("GET /api/v3/user", g.user)
	mux.HandleFunc("GET /api/v3/user/orgs", g.organisations)
	g.http = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = g.http.Serve(listener) }()
	return g, nil
}

// Close ends it.
func (g *GitHub) Close() error { return g.http.Close() }

// Register makes a client known.
func (g *GitHub) Register(client Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.clients[client.ID] = client
}

// Revoke ends all tokens of a person, as they do in their settings.
func (g *GitHub) Revoke(login string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, tokens := range []map[string]string{g.tokens, g.refresh} {
		for token, of := range tokens {
			if of == login {
				delete(tokens, token)
			}
		}
	}
}

// Change changes a person.
func (g *GitHub) Change(login string, change func(*GitHubUser)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g.people[login])
}

// Limit has the API say that the rate is used up.
func (g *GitHub) Limit(limited bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limited = limited
}

// Calls is how often a path of the API was asked.
func (g *GitHub) Calls(path string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls[path]
}

func (g *GitHub) authorize(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	query := r.URL.Query()
	client, known := g.clients[query.Get("client_id")]
	if !known || query.Get("redirect_uri") != client.RedirectURI {
		w.WriteHeader(http.StatusNotFound) // as GitHub shows a page of its own
		return
	}
	id := rand.Text()
	g.asked[id] = query
	http.Redirect(w, r, "/login?request="+id, http.StatusFound)
}

func (g *GitHub) logIn(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	query, login := g.asked[r.PostFormValue("request")], strings.ToLower(r.PostFormValue("name"))
	back, err := url.Parse(query.Get("redirect_uri"))
	if g.people[login] == nil || err != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	code := rand.Text()
	g.codes[code] = githubCode{login, query.Get("code_challenge"), query.Get("client_id"), query.Get("redirect_uri")}
	back.RawQuery = url.Values{"code": {code}, "state": {query.Get("state")}}.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// token answers 200 to everything, with an error in the body where there is one, and as a form unless JSON is asked for.
func (g *GitHub) token(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	refuse := func(code string) {
		g.say(w, r, map[string]any{"error": code, "error_description": "The request failed."})
	}
	client, known := g.clients[r.PostFormValue("client_id")]
	if !known || client.Secret != r.PostFormValue("client_secret") {
		refuse("incorrect_client_credentials")
		return
	}
	var login string
	if r.PostFormValue("grant_type") == "refresh_token" {
		if login = g.refresh[r.PostFormValue("refresh_token")]; login == "" {
			refuse("bad_refresh_token")
			return
		}
		delete(g.refresh, r.PostFormValue("refresh_token"))
	} else {
		code, good := g.codes[r.PostFormValue("code")]
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if !good || code.client != client.ID || code.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
			refuse("bad_verification_code")
			return
		}
		delete(g.codes, r.PostFormValue("code"))
		login = code.login
	}
	access := "gho_" + rand.Text()
	g.tokens[access] = login
	body := map[string]any{"access_token": access, "scope": "read:org", "token_type": "bearer"}
	if g.expiring {
		fresh := "ghr_" + rand.Text()
		g.refresh[fresh] = login
		body["expires_in"], body["refresh_token"], body["refresh_token_expires_in"] = 28800, fresh, 15897600
	}
	g.say(w, r, body)
}

func (g *GitHub) say(w http.ResponseWriter, r *http.Request, body map[string]any) {
	if !strings.Contains(r.Header.Get("Accept"), "json") {
		form := url.Values{}
		for name, value := range body {
			form.Set(name, fmt.Sprint(value))
		}
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		_, _ = w.Write([]byte(form.Encode()))
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(body)
}

// caller is the person of the token with which the API was asked; it answers a request that has none.
func (g *GitHub) caller(w http.ResponseWriter, r *http.Request) *GitHubUser {
	g.calls[r.URL.Path]++
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case r.Header.Get("User-Agent") == "":
		w.WriteHeader(http.StatusForbidden)
		return nil
	case g.limited:
		w.Header().Set("X-Ratelimit-Remaining", "0")
		w.Header().Set("X-Ratelimit-Reset", strconv.FormatInt(time.Now().Add(90*time.Second).Unix(), 10))
		w.WriteHeader(http.StatusForbidden)
		return nil
	case g.tokens[token] == "":
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"message":"Bad credentials"}`))
		return nil
	}
	return g.people[g.tokens[token]]
}

func (g *GitHub) user(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if who := g.caller(w, r); who != nil {
		_ = json.NewEncoder(w).Encode(map[string]any{"login": who.Login, "id": who.ID, "name": who.Name, "email": nil, "type": "User"})
	}
}

// organisations are told two a page.
func (g *GitHub) organisations(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	who := g.caller(w, r)
	if who == nil {
		return
	}
	const size = 2
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	first := min(max(page-1, 0)*size, len(who.Organisations))
	last := min(first+size, len(who.Organisations))
	if last < len(who.Organisations) {
		w.Header().Set("Link", fmt.Sprintf(`<%s/api/v3/user/orgs?per_page=50&page=%d>; rel="next", <%s/api/v3/user/orgs?page=9>; rel="last"`, g.BaseURL, max(page, 1)+1, g.BaseURL))
	}
	all := []map[string]any{}
	for _, name := range who.Organisations[first:last] {
		all = append(all, map[string]any{"login": name, "id": 1})
	}
	_ = json.NewEncoder(w).Encode(all)
}
