package system

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// Through a restart of the service and an outage of the
// provider the file always holds a token that lives, and a reader never sees half of one.
func TestAFileThatAlwaysHoldsALivingToken(t *testing.T) {
	c := startCluster(t, pgtest.Database(t))
	c.ready(t)
	c.logIn(t, providertest.Browser())
	file := filepath.Join(t.TempDir(), "token")
	var log bytes.Buffer
	sidecar := exec.Command(instance.Binary(t), "token", "--watch", "--url", "http://"+c.one.Address, "--audience", "storage", "--expires", "10s", "--out", file)
	sidecar.Stderr = &log
	if err := sidecar.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- sidecar.Wait() }()

	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("no file after 10 s; it says\n%s", log.String())
		}
	}
	stop := make(chan struct{})
	var reading sync.WaitGroup
	seen, reads := map[string]bool{}, 0
	reading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Errorf("reading: %v", err)
				return
			}
			reads++
			token := strings.TrimSuffix(string(text), "\n")
			if left := lifeLeft(token); left <= 0 || len(token) == len(text) {
				t.Errorf("a reader sees %d bytes, a token that lives for %s", len(text), left)
				return
			}
			seen[token] = true
			time.Sleep(time.Millisecond)
		}
	})
	time.Sleep(6 * time.Second)
	c.one.Kill() // a crash, and a restart
	time.Sleep(500 * time.Millisecond)
	c.one.Restart(t)
	time.Sleep(6 * time.Second)
	c.provider.Fail(&providertest.Fault{Down: true})
	time.Sleep(11 * time.Second) // longer than a token lives
	c.provider.Fail(nil)
	took, code := c.one.Terminate() // a rolling update: told to stop, and started again
	c.one.Restart(t)
	time.Sleep(6 * time.Second)
	close(stop)
	reading.Wait()
	_ = sidecar.Process.Signal(syscall.SIGTERM)
	if err := <-stopped; err != nil {
		t.Errorf("told to stop: %v\n%s", err, log.String())
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
	if leftovers, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".token.*")); len(leftovers) > 0 {
		t.Errorf("left over: %v", leftovers)
	}
	if len(seen) < 5 {
		t.Errorf("%d tokens in all: it did not keep it fresh", len(seen))
	}
	t.Logf("%d reads saw %d tokens, all living; the service stopped in %s with %d", reads, len(seen), took.Round(time.Millisecond), code)
}

func lifeLeft(token string) time.Duration {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0
	}
	var claims struct {
		ExpiresAt int64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return 0
	}
	return time.Until(time.Unix(claims.ExpiresAt, 0))
}
