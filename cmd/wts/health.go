package main

import (
	"context"
	"crypto/fips140"
	"log/slog"
	"sync/atomic"
	"time"
)

const pingEvery = 2 * time.Second

// health is what the replica's gauges say of what it depends on.
type health struct {
	databaseUp atomic.Bool
}

// watchDatabase asks the database for a sign of life, and logs when it goes and when it comes back: requests
// that are served from memory do not show it.
func (s *service) watchDatabase(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	var downSince time.Time
	for {
		err := s.store.Ping(ctx)
		if ctx.Err() != nil {
			return
		}
		up := err == nil && s.store.Reached()
		s.health.databaseUp.Store(up)
		switch {
		case !s.store.Reached(): // keepHouse says so
		case !up && downSince.IsZero():
			downSince = time.Now()
			s.log.Error("the database does not answer; tokens that are in memory are still handed out, everything else is refused with 503",
				slog.String("error", err.Error()))
		case up && !downSince.IsZero():
			s.log.Warn("the database answers again", slog.Duration("after", time.Since(downSince).Round(time.Second)))
			downSince = time.Time{}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// gauges registers what is asked for when the metrics are scraped.
func (s *service) gauges() {
	s.metrics.Gauge("wts_database_reached", "1 once the database was reached with its schema in place.", func() float64 { return one(s.store.Reached()) })
	s.metrics.Gauge("wts_fips140_mode", "1 in FIPS 140-3 mode (GODEBUG=fips140=on).", func() float64 { return one(fips140.Enabled()) })
	s.metrics.Gauge("wts_database_up", "1 while the database answers, asked every two seconds.", func() float64 { return one(s.health.databaseUp.Load()) })
	s.metrics.Gauge("wts_signing_key_active_age_seconds", "How long the oldest key that signs has signed, in seconds; 0 while none does.", func() float64 {
		if since := s.issuer.SigningSince(); !since.IsZero() {
			return time.Since(since).Seconds()
		}
		return 0
	})
	s.metrics.Gauge("wts_tls_certificate_expires_seconds", "When the certificate that is served expires, in unix seconds; 0 without one.", func() float64 {
		if ends := s.certificates.expires(); !ends.IsZero() {
			return float64(ends.Unix())
		}
		return 0
	})
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
