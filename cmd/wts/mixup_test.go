package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// thief is a hostile authorization server that is configured as a provider (RFC 9700 4.4.1). Whom a login
// at it is sent to, it sends on to the honest provider, with a nonce and a code challenge of the attacker's
// and the state of the victim's login; what its token endpoint gets, it keeps.
type thief struct {
	*httptest.Server
	honest, callback string

	mu    sync.Mutex
	codes []string
}

func startThief(t *testing.T) *thief {
	t.Helper()
	th := &thief{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": th.URL, "authorization_endpoint": th.URL + "/authorize", "token_endpoint": th.URL + "/token", "jwks_uri": th.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		on := url.Values{
			"response_type": {"code"}, "client_id": {"wts"}, "redirect_uri": {th.callback}, "scope": {"openid profile"},
			"state": {r.URL.Query().Get("state")}, "nonce": {"the-attacker's"}, "code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
		}
		http.Redirect(w, r, th.honest+"?"+on.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		th.mu.Lock()
		defer th.mu.Unlock()
		th.codes = append(th.codes, r.PostFormValue("code"))
		http.Error(w, "{}", http.StatusBadRequest)
	})
	th.Server = httptest.NewServer(mux)
	t.Cleanup(th.Close)
	return th
}

// stolen is how many codes the token endpoint got.
func (th *thief) stolen() int {
	th.mu.Lock()
	defer th.mu.Unlock()
	return len(th.codes)
}

// Rule A3: two hostile authorization servers, one with an issuer and one that is configured by its endpoints
// alone, try to get a code of the default provider's. With a callback for each provider they get none; with
// one that is shared they get none where the honest provider says whose the code is. Where it does not say
// so, nothing can tell, and check-config has named the providers.
func TestMixUp(t *testing.T) {
	for name, row := range map[string]struct {
		callback string // of the hostile providers
		iss      bool   // the honest provider's callbacks carry iss
		stolen   int    // codes that reach each thief, where nothing can tell
	}{
		"callbacks of their own":                            {},
		"callbacks of their own, and iss":                   {iss: true},
		"a shared callback, and iss":                        {callback: provider.CallbackShared, iss: true},
		"a shared callback without iss: check-config warns": {callback: provider.CallbackShared, stolen: 1},
	} {
		t.Run(name, func(t *testing.T) {
			evil, plain := startThief(t), startThief(t)
			var settings config.Config
			r := startReplica(t, func(c *config.Config) {
				c.Providers["evil"] = provider.Config{Issuer: evil.URL, ClientID: "wts", ClientSecret: "s", Callback: row.callback}
				c.Providers["plain"] = provider.Config{AuthURL: plain.URL + "/authorize", TokenURL: plain.URL + "/token", ClientID: "wts", ClientSecret: "s", Callback: row.callback}
				settings = *c
			})
			for _, one := range []*thief{evil, plain} {
				one.honest, one.callback = r.first.Issuer+"/authorize", r.url+"/oauth2/authorize"
			}
			victim := providertest.Browser()
			r.logIn(t, victim, "/oauth2/authorization_url", "alice")
			for id, one := range map[string]*thief{"evil": evil, "plain": plain} {
				t.Run(id, func(t *testing.T) {
					back := r.callback(t, victim, "/oauth2/authorization_url?idp="+id)
					if back.Query().Get("code") == "" {
						t.Fatalf("the honest provider gave no code: %s", back)
					}
					query := back.Query()
					query.Del("iss")
					if row.iss {
						query.Set("iss", r.first.Issuer)
					}
					back.RawQuery = query.Encode()
					if page, err := providertest.Open(t.Context(), victim, back.String()); err != nil || page.Status < 400 {
						t.Errorf("the callback answers %d, %v", page.Status, err)
					}
					if got := one.stolen(); got != row.stolen {
						t.Errorf("%d codes reached the hostile token endpoint, want %d", got, row.stolen)
					}
				})
			}
			warned := slices.ContainsFunc(settings.CheckCallbacks(), func(line string) bool { return strings.Contains(line, "evil, first, plain") })
			if shared := row.callback == provider.CallbackShared; warned != shared {
				t.Errorf("check-config says %q", settings.CheckCallbacks())
			}
		})
	}
}

// A thief cannot choose the callback of another provider either: each is good for its own logins alone.
func TestCallbackOfAnotherProvider(t *testing.T) {
	r := startReplica(t)
	browser := providertest.Browser()
	r.logIn(t, browser, "/oauth2/authorization_url", "alice")
	for name, row := range map[string]struct{ begin, callback string }{
		"the default provider's login, at a provider's own callback": {"/oauth2/authorization_url", "/oauth2/authorize/second"},
		"a provider's login, at the shared callback":                 {"/oauth2/authorization_url?idp=second", "/oauth2/authorize"},
		"a provider's login, at a callback without a provider":       {"/oauth2/authorization_url?idp=second", "/oauth2/authorize/third"},
	} {
		t.Run(name, func(t *testing.T) {
			back := r.callback(t, browser, row.begin)
			back.Path = row.callback
			page, err := providertest.Open(t.Context(), browser, back.String())
			if err != nil || page.Status != http.StatusForbidden || page.URL.Path != "/failed" || !strings.Contains(page.Body, "took too long, or was opened twice") {
				t.Errorf("answered %d %s, %v", page.Status, page.Body, err)
			}
		})
	}
}
