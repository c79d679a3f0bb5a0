package server

import (
	"context"
	"net/http"
)

// Pinger is asked for a sign of life.
type Pinger interface {
	Ping(ctx context.Context) error
}

// status is what existing charts probe, for liveness too: 200 from the first time the database was
// reached, so that an outage of the database does not take the pods and their memory with it.
func (s *Server) status(x *exchange) error {
	if !s.Database.Reached() {
		x.Data(http.StatusInternalServerError, "text/html; charset=utf-8", []byte("Unhealthy"))
		return nil
	}
	x.Data(http.StatusOK, "text/html; charset=utf-8", []byte("Healthy"))
	return nil
}

func (s *Server) version(x *exchange) error {
	return x.json(http.StatusOK, map[string]string{"version": s.Config.Version, "commit": s.Config.Commit})
}

// healthz: the process answers.
func (s *Server) healthz(x *exchange) error {
	return x.json(http.StatusOK, map[string]string{"status": "ok"})
}

// readyz: the service can serve, and is not about to end. With ?verbose it tells how things are now.
func (s *Server) readyz(x *exchange) error {
	ready, status := s.Database.Reached() && !s.draining.Load(), http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	state := map[string]any{"ready": ready}
	if _, verbose := x.param("verbose"); verbose {
		_, _, _, keysErr := s.Issuer.KeySet()
		state["database"] = word(s.Database.Ping(x.Request.Context()) == nil, "reachable", "unreachable")
		state["signing_keys"] = word(keysErr == nil, "loaded", "not loaded")
		state["signing_keys_sealed_by_another_key"] = s.Issuer.Sealed()
	}
	return x.json(status, state)
}

func word(yes bool, whenYes, whenNo string) string {
	if yes {
		return whenYes
	}
	return whenNo
}
