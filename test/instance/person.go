package instance

import (
	"bytes"
	"html"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
)

// Person is a machine of a person's, without a browser and without a keyring.
type Person struct {
	Binary string
	Env    []string
}

// NewPerson is one who has not logged in.
func NewPerson(t testing.TB) *Person {
	t.Helper()
	home := t.TempDir()
	return &Person{Binary(t), append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_RUNTIME_DIR="+home, "DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere", "DISPLAY=", "WAYLAND_DISPLAY=")}
}

// Command is a command of wts on that machine.
func (p *Person) Command(args ...string) *exec.Cmd {
	command := exec.Command(p.Binary, args...)
	command.Env = p.Env
	return command
}

// Buffer is written by one and read by another.
type Buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

// String is what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

var (
	completeAddress = regexp.MustCompile(`or open (http\S+)`)
	hiddenField     = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`)
)

// LogIn logs in at a service by the code that is shown, which its person allows in a browser elsewhere.
func (p *Person) LogIn(t testing.TB, service string, browser *http.Client) {
	t.Helper()
	var said Buffer
	command := p.Command("login", service)
	command.Stderr = &said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var shown []string
	for began := time.Now(); shown == nil || !strings.Contains(said.String(), "good until"); time.Sleep(10 * time.Millisecond) {
		if shown = completeAddress.FindStringSubmatch(said.String()); time.Since(began) > 20*time.Second {
			t.Fatalf("no code after 20 s: %s", said.String())
		}
	}
	asked, err := providertest.Open(t.Context(), browser, shown[1])
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"decision": {"allow"}}
	for _, field := range hiddenField.FindAllStringSubmatch(asked.Body, -1) {
		form.Set(field[1], html.UnescapeString(field[2]))
	}
	response, err := browser.PostForm(service+"/device", form)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if err := command.Wait(); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("wts login: %v, the page answered %d\n%s", err, response.StatusCode, said.String())
	}
}
