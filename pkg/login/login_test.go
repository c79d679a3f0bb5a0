package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/workspace-token-service/wts/api"
)

// A login is kept by one address of a service, which is encrypted or on this machine.
func TestAddress(t *testing.T) {
	for text, want := range map[string]string{
		"https://wts.example.org": "https://wts.example.org", "https://WTS.example.org/": "https://wts.example.org", "https://wts.example.org:8443/wts/": "https://wts.example.org:8443/wts",
		"http://localhost:8080": "http://localhost:8080", "http://127.0.0.1:1": "http://127.0.0.1:1", "http://[::1]:1": "http://[::1]:1",
		"": "", "wts.example.org": "", "http://wts.example.org": "", "http://localhost.example.org": "", "http://127.0.0.1.example.org": "", "ftp://localhost": "",
		"https://alice@wts.example.org": "", "https://wts.example.org?x": "", "https://wts.example.org#x": "", "https://": "", "https://wts.example.org/%zz": "", "http://localhost@wts.example.org": "",
	} {
		t.Run(text, func(t *testing.T) {
			if got, err := Address(text); got != want || (err == nil) != (want != "") {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
}

// noRing is a system without a keyring.
type noRing struct{}

func (noRing) get(string) (Secrets, error) { return Secrets{}, errors.New("no keyring") }
func (noRing) set(string, Secrets) error   { return errors.New("no keyring") }
func (noRing) delete(string)               {}

// newFake is a service whose token endpoint answers as it is told.
func newFake(t *testing.T, answer func(w http.ResponseWriter, form map[string]string)) Service {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := "http://" + r.Host
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/oauth-authorization-server":
			_ = json.NewEncoder(w).Encode(Service{
				Issuer: own, Scopes: []string{"api", "token", "provider:main"}, Auth: own + "/oauth2/auth", Device: own + "/oauth2/device_authorization", Token: own + "/oauth2/token", Revoke: own + "/oauth2/revoke",
			})
		case "/oauth2/device_authorization":
			fmt.Fprintf(w, `{"device_code":"d","user_code":"ABCD-EFGH","verification_uri":"%s/device","verification_uri_complete":"%s/device?user_code=ABCD-EFGH","expires_in":600,"interval":1}`, own, own)
		default:
			_ = r.ParseForm()
			form := map[string]string{}
			for name := range r.PostForm {
				form[name] = r.PostForm.Get(name)
			}
			answer(w, form)
		}
	}))
	t.Cleanup(server.Close)
	service, err := Discover(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return service
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":%q,"error_description":"because"}`, code)
}

// A device goes on asking through an outage, more slowly when it is told to, and ends with what its person said.
func TestADeviceWaits(t *testing.T) {
	const granted = `{"access_token":"a","token_type":"Bearer","expires_in":600,"refresh_token":"r","scope":"api token"}`
	for name, row := range map[string]struct {
		answers []string // codes of errors; the last one is repeated
		want    error
	}{
		"at once":               {[]string{granted}, nil},
		"pending, then allowed": {[]string{"authorization_pending", granted}, nil},
		"an outage between":     {[]string{"authorization_pending", "503", granted}, nil},
		"denied":                {[]string{"access_denied"}, ErrDenied},
		"too late":              {[]string{"expired_token"}, ErrTooLate},
		"not known any more":    {[]string{"invalid_grant"}, ErrTooLate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			service := newFake(t, func(w http.ResponseWriter, form map[string]string) {
				answer := row.answers[min(int(asked.Add(1))-1, len(row.answers)-1)]
				switch {
				case form["device_code"] != "d" || form["client_id"] != Client:
					refuse(w, http.StatusBadRequest, "invalid_request")
				case answer == granted:
					fmt.Fprint(w, granted)
				case answer == "503":
					refuse(w, http.StatusServiceUnavailable, "temporarily_unavailable")
				default:
					refuse(w, http.StatusBadRequest, answer)
				}
			})
			var shown Code
			made, err := service.ByDevice(t.Context(), service.Usual(), func(code Code) { shown = code })
			if !errors.Is(err, row.want) || shown.UserCode != "ABCD-EFGH" || int(asked.Load()) != len(row.answers) {
				t.Errorf("got %+v, %v after %d questions, and %+v was shown", made, err, asked.Load(), shown)
			}
			if row.want == nil && (made.Secrets.RefreshToken != "r" || !cmp.Equal(made.Scopes, []string{"api", "token"}) || made.URL != service.address) {
				t.Errorf("got %+v", made)
			}
		})
	}
	t.Run("a person who gives up", func(t *testing.T) {
		service := newFake(t, func(w http.ResponseWriter, _ map[string]string) {
			refuse(w, http.StatusBadRequest, "authorization_pending")
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := service.ByDevice(ctx, nil, func(Code) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// A question that takes too long is an outage, and no end of the code.
func TestASlowAnswerEndsNoDevice(t *testing.T) {
	former := client.Timeout
	client.Timeout = 200 * time.Millisecond
	defer func() { client.Timeout = former }()
	var asked atomic.Int32
	service := newFake(t, func(w http.ResponseWriter, _ map[string]string) {
		if asked.Add(1) == 1 {
			time.Sleep(400 * time.Millisecond)
			return
		}
		fmt.Fprint(w, `{"access_token":"a","token_type":"Bearer","expires_in":600,"refresh_token":"r"}`)
	})
	if made, err := service.ByDevice(t.Context(), nil, func(Code) {}); err != nil || made.Secrets.RefreshToken != "r" {
		t.Errorf("got %+v, %v", made, err)
	}
}

// A program that opens a browser until that is closed keeps nothing from going on, and one who gives up is heard.
func TestABrowserThatIsNotClosed(t *testing.T) {
	service := newFake(t, func(w http.ResponseWriter, _ map[string]string) {
		fmt.Fprint(w, `{"access_token":"a","token_type":"Bearer","expires_in":600,"refresh_token":"r"}`)
	})
	closed := make(chan struct{})
	defer close(closed)
	answers := func(address string) error {
		sent, err := url.Parse(address)
		if err != nil {
			return err
		}
		query := sent.Query()
		go func() {
			back := query.Get("redirect_uri") + "?" + url.Values{"code": {"c"}, "state": {query.Get("state")}, "iss": {service.Issuer}}.Encode()
			if response, err := http.Get(back); err == nil {
				_ = response.Body.Close()
			}
		}()
		<-closed
		return nil
	}
	if made, err := service.ByBrowser(t.Context(), nil, answers); err != nil || made.Secrets.RefreshToken != "r" {
		t.Errorf("got %+v, %v", made, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := service.ByBrowser(ctx, nil, func(string) error { <-closed; return nil }); err == nil {
		t.Error("one who gives up is not heard")
	}
	if _, err := service.ByBrowser(t.Context(), nil, func(string) error { return ErrNone }); !errors.Is(err, ErrNone) {
		t.Errorf("no browser: %v", err)
	}
}

// expired is a store with a login whose access token has ended.
func expired(t *testing.T, service Service) *Store {
	t.Helper()
	store := &Store{filepath.Join(t.TempDir(), "wts"), noRing{}}
	if inKeyring, err := store.Keep(t.Context(), Login{URL: service.address, Username: "alice", Secrets: Secrets{RefreshToken: "r0", AccessToken: "a0", ExpiresAt: time.Now().Add(time.Second)}}); err != nil || inKeyring {
		t.Fatalf("%t, %v", inKeyring, err)
	}
	return store
}

// A refresh token is used once, by however many programs at the same time; what comes of it is kept before any of them has
// it, also where the caller has gone away meanwhile.
func TestARefreshTokenIsUsedOnce(t *testing.T) {
	var mu sync.Mutex
	used, room := map[string]int{}, func() int64 { return 0 }
	service := newFake(t, func(w http.ResponseWriter, form map[string]string) {
		time.Sleep(50 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if got := room(); got < maxGrowth {
			t.Errorf("the token is spent with room for %d bytes of what comes of it", got)
		}
		used[form["refresh_token"]]++
		fmt.Fprintf(w, `{"access_token":"a%d","token_type":"Bearer","expires_in":600,"refresh_token":"r%d"}`, len(used), len(used))
	})
	store := expired(t, service)
	room = func() int64 {
		found, _ := filepath.Glob(filepath.Join(store.dir, ".login.json.*"))
		size := int64(0)
		for _, name := range found {
			if info, err := os.Stat(name); err == nil {
				size = info.Size()
			}
		}
		return size
	}
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			another := &Store{store.dir, noRing{}} // as another process has it
			if token, err := another.Token(t.Context(), service.address); err != nil || token != "a1" {
				t.Errorf("got %q, %v", token, err)
			}
		})
	}
	all.Wait()
	if diff := cmp.Diff(map[string]int{"r0": 1}, used); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	login, err := store.Find(service.address)
	if err != nil || login.Secrets.RefreshToken != "r1" {
		t.Fatalf("got %+v, %v", login, err)
	}
	login.Secrets.ExpiresAt = time.Now()
	if _, err := store.Keep(t.Context(), login); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // shorter than the answer takes
	defer cancel()
	_, _ = store.Token(ctx, service.address)
	if login, err := store.Find(service.address); err != nil || login.Secrets.RefreshToken != "r2" {
		t.Errorf("after a caller that went away: %+v, %v; want what came of its refresh", login, err)
	}
	if left, _ := filepath.Glob(filepath.Join(store.dir, ".login.json.*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// What goes wrong with a refresh ends the login where the service says so, and nowhere else.
func TestWhatEndsALogin(t *testing.T) {
	for name, row := range map[string]struct {
		status int
		code   string
		ended  bool
	}{
		"ended":              {http.StatusBadRequest, "invalid_grant", true},
		"an outage":          {http.StatusServiceUnavailable, "temporarily_unavailable", false},
		"too many":           {http.StatusTooManyRequests, "slow_down", false},
		"another client":     {http.StatusUnauthorized, "invalid_client", false},
		"a proxy's own page": {http.StatusBadGateway, "<html>secret of the proxy", false},
	} {
		t.Run(name, func(t *testing.T) {
			service := newFake(t, func(w http.ResponseWriter, _ map[string]string) { refuse(w, row.status, row.code) })
			store := expired(t, service)
			_, err := store.Token(t.Context(), service.address)
			if errors.Is(err, ErrEnded) != row.ended || err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v", err)
			}
			var answered *api.Error
			if !row.ended && (!errors.As(err, &answered) || answered.Status != row.status) {
				t.Errorf("got %v, want what the service answered", err)
			}
			if _, err := store.Find(service.address); errors.Is(err, ErrNone) != row.ended {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// The service that was named is asked, and no other: no redirect is followed, and one that is called otherwise is refused.
func TestAnotherServiceGetsNothing(t *testing.T) {
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer other.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"sent on": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		},
		"called otherwise": func(w http.ResponseWriter, r *http.Request) {
			own := "http://" + r.Host
			_ = json.NewEncoder(w).Encode(Service{Issuer: other.URL, Auth: own, Device: own, Token: own, Revoke: own})
		},
		"no wts":    func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"not there": http.NotFound,
		"a token endpoint elsewhere": func(w http.ResponseWriter, r *http.Request) {
			own := "http://" + r.Host
			_ = json.NewEncoder(w).Encode(Service{Issuer: own, Auth: own, Device: own, Token: other.URL, Revoke: own})
		},
		"a file in the browser's place": func(w http.ResponseWriter, r *http.Request) {
			own := "http://" + r.Host
			_ = json.NewEncoder(w).Encode(Service{Issuer: own, Auth: "file:///etc/passwd", Device: own, Token: own, Revoke: own})
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer)
			defer server.Close()
			if found, err := Discover(t.Context(), server.URL); err == nil {
				t.Errorf("got %+v", found)
			}
		})
	}
	service := newFake(t, func(w http.ResponseWriter, _ map[string]string) {
		w.Header().Set("Location", other.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	if _, err := expired(t, service).Token(t.Context(), service.address); err == nil || errors.Is(err, ErrEnded) {
		t.Errorf("a token endpoint that sends on: %v", err)
	}
	if asked.Load() > 0 {
		t.Errorf("another service was asked %d times", asked.Load())
	}
}

// What is kept is the person's alone, and one file that cannot be read is said to be so, and not replaced.
func TestWhatIsKept(t *testing.T) {
	service := newFake(t, func(http.ResponseWriter, map[string]string) {})
	store := expired(t, service)
	if runtime.GOOS != "windows" {
		for name, want := range map[string]os.FileMode{"": 0o700, "login.json": 0o600, "login.lock": 0o600} {
			if info, err := os.Stat(filepath.Join(store.dir, name)); err != nil || info.Mode().Perm() != want {
				t.Errorf("%q has %v, %v; want %v", name, info.Mode(), err, want)
			}
		}
	}
	second := Login{URL: "https://second.example.org", Secrets: Secrets{RefreshToken: "s"}}
	if _, err := store.Keep(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if current, err := store.Current(); err != nil || current != second.URL {
		t.Errorf("the current one is %q, %v", current, err)
	}
	if err := store.Forget(t.Context(), second.URL); err != nil {
		t.Fatal(err)
	}
	if current, err := store.Current(); err != nil || current != service.address {
		t.Errorf("after that one was forgotten: %q, %v", current, err)
	}
	if err := os.WriteFile(store.file(), []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Keep(t.Context(), second); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("a file that cannot be read: %v", err)
	}
	if text, _ := os.ReadFile(store.file()); string(text) != "{torn" {
		t.Errorf("it was replaced by %s", text)
	}
}
