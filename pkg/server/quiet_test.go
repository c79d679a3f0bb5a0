package server

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What probes ask all the time is logged at level debug, and everything else at info.
func TestProbesAreQuiet(t *testing.T) {
	for path, want := range map[string]string{
		"/healthz": "DEBUG", "/readyz": "DEBUG", "/_status": "DEBUG", "/static/wts.000000000000.css": "DEBUG", "/_version": "INFO", "/token/": "INFO", "/nowhere": "INFO",
	} {
		t.Run(path, func(t *testing.T) {
			var log strings.Builder
			s, _ := newServer(t, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
			if line := log.String(); !strings.Contains(line, `"level":"`+want+`"`) || strings.Count(line, "\n") != 1 {
				t.Errorf("want one line at level %s, got %s", want, line)
			}
		})
	}
}
