package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/kube/kubetest"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/paired"
)

// footprint is what a process keeps, in MB.
type footprint struct{ Heap, Resident float64 }

// everyone is a store in which everybody is connected, with a token of 900 bytes.
type everyone struct{ broker.Store }

func (everyone) Row(_ context.Context, userID, providerID string) (broker.Row, error) {
	now := time.Now()
	return broker.Row{Connection: broker.Connection{
		UserID: userID, Provider: providerID, Phase: broker.Ready, RefreshToken: "rt", AccessToken: secret.Text(strings.Repeat("a", 900)),
		AccessIssuedAt: now, AccessExpiresAt: now.Add(time.Hour),
	}}, nil
}

// holdTokens hands out a token to each of that many users once, and says what it keeps for them.
func holdTokens(users string) {
	many, err := strconv.Atoi(users)
	if err != nil {
		panic(err)
	}
	b := broker.New(broker.Parts{
		Config: broker.Config{DefaultProvider: "main"}, Providers: []*provider.Provider{provider.New("main", provider.Config{}, "")},
		Store: everyone{}, Now: time.Now,
	})
	debug.SetGCPercent(50) // as wts serve does, with its ballast
	ballast := make([]byte, 16<<20)
	before := heap()
	for user := range many {
		if _, err := b.Token(context.Background(), fmt.Sprintf("user-%021d", user), "main", time.Minute); err != nil {
			panic(err)
		}
	}
	found := footprint{Resident: resident("self", "RssAnon"), Heap: heap() - before}
	_ = json.NewEncoder(os.Stdout).Encode(found)
	runtime.KeepAlive(b)
	runtime.KeepAlive(ballast)
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc) / 1e6
}

// resident is a process' memory, in MB; not a number where that cannot be read. VmRSS is all of it,
// RssAnon without the pages of the program's file.
func resident(pid, which string) float64 {
	text, _ := os.ReadFile("/proc/" + pid + "/status")
	_, after, _ := strings.Cut(string(text), which+":")
	kilobytes, err := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(after, "kB", 2)[0]), 64)
	if err != nil {
		return paired.Median(nil)
	}
	return kilobytes * 1024 / 1e6
}

// 100,000 users' tokens in memory, and an idle service that knows 5,000 pods.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		output, err := child(b, envMemory+"=100000").Output()
		var found footprint
		if err == nil {
			err = json.Unmarshal(output, &found)
		}
		if err != nil {
			b.Fatalf("%v: %s", err, output)
		}
		paired.Report(b, found.Heap, "MB-heap-for-100,000-users", "≤130")
		paired.Report(b, found.Resident, "MB-of-its-own-for-100,000-users", "≤200")
		own, all := idleWithPods(b, 5000)
		paired.Report(b, own, "MB-of-its-own-idle-with-5,000-pods", "≤35")
		paired.Report(b, all, "MB-idle-with-the-program's-pages", "")
	}
}

func idleWithPods(b *testing.B, pods int) (own, all float64) {
	b.Helper()
	cluster := kubetest.Start(b)
	for i := range pods {
		cluster.Put(kubetest.Pod("work", fmt.Sprint("workspace-", i), fmt.Sprintf("10.4.%d.%d", i/250, i%250), fmt.Sprint("user-", i)))
	}
	dir := b.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(cluster.Kubeconfig()), 0o600); err != nil {
		b.Fatal(err)
	}
	port := instance.FreePort(b)
	one := instance.Start(b, port, fmt.Sprintf(`
url: http://localhost:%d
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "sqlite:%s/wts.db"}
keyring_file: %s
kubernetes: {enabled: true, kubeconfig: "%s"}
providers:
  main: {issuer: "http://localhost:1", client_id: wts, client_secret: s}
`, port, port, dir, instance.NewKeyring(b), kubeconfig))
	one.AwaitReady(b)
	time.Sleep(10 * time.Second)
	pid := strconv.Itoa(one.PID())
	return resident(pid, "RssAnon"), resident(pid, "VmRSS")
}
