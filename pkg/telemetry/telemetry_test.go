package telemetry_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workspace-token-service/wts/pkg/telemetry"
)

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *lockedBuffer) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(text)
}

func (p *lockedBuffer) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func TestLinesAreGatheredAndWarningsAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &lockedBuffer{}
		log, flush := telemetry.NewLog(telemetry.LogConfig{}, out)
		log.Info("one")
		log.Debug("not asked for")
		if out.String() != "" {
			t.Error("a line was written at once")
		}
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"msg":"one"`) {
			t.Errorf("a moment later: %q", got)
		}
		log.With("a", 1).WithGroup("g").Info("two", "b", 2)
		log.Warn("three")
		if got := out.String(); strings.Count(got, "\n") != 3 || !strings.Contains(got, `"g":{"b":2}`) {
			t.Errorf("after a warning: %q", got)
		}
		log.Info("four")
		flush()
		if !strings.Contains(out.String(), "four") {
			t.Error("the last line is lost")
		}
		time.Sleep(time.Second)
	})
}

func TestTextAndLevels(t *testing.T) {
	out := &lockedBuffer{}
	log, flush := telemetry.NewLog(telemetry.LogConfig{Level: "debug", Format: "text"}, out)
	log.Debug("here", slog.Int("n", 1))
	flush()
	if !strings.Contains(out.String(), "msg=here n=1") {
		t.Errorf("got %q", out.String())
	}
}

func TestWhatIsCountedIsServed(t *testing.T) {
	metrics := telemetry.NewMetrics()
	count := metrics.Route("/token")
	for _, status := range []int{200, 200, 503, -1, 9999} {
		count(status, time.Millisecond)
	}
	metrics.Refreshed("main", "refreshed", time.Second)
	metrics.GrantLost("main", "revoked")
	metrics.GrantsEnding("main", 3, 5)
	metrics.Gauge("wts_answer", "An answer.", func() float64 { return 42 })
	recorder := httptest.NewRecorder()
	metrics.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	body, _ := io.ReadAll(recorder.Body)
	for _, want := range []string{
		`wts_requests_total{route="/token",status="200"} 2`, `wts_requests_total{route="/token",status="503"} 1`,
		`wts_refresh_seconds_count{outcome="refreshed",provider="main"} 1`, `wts_grants_lost_total{cause="revoked",provider="main"} 1`,
		`wts_request_seconds_count{route="/token"} 5`, "wts_answer 42", `wts_grants_ending{provider="main",within="1d"} 3`, `wts_grants_ending{provider="main",within="7d"} 5`,
		"go_goroutines",
	} {
		t.Run(want, func(t *testing.T) {
			if !strings.Contains(string(body), want) {
				t.Errorf("the metrics lack %s", want)
			}
		})
	}
}

// A line of the audit is written before the call returns, and calls that wait at once share a write.
func TestTheAuditIsWrittenBeforeItsCallerGoesOn(t *testing.T) {
	out := &slowPaper{}
	log, _ := telemetry.NewLog(telemetry.LogConfig{}, out)
	var calls sync.WaitGroup
	for number := range 200 {
		calls.Go(func() {
			log.Info("request", "audit", "handout", "number", number)
			if !strings.Contains(out.String(), fmt.Sprintf(`"number":%d}`, number)) {
				t.Errorf("line %d is not written", number)
			}
		})
	}
	calls.Wait()
	if writes := out.writes.Load(); writes > 20 {
		t.Errorf("%d writes for 200 lines at once", writes)
	}
	log.Info("request", "number", "none")
	if strings.Contains(out.String(), `"none"`) {
		t.Error("a line that is not of the audit is written at once")
	}
}

// slowPaper takes ten milliseconds for each write.
type slowPaper struct {
	lockedBuffer
	writes atomic.Int32
}

func (p *slowPaper) Write(text []byte) (int, error) {
	p.writes.Add(1)
	time.Sleep(10 * time.Millisecond)
	return p.lockedBuffer.Write(text)
}
