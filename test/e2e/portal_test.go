//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
)

// portalPage does what Gen3's portal does (docs/gen3-contract.md 1.1): it links anew where /oauth2/connected says 403, lists
// the providers, and connects one in a window of its own, which it closes as soon as that is back at this host without
// "auth" in its address.
const portalPage = `<!doctype html><html lang="en"><title>The portal</title><h1>The portal</h1>
<p id="state">asking</p><p id="result">nothing yet</p><ul id="providers"></ul>
<script>
(async () => {
  const connected = await fetch('/wts/oauth2/connected');
  if (connected.status === 403) {
    location.href = '/wts/oauth2//authorization_url?redirect=' + location.pathname;
    return;
  }
  document.getElementById('state').textContent = connected.status === 200 ? 'connected' : 'failed ' + connected.status;
  for (const provider of (await (await fetch('/wts/external_oidc/')).json()).providers || []) {
    const item = document.createElement('li');
    const button = document.createElement('button');
    button.textContent = 'Link ' + provider.name;
    button.onclick = () => {
      const popup = window.open(provider.urls[0].url + '&redirect=' + location.pathname, 'login', 'width=800,height=600');
      const watch = setInterval(() => {
        let at = '';
        try { at = popup.location.href; } catch (elsewhere) { return; }
        if (!at.startsWith(location.origin) || at.includes('auth')) return;
        clearInterval(watch);
        popup.close();
        document.getElementById('result').textContent = at.includes('error=401') ? 'login_error' : 'linked';
      }, 500);
    };
    item.append(button, ' ', provider.refresh_token_expiration ? 'expires in ' + provider.refresh_token_expiration : 'not linked');
    document.getElementById('providers').append(item);
  }
})();
</script></html>`

// Gen3's portal works with the pages as it did with the Python service: it links by itself, and its window closes, also
// where a login fails.
func TestGen3PortalInABrowser(t *testing.T) {
	t.Parallel()
	port := instance.FreePort(t)
	public := revproxy(t, port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(portalPage))
	}))
	fence, other := startFence(t, "127.0.0.1:0", public), startFence(t, "127.0.0.3:0", public)
	startBehindThePortal(t, port, public, fence, other)
	at, err := url.Parse(public)
	if err != nil {
		t.Fatal(err)
	}
	portal := "http://" + at.Host + "/workspace"
	alice := startBrowser(t).person(t, "alice", way{})
	alice.do("cookie", with{"name": "access_token", "value": fence.AccessToken("alice", nil), "url": portal}, nil)
	alice.open(portal)
	alice.do("see", with{"role": "button", "name": "Log in"}, nil) // the portal has led to Fence
	alice.atFence("alice")
	alice.do("until", with{"text": "connected"}, nil)
	alice.do("until", with{"text": "not linked"}, nil)
	for _, step := range []struct {
		account, comesTo string
		fault            *providertest.Fault
	}{
		{"alice", "linked", nil},
		{"bob", "login_error", nil}, // the page asks which account to keep
		{"alice", "login_error", &providertest.Fault{Times: 1, Status: http.StatusInternalServerError, Body: "out of order"}},
		{"alice", "linked", nil},
	} {
		other.Fail(step.fault)
		alice.open(portal)
		alice.linksInAWindow("Other Commons", step.account)
		alice.do("until", with{"text": step.comesTo, "at": "#result"}, nil)
	}
	alice.open(portal)
	alice.do("until", with{"text": "expires in 29 days"}, nil)
}

// startBehindThePortal starts wts with the Fence of the portal and that of another commons.
func startBehindThePortal(t *testing.T, port int, public string, fence, other *providertest.Fence) {
	t.Helper()
	wts := instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:wts.db"}
keyring_file: %s
default_provider: fence
providers:
  fence: {type: fence, base_url: "%s", client_id: wts, client_secret: end-to-end, callback: shared}
  other: {type: fence, name: Other Commons, base_url: "%s", client_id: wts, client_secret: end-to-end, callback: shared}
`, public, port, instance.NewKeyring(t), fence.BaseURL, other.BaseURL))
	wts.AwaitReady(t)
}

// startFence starts a Fence that knows two people, until the test ends.
func startFence(t *testing.T, address, public string) *providertest.Fence {
	t.Helper()
	fence, err := providertest.StartFence(providertest.FenceOptions{Address: address, Users: []providertest.User{
		{Subject: "7", Name: "alice", Password: "any"}, {Subject: "8", Name: "bob", Password: "any"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fence.Close() })
	fence.Register(providertest.Client{ID: "wts", Secret: "end-to-end", RedirectURI: public + "/oauth2/authorize"})
	return fence
}

// atFence logs in there.
func (p *person) atFence(name string) {
	p.t.Helper()
	p.fill("Name", name)
	p.fill("Password", "any")
	p.do("tap", with{"role": "button", "name": "Log in"}, nil)
}

// linksInAWindow has the portal connect a provider, in a window that it closes itself.
func (p *person) linksInAWindow(provider, account string) {
	p.t.Helper()
	p.do("tap", with{"role": "button", "name": "Link " + provider}, nil)
	p.do("within", with{}, nil)
	p.atFence(account)
	p.do("without", with{}, nil)
}
