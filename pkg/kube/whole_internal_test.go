package kube

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
)

type deaf struct{}

func (deaf) KubeCall(string)        {}
func (deaf) KubeAnnotationChanged() {}

// After a table that was none, tables are asked for again: what stood in the way may be gone.
func TestTablesAreAskedForAgain(t *testing.T) {
	t.Parallel()
	server := kubetest.Start(t)
	server.MakeNoTables()
	server.Put(kubetest.Pod("work", "pod", "10.4.0.1", "alice"))
	config := Config{Namespaces: []string{"work"}, Kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	if err := os.WriteFile(config.Kubeconfig, []byte(server.Kubeconfig()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(config, deaf{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	began, passed := time.Now(), time.Duration(0)
	c.now = func() time.Time { return began.Add(passed) }
	for _, step := range []struct {
		passed time.Duration
		tables int // asked for in all
	}{{0, 0}, {0, 1}, {tablesAgain - 1, 1}, {tablesAgain, 2}, {tablesAgain + 1, 2}} {
		passed = step.passed
		var users []string
		err := c.wholes["work"].list(t.Context(), map[want]*found{{address: netip.MustParseAddr("10.4.0.1")}: {}}, func(seen *pod) { users = append(users, seen.Username) })
		_, calls := server.Calls()
		if err != nil || len(users) != 1 || users[0] != "alice" || calls["table"] != step.tables {
			t.Errorf("after %s: %v, %v, %d tables; want %d", step.passed, users, err, calls["table"], step.tables)
		}
	}
}
