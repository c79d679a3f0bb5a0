package gen3

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/instance"
)

func payload(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("no JWT: %d characters", len(token))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pythonService is the stand-in, a process of its own.
type pythonService struct{ base string }

func startPython(t *testing.T, d *deployment) *pythonService {
	t.Helper()
	port := instance.FreePort(t)
	run := exec.Command("python3", "python_service.py", "serve", fmt.Sprint(port))
	run.Env = d.python
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.Process.Kill(); _ = run.Wait() })
	p := &pythonService{base: fmt.Sprintf("http://127.0.0.1:%d", port)}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.Get(p.base + "/token/?user=nobody")
		if err == nil {
			_ = response.Body.Close()
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("the stand-in does not answer: %v", err)
		}
	}
}

func (p *pythonService) logIn(t *testing.T, name, idp, refreshToken string) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"user": name, "idp": idp, "refresh_token": refreshToken})
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(p.base+"/login", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("the stand-in's login answers %d", response.StatusCode)
	}
}

// serves asks the stand-in for a person's token.
func (p *pythonService) serves(t *testing.T, name string) {
	t.Helper()
	response, err := http.Get(p.base + "/token/?user=" + url.QueryEscape(name))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var body struct{ Token, Message string }
	if err := json.Unmarshal(text, &body); err != nil || response.StatusCode != http.StatusOK || !strings.Contains(payload(t, body.Token), name) {
		t.Fatalf("the stand-in has no token of %s: %d %s", name, response.StatusCode, body.Message)
	}
}

// A rollout and the way back: old and new on one database, logins now at the one, now at the other.
// Nobody is asked to log in again, ever.
func TestARolloutAndTheWayBack(t *testing.T) {
	const people = 8
	port := instance.FreePort(t)
	d := newDeployment(t, people, port)
	migrateAsPython(t, d.database, "3417aec47fe2")
	old := startPython(t, d)
	for _, name := range d.people[:people-2] { // two have never logged in before the rollout
		old.logIn(t, name, "default", d.fence.Grant(name, clientID))
	}

	// The init container of the new pods, then two of them beside the old one.
	ours := instance.StartDeployed(t, port, d.env)
	ours.AwaitStatus(t, "/_status", http.StatusOK)
	second := instance.StartDeployed(t, instance.FreePort(t), d.env)
	second.AwaitStatus(t, "/_status", http.StatusOK)
	if said := ours.Run(t, "migrate"); !strings.Contains(said, "6 connections were taken over") {
		t.Errorf("migrate said %s", said)
	}
	everywhere := func(when string, at int) {
		t.Helper()
		name := d.people[at]
		t.Log(when, name)
		served(t, ours, at, name, "")
		served(t, second, at, name, "")
		old.serves(t, name)
	}
	for i := range people - 2 {
		everywhere("after the swap", i)
	}
	for turn := range 24 {
		at := turn % people
		if (turn/people+at)%2 == 0 {
			old.logIn(t, d.people[at], "default", d.fence.Grant(d.people[at], clientID))
		} else {
			logIn(t, port, at, d.people[at])
		}
		everywhere("after a login", at)
	}
	old.logIn(t, d.people[0], "other", d.other.Grant(d.people[0], clientID))
	served(t, ours, 0, d.people[0], "?idp=other")

	// A grant that ends at the provider, while its successor is with the old pod alone.
	d.fence.Revoke(d.people[1])
	old.logIn(t, d.people[1], "default", d.fence.Grant(d.people[1], clientID))
	sql(t, d.database, "UPDATE connections SET access_expires_at = 1, access_issued_at = 0")
	restart(t, ours)
	everywhereButSecond(t, ours, old, 1, d.people[1])

	// The way back.
	ours.Kill()
	second.Kill()
	for i, name := range d.people {
		t.Log("on the way back", i)
		old.serves(t, name)
	}
	// And forward once more.
	ours.Restart(t)
	ours.AwaitStatus(t, "/_status", http.StatusOK)
	for i := range people {
		everywhereButSecond(t, ours, old, i, d.people[i])
	}
}

func everywhereButSecond(t *testing.T, ours *instance.Instance, old *pythonService, at int, name string) {
	t.Helper()
	served(t, ours, at, name, "")
	old.serves(t, name)
}

func restart(t *testing.T, one *instance.Instance) {
	t.Helper()
	one.Kill()
	one.Restart(t)
	one.AwaitStatus(t, "/_status", http.StatusOK)
}
