package server

import (
	"context"
	"net/http"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// health answers what probes and operators ask.
type health struct {
	database        Database
	issuer          *issuer.Issuer
	version, commit string
}

// Database tells how the database is.
type Database interface {
	Reached() bool
	Ping(ctx context.Context) error
}

// status is what existing charts probe, for liveness too: 200 from the first time the database was
// reached, so that an outage of the database does not take the pods and their memory with it.
func (h *health) status(x *exchange) error {
	if !h.database.Reached() {
		x.Data(http.StatusInternalServerError, "text/html; charset=utf-8", []byte("Unhealthy"))
		return nil
	}
	x.Data(http.StatusOK, "text/html; charset=utf-8", []byte("Healthy"))
	return nil
}

func (h *health) showVersion(x *exchange) error {
	return x.json(http.StatusOK, map[string]string{"version": h.version, "commit": h.commit})
}

// healthz: the process answers.
func (h *health) healthz(x *exchange) error {
	return x.json(http.StatusOK, map[string]string{"status": "ok"})
}

// readyz: the service can serve, and is not about to end. With ?verbose it tells how things are now.
func (h *health) readyz(x *exchange) error {
	ready, status := h.database.Reached() && !x.draining.Load(), http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	state := map[string]any{"ready": ready}
	if _, verbose := x.param("verbose"); verbose {
		_, _, _, keysErr := h.issuer.KeySet()
		state["database"] = word(h.database.Ping(x.Request.Context()) == nil, "reachable", "unreachable")
		state["signing_keys"] = word(keysErr == nil, "loaded", "not loaded")
		state["signing_keys_sealed_by_another_key"] = h.issuer.Sealed()
	}
	return x.json(status, state)
}

// word says in one word how a part is.
func word(yes bool, whenYes, whenNo string) string {
	if yes {
		return whenYes
	}
	return whenNo
}
