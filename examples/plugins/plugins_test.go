package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/instance"
)

// An upload is answered as the QGIS project's site answers, in each case that has an answer of its own.
func TestUploads(t *testing.T) {
	h := startHouse(t)
	made := h.make(t, h.signedIn(t, "bob"), tokensOfOne, `{"name": "ci", "description": "of the releases", "scopes": ["upload"]}`)
	good := plugin(t, "one", "0.1")
	got := h.post(t, addToOne, made.Token, good)
	for member, want := range map[string]any{
		"success": true, "version": "0.1", "plugin_id": "one", "version_id": 1.0, "validation_status": "validated", "approved": false,
		"scan_url": "/plugins/one/version/0.1/json", "uploaded_by": "token of the releases",
	} {
		if got.member(member) != want {
			t.Errorf("%s is %v, want %v", member, got.member(member), want)
		}
	}
	if got.status != http.StatusCreated || got.member("message") == "" {
		t.Errorf("got %d %s; want 201 with a message", got.status, got.text)
	}
	for name, row := range map[string]struct {
		field   string
		archive []byte
		says    string
	}{
		"a version again":              {"package", good, "0.1 is there already"},
		"no package":                   {"file", good, "in the field package"},
		"no zip":                       {"package", []byte("PK, and no zip"), "no zip"},
		"an empty zip":                 {"package", zipped(t), "no zip"},
		"another plugin's folder":      {"package", plugin(t, "other", "0.2"), "with the name of the package, one"},
		"a second folder":              {"package", zipped(t, "one/metadata.txt", "name=n\nversion=0.2", "two/x", ""), "with the name of the package, one"},
		"an entry that leads out":      {"package", zipped(t, "one/metadata.txt", "name=n\nversion=0.2", "one/../../x", ""), "leads out"},
		"an entry of another system":   {"package", zipped(t, "one/metadata.txt", "name=n\nversion=0.2", `one\..\x`, ""), "leads out"},
		"no metadata.txt":              {"package", zipped(t, "one/__init__.py", ""), "metadata.txt is missing"},
		"neither a name nor a version": {"package", zipped(t, "one/metadata.txt", "[general]\n"), "no name="},
		"a version with a path in it":  {"package", zipped(t, "one/metadata.txt", "name=n\nversion=../../x"), "no version="},
		"metadata without an end":      {"package", zipped(t, "one/metadata.txt", "name=n\nversion=0.2\n"+strings.Repeat("x", maxMetadata)), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			got := h.postField(t, addToOne, made.Token, row.field, row.archive)
			if got.status != http.StatusBadRequest || got.member("success") != false || got.member("error") == "" || got.member("errors") == nil || !strings.Contains(got.text, row.says) {
				t.Errorf("got %d %s; want 400 with errors, %s", got.status, got.text, row.says)
			}
		})
	}
	t.Run("no form", func(t *testing.T) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.site+addToOne, bytes.NewReader(good))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+made.Token)
		if got := send(t, http.DefaultClient, request); got.status != http.StatusBadRequest {
			t.Errorf("got %d %s; want 400", got.status, got.text)
		}
	})
	t.Run("more than is taken", func(t *testing.T) {
		if got := h.post(t, addToOne, made.Token, make([]byte, maxArchive+1)); got.status != http.StatusBadRequest || !strings.Contains(got.text, "larger than 25 MiB") {
			t.Errorf("got %d %s; want 400", got.status, got.text)
		}
	})
	t.Run("a slow client whose token is bad", func(t *testing.T) {
		connection, err := net.Dial("tcp", strings.TrimPrefix(h.site, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		chunk := make([]byte, 1<<20)
		fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: site\r\nAuthorization: Bearer wtsr_none\r\nContent-Length: %d\r\n\r\n", addToOne, 10*len(chunk))
		for i := range 10 { // a client sends all of it before it reads
			if _, err := connection.Write(chunk); err != nil {
				t.Fatalf("after %d MiB: %v; want the answer, and not a closed connection", i, err)
			}
			time.Sleep(150 * time.Millisecond)
		}
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil || response.StatusCode != http.StatusForbidden {
			t.Errorf("got %+v, %v; want 403", response, err)
		}
	})
	if got := h.post(t, "/plugins/api/none/version/add/", made.Token, good); got.status != http.StatusNotFound {
		t.Errorf("a plugin that is not there: got %d %s; want 404", got.status, got.text)
	}
	if got := h.numbers(t, "one"); !slices.Equal(got, []string{"0.1"}) {
		t.Errorf("got the versions %v, want 0.1 alone", got)
	}
	t.Run("an update", func(t *testing.T) {
		if got := h.post(t, addToOne, made.Token, plugin(t, "one", "0.2")); got.status != http.StatusCreated {
			t.Fatalf("got %d %s; want 201", got.status, got.text)
		}
		for path, want := range map[string]int{"0.9": http.StatusNotFound, "0.2": http.StatusBadRequest} { // not there; 0.1 is another one
			if got := h.post(t, "/plugins/api/one/version/"+path+"/update/", made.Token, good); got.status != want {
				t.Errorf("of %s: got %d %s; want %d", path, got.status, got.text, want)
			}
		}
		if got := h.post(t, "/plugins/api/one/version/0.1/update/", made.Token, plugin(t, "one", "0.1.1")); got.status != http.StatusCreated || got.member("version_id") != 1.0 {
			t.Errorf("got %d %s; want 201 in the place of the first", got.status, got.text)
		}
		if got := h.numbers(t, "one"); !slices.Equal(got, []string{"0.1.1", "0.2"}) {
			t.Errorf("got the versions %v, want 0.1.1 in the place of 0.1", got)
		}
	})
	for _, secret := range []string{made.Token, siteSecret} {
		if strings.Contains(h.log.String(), secret) {
			t.Error("a secret stands in the log of the site")
		}
	}
	page := h.get(t, "/", "")
	if page.status != http.StatusOK || !strings.Contains(page.text, h.site+"/plugins/api/one/version/add/") || !strings.Contains(page.text, h.public) {
		t.Errorf("got %d %s; want a page with the lines to type", page.status, page.text)
	}
}

// A version says by what it came: the token's description, else its name; of a JWT too. A job of a trusted publisher is
// named as that.
func TestAttribution(t *testing.T) {
	h := startHouse(t)
	alice := h.signedIn(t, "alice")
	for number, row := range map[string]struct{ body, want string }{
		"1.0": {`{"name": "ci", "scopes": ["upload"]}`, "token ci"},
		"1.1": {`{"name": "ci", "description": "of the releases", "format": "jwt", "scopes": ["upload"]}`, "token of the releases"},
	} {
		if got := h.post(t, addToOne, h.make(t, alice, tokensOfOne, row.body).Token, plugin(t, "one", number)); got.member("uploaded_by") != row.want {
			t.Errorf("got %d %s; want it by %s", got.status, got.text, row.want)
		}
	}
	made := h.make(t, alice, tokensOfOne, `{"name": "ci", "scopes": ["upload"]}`)
	if got := h.post(t, addToOne, h.trade(t, made.Token, "scope", "upload"), plugin(t, "one", "1.2")); got.member("uploaded_by") != "token "+made.ID {
		t.Errorf("traded: got %d %s; want it by the token's id", got.status, got.text)
	}
	const subject = "repo:octo/one:ref:refs/tags/v1"
	publisher := fmt.Sprintf(`{"name": "releases", "issuer": %q, "subject": %q, "scopes": ["upload"]}`, h.ci.URL, subject)
	named := h.at(t, alice, http.MethodPost, "/api/v1/resources/plugins/one/publishers", publisher)
	if named.status != http.StatusCreated {
		t.Fatalf("got %d %s; want a publisher", named.status, named.text)
	}
	job := h.ci.Sign(map[string]any{"alg": "ES256", "typ": "JWT", "kid": "verifiertest"}, map[string]any{
		"iss": h.ci.URL, "aud": h.public, "sub": subject, "jti": rand.Text(), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	})
	short := h.exchange(t, "subject_token", job, "subject_token_type", "urn:ietf:params:oauth:token-type:id_token", "audience", "plugins", "resource", "one")
	got := h.post(t, addToOne, short, plugin(t, "one", "1.3"))
	if got.status != http.StatusCreated || got.member("uploaded_by") != fmt.Sprintf("trusted publisher %v", named.member("id")) {
		t.Errorf("got %d %s; want it by the trusted publisher", got.status, got.text)
	}
	if got := h.post(t, addToOther, short, plugin(t, "other", "1.3")); got.status != http.StatusForbidden {
		t.Errorf("the job, to another plugin: got %d %s; want 403", got.status, got.text)
	}
}

// While wts is away, a JWT that the site can verify uploads, and what only wts could judge is 503, not a refusal.
func TestUploadsWhileWTSIsAway(t *testing.T) {
	h := startHouse(t)
	alice := h.signedIn(t, "alice")
	signed := h.make(t, alice, tokensOfOne, `{"name": "n", "format": "jwt", "scopes": ["upload"]}`)
	opaque := h.make(t, alice, tokensOfOne, `{"name": "n", "scopes": ["upload"]}`)
	if got := h.post(t, addToOne, signed.Token, plugin(t, "one", "1.0")); got.status != http.StatusCreated {
		t.Fatalf("got %d %s; want 201", got.status, got.text)
	}
	h.wts.Terminate()
	if got := h.post(t, addToOne, signed.Token, plugin(t, "one", "1.1")); got.status != http.StatusCreated {
		t.Errorf("a JWT: got %d %s; want 201", got.status, got.text)
	}
	if got := h.post(t, addToOne, opaque.Token, plugin(t, "one", "1.2")); got.status != http.StatusServiceUnavailable {
		t.Errorf("an opaque one: got %d %s; want 503", got.status, got.text)
	}
	if got := h.get(t, "/plugins/one/json", opaque.Token); got.status != http.StatusOK || strings.Contains(got.text, "validation_status") {
		t.Errorf("reading: got %d %s; want what the public reads", got.status, got.text)
	}
}

// The program serves while wts is away, and registers its plugins once it is there; a wrong secret it says.
func TestTheProgram(t *testing.T) {
	h := startHouse(t)
	secret := filepath.Join(t.TempDir(), "secret")
	h.write(t, secret, siteSecret+"\n")
	h.wts.Terminate()
	log := newBuffer()
	address := fmt.Sprintf("127.0.0.1:%d", instance.FreePort(t))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, slog.New(slog.NewTextHandler(io.MultiWriter(log, t.Output()), nil)), []string{"--listen", address, "--wts", h.public + "/", "--secret-file", secret, "--plugin", "third=alice"})
	}()
	awaits(t, log, "is not registered")
	h.site = "http://" + address
	if got := h.get(t, "/plugins/third/json", ""); got.status != http.StatusOK {
		t.Errorf("while wts is away: got %d %s; want the site to serve", got.status, got.text)
	}
	h.wts.Restart(t)
	h.wts.AwaitReady(t)
	awaits(t, log, "a plugin is registered at wts")
	made := h.make(t, h.signedIn(t, "alice"), "/api/v1/resources/plugins/third/tokens", `{"name": "n", "scopes": ["upload"]}`)
	if got := h.post(t, "/plugins/api/third/version/add/", made.Token, plugin(t, "third", "1.0")); got.status != http.StatusCreated {
		t.Errorf("got %d %s; want 201", got.status, got.text)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	h.write(t, secret, "another-secret-than-that-of-wts")
	wrong := &authority{url: h.public, audience: "plugins", secret: "another", log: slog.New(slog.NewTextHandler(log, nil))}
	wrong.registerAll(t.Context(), owned{"third": nil}) // ends: to try again would not help
	awaits(t, log, "compare --audience and --secret-file")
	for name, args := range map[string][]string{
		"a flag that is none": {"--nothing"}, "no secret": {"--secret-file", secret + "x"}, "a package that is none": {"--plugin", "../x=alice"}, "an argument": {"x"},
	} {
		if err := run(t.Context(), slog.New(slog.DiscardHandler), args); err == nil {
			t.Errorf("%s: it runs", name)
		}
	}
}

func awaits(t *testing.T, log *syncBuffer, says string) {
	t.Helper()
	for deadline := time.Now().Add(2 * soon); !strings.Contains(log.String(), says); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log never says %q:\n%s", says, log.String())
		}
	}
}
