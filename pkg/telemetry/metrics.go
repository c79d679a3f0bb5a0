package telemetry

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics counts what happens. It implements the Observers of server and kube; its methods are those of broker.
type Metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	refreshes *prometheus.HistogramVec
	lost      *prometheus.CounterVec
	kubeCalls *prometheus.CounterVec
	changed   prometheus.Counter
	callers   *prometheus.CounterVec
	doubts    *prometheus.CounterVec
	resolved  *prometheus.CounterVec
	revoked   *prometheus.CounterVec
	served    *prometheus.HistogramVec
	spool     prometheus.Counter
	restored  *prometheus.CounterVec
	failovers prometheus.Counter
	ending    *prometheus.GaugeVec
}

// NewMetrics makes the metrics, with those of the Go runtime and the process.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wts_requests_total", Help: "Requests answered, by route and status.",
		}, []string{"route", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wts_request_seconds", Help: "Time to answer a request, by route.",
			Buckets: []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 15},
		}, []string{"route"}),
		refreshes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "wts_refresh_seconds", Help: "Refreshes at a provider and how long they took, by outcome.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"provider", "outcome"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "wts_grants_lost_total", Help: "Grants whose users have to log in again, by cause.",
		}, []string{"provider", "cause"}),
	}
	m.kubeCalls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wts_kube_calls_total", Help: "Requests to the API server, by verb. At steady state there are none.",
	}, []string{"verb"})
	m.changed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "wts_kube_annotation_changes_total", Help: "Pods whose user was changed after they were first seen, which is ignored.",
	})
	m.callers = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wts_callers_total", Help: "Callers who were known, by proof. Those by proof \"pod\" are known by their address alone.",
	}, []string{"proof"})
	m.doubts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wts_refresh_doubts_total", Help: "Refresh tokens that were presented and whose answer never came whole.",
	}, []string{"provider"})
	m.resolved = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wts_refresh_takeovers_total", Help: "Flights of replicas that were gone, by how they ended: kept, lost, superseded, open.",
	}, []string{"provider", "how"})
	m.revoked = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wts_revocations_total", Help: "Refresh tokens that providers were told to revoke, by how it went.",
	}, []string{"provider", "how"})
	m.served = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "wts_token_life_seconds", Help: "Life left of the providers' access tokens that were handed out.",
		Buckets: []float64{0, 10, 30, 60, 120, 300, 600, 1200, 3600},
	}, []string{"provider"})
	m.spool = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "wts_spool_failures_total", Help: "Successors that could be written neither to the database nor to the spool, at first.",
	})
	m.restored = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wts_failover_restored_total", Help: "Rows that a failover of the database had set back, by how it went: restored, failed.",
	}, []string{"provider", "how"})
	m.failovers = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "wts_failovers_total", Help: "Failovers of the database that this replica saw settled.",
	})
	m.ending = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "wts_grants_ending", Help: "Grants that end within a day (1d) or a week (7d), stated or expected, and whose users have to log in again then. Every replica counts those of all.",
	}, []string{"provider", "within"})
	m.registry.MustRegister(m.ending, m.restored, m.failovers, m.doubts, m.resolved, m.revoked, m.served, m.spool, m.callers, m.requests, m.latency, m.refreshes, m.lost, m.kubeCalls, m.changed,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Gauge registers a value that is asked for when it is scraped.
func (m *Metrics) Gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

const maxStatus = 600

// Route implements server.Observer. What it returns finds its counter by the status alone, so that
// counting a request costs no look-up by name.
func (m *Metrics) Route(name string) func(status int, took time.Duration) {
	latency := m.latency.WithLabelValues(name)
	counters := make([]atomic.Pointer[prometheus.Counter], maxStatus)
	return func(status int, took time.Duration) {
		latency.Observe(took.Seconds())
		at := &counters[min(max(status, 0), maxStatus-1)]
		counter := at.Load()
		if counter == nil {
			made := m.requests.WithLabelValues(name, strconv.Itoa(status))
			counter = &made
			at.Store(counter)
		}
		(*counter).Inc()
	}
}

// Refreshed is of broker.Observer.
func (m *Metrics) Refreshed(provider, outcome string, took time.Duration) {
	m.refreshes.WithLabelValues(provider, outcome).Observe(took.Seconds())
}

// Doubted is of broker.Observer.
func (m *Metrics) Doubted(provider string) { m.doubts.WithLabelValues(provider).Inc() }

// Resolved is of broker.Observer.
func (m *Metrics) Resolved(provider, how string) { m.resolved.WithLabelValues(provider, how).Inc() }

// Revoked is of broker.Observer.
func (m *Metrics) Revoked(provider, how string) { m.revoked.WithLabelValues(provider, how).Inc() }

// Serving is of broker.Observer. What it returns costs no look-up by name.
func (m *Metrics) Serving(provider string) func(left time.Duration) {
	life := m.served.WithLabelValues(provider)
	return func(left time.Duration) { life.Observe(left.Seconds()) }
}

// SpoolFailed is of broker.Observer.
func (m *Metrics) SpoolFailed(error) { m.spool.Inc() }

// Restored is of broker.Observer.
func (m *Metrics) Restored(provider, how string) { m.restored.WithLabelValues(provider, how).Inc() }

// FailedOver is of broker.Observer.
func (m *Metrics) FailedOver() { m.failovers.Inc() }

// GrantsEnding says how many grants of a provider end within a day, and within a week.
func (m *Metrics) GrantsEnding(provider string, day, week int64) {
	m.ending.WithLabelValues(provider, "1d").Set(float64(day))
	m.ending.WithLabelValues(provider, "7d").Set(float64(week))
}

// Caller counts a caller by the proof that they were known by.
func (m *Metrics) Caller(proof string) { m.callers.WithLabelValues(proof).Inc() }

// KubeCall implements kube.Observer.
func (m *Metrics) KubeCall(verb string) { m.kubeCalls.WithLabelValues(verb).Inc() }

// KubeAnnotationChanged implements kube.Observer.
func (m *Metrics) KubeAnnotationChanged() { m.changed.Inc() }

// GrantLost is of broker.Observer.
func (m *Metrics) GrantLost(provider, cause string) {
	m.lost.WithLabelValues(provider, cause).Inc()
}
