package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/config"
	"github.com/workspace-token-service/wts/pkg/aggregate"
	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/authn"
	"github.com/workspace-token-service/wts/pkg/broker"
	"github.com/workspace-token-service/wts/pkg/grant"
	"github.com/workspace-token-service/wts/pkg/issuer"
	"github.com/workspace-token-service/wts/pkg/kube"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/publisher"
	"github.com/workspace-token-service/wts/pkg/server"
	"github.com/workspace-token-service/wts/pkg/store"
	"github.com/workspace-token-service/wts/pkg/telemetry"
	"github.com/workspace-token-service/wts/pkg/verifier"
)

// service is one replica, wired.
type service struct {
	config    config.Config
	log       *slog.Logger
	store     *store.Store
	authn     *authn.Authenticator
	session   *authn.Sessions
	broker    *broker.Broker
	issuer    *issuer.Issuer
	apiTokens *apitoken.Service
	// publishers say whose CI jobs act for resources.
	publishers *publisher.Service
	// grants are how programs come to act for people.
	grants *grant.Service
	// trail is what this process did, on its way to the database, which is ready once prepared is closed.
	trail    *audit.Trail
	prepared chan struct{}
	server   *server.Server
	metrics  *telemetry.Metrics
	cluster  *kube.Cluster // nil outside Kubernetes
	// certificates are those that the service ends TLS with, if it does.
	certificates *certificates
	health       health
}

// newService wires a replica of a valid configuration. It reaches for nothing yet.
func newService(ctx context.Context, loaded config.Config, log *slog.Logger) (*service, error) {
	s := &service{config: loaded, log: log, metrics: telemetry.NewMetrics(), prepared: make(chan struct{})}
	var err error
	if s.store, err = store.Open(loaded.Database, loaded.Keys, log); err != nil {
		return nil, err
	}
	if !loaded.Audit.LogOnly {
		s.trail = audit.NewTrail(s.store.Audit, processName(), time.Now)
	}
	public := loaded.Server.URL
	var providers []*provider.Provider
	for id, one := range loaded.Providers {
		providers = append(providers, provider.New(id, one, loaded.CallbackURL(id)))
	}
	s.broker = broker.New(broker.Parts{
		Config: loaded.Broker, Providers: providers, Store: s.store.Connections, Logins: s.store.Logins, Claims: s.store.Users, Replicas: s.store.Replicas, Outbox: s.store.Outbox, Failovers: s.store.Failovers, Ended: s.store.Endings,
		Alone: s.store.Alone(), Keys: loaded.Keys, Observer: refreshes(s.metrics, log), Now: time.Now,
	})
	s.issuer = issuer.New(loaded.Issuer, s.store.SigningKeys, time.Now)
	s.issuer.OnAdded(keyAdded(log, s.trail, audit.Event{Proof: "age"}))
	s.apiTokens = apitoken.New(apitoken.Parts{
		Store: s.store.APITokens, Uses: s.store.APITokens, Resources: s.store.Resources, Statuses: s.store.APITokens, Audiences: s.issuer, Signer: s.issuer,
		People: owners{s}, DefaultProvider: loaded.Broker.DefaultProvider, RideThrough: loaded.RideThroughMax,
		Notices: s.store.APITokens, Connections: s.store.Endings, Webhook: loaded.Notices, Admins: loaded.Admins, AdminGroups: loaded.AdminGroups, Now: time.Now,
	})
	if s.publishers, err = publisher.New(ctx, publisher.Parts{
		Config: loaded.Publisher, Store: s.store.Publishers, Resources: s.apiTokens, Audiences: s.issuer, Own: public, Now: time.Now,
	}); err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	s.grants = grant.New(grant.Parts{Config: loaded.Grants, Store: s.store.Grants, Logins: s.store.Grants, Audiences: s.issuer, People: owners{s}, Now: time.Now})
	secure := strings.HasPrefix(public, "https://")
	s.session = authn.NewSessions(loaded.Authn, s.store.Sessions, secure, time.Now)
	callers := authn.Parts{Config: loaded.Authn, Directory: s.store.Users, Sessions: s.session, OwnIssuer: public, APITokens: ownTokens{s.apiTokens}}
	if callers.Minted, err = newMinted(ctx, s.issuer); err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	if callers.Bearers, err = newBearers(ctx, loaded); err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	if err := s.addPods(ctx, &callers); err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	s.authn = authn.New(callers)
	version, commit := buildVersion()
	loaded.Server.Version, loaded.Server.Commit = version, commit
	loaded.Server.Portal = loaded.Providers[loaded.Broker.DefaultProvider].Type == provider.TypeFence
	if s.server, err = server.New(server.Parts{
		Config: loaded.Server, Authn: s.authn, Sessions: s.session, Broker: s.broker, Issuer: s.issuer, APITokens: s.apiTokens, Publishers: s.publishers, Grants: s.grants, Commons: aggregate.New(loaded.Aggregate),
		Trail: s.trail, Events: s.store.Audit, Accounts: s.store.Users, Seals: loaded.Keys, Database: s.store, Observer: observer{s.metrics}, Log: log,
	}); err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	s.certificates = &certificates{config: loaded.Server.TLS}
	s.gauges()
	return s, nil
}

// keyAdded audits the signing keys that a process adds.
func keyAdded(log *slog.Logger, trail *audit.Trail, by audit.Event) func(issuer.Key) {
	return func(key issuer.Key) {
		event := by
		event.Action, event.Token = audit.AddKey, key.ID
		audit.Write(context.Background(), log.With(slog.String("algorithm", key.Algorithm), slog.Time("signs_from", key.ActivatesAt.UTC())), event)
		trail.Add(event, "", "")
	}
}

// refreshes counts what the engine reports, and says what an operator should hear of at once.
func refreshes(metrics *telemetry.Metrics, log *slog.Logger) broker.Observer {
	return broker.Observer{
		Doubted: metrics.Doubted, Resolved: metrics.Resolved, Revoked: metrics.Revoked, Serving: metrics.Serving, Restored: metrics.Restored,
		Refreshed: func(providerID, outcome string, took time.Duration) {
			metrics.Refreshed(providerID, outcome, took)
			if outcome == string(provider.Misconfigured) {
				log.Error("a provider does not take us for its client; no token can be refreshed there until the configuration is fixed", slog.String("provider", providerID))
			}
		},
		GrantLost: func(providerID, cause string) {
			metrics.GrantLost(providerID, cause)
			log.Warn("a grant has ended, and its user has to log in again", slog.String("provider", providerID), slog.String("cause", cause))
		},
		SpoolFailed: func(err error) {
			metrics.SpoolFailed(err)
			log.Error("there is no spool: what the database does not take is kept in memory alone", slog.String("error", err.Error()))
		},
		FailedOver: func() {
			metrics.FailedOver()
			log.Warn("the database failed over; what the replicas had stored was offered to it again (wts_failover_restored_total), and it is used from now on")
		},
	}
}

// observer gives the metrics the words that they know.
type observer struct{ *telemetry.Metrics }

// Proven implements server.Observer.
func (o observer) Proven(proof authn.Proof) { o.Caller(string(proof)) }

// newBearers verifies access tokens of the default provider; nil where they are off. A Fence's are
// always on: every one of its tokens names the same audiences, and none is checked (Gen3 contract 1.3).
func newBearers(ctx context.Context, loaded config.Config) (bearers *authn.Bearers, err error) {
	id := loaded.Broker.DefaultProvider
	trusted, audiences := loaded.Providers[id].WithDefaults(id), loaded.Authn.Bearer.Audiences
	options := []verifier.Option{authn.ProviderTokens(), verifier.WithUsernameClaim(trusted.UsernameClaim), verifier.WithMaxKeys(provider.MaxKeys)}
	bearers = &authn.Bearers{Issuer: trusted.Issuer}
	switch {
	case trusted.Type == provider.TypeFence:
		options = append(options, verifier.AnyAudience(), verifier.WithAlgorithms("RS256"), verifier.WithKeySetURL(provider.FenceKeysURL(trusted.Issuer)))
		bearers.Scope, bearers.Names = "openid", true
		bearers.Verifier, err = verifier.New(ctx, trusted.Issuer, "", options...)
	case len(audiences) > 0:
		bearers.ClientID = trusted.ClientID
		bearers.Verifier, err = verifier.New(ctx, trusted.Issuer, audiences[0], append(options, verifier.WithAudiences(audiences[1:]...))...)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("bearer: %w", err)
	}
	return bearers, nil
}

// Bounds of a connection (security.md F2). Workers and browsers send a few kilobytes; Gen3's carry
// JWTs of many.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 90 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	// requestTime is how long requests under way have at the end: callers wait for 15 s at most.
	requestTime = 20 * time.Second
	// silentTime is how long after drain_delay a connection that says nothing is waited for; Shutdown itself waits
	// for 5 s.
	silentTime = 100 * time.Millisecond
	// lastFlights is how long after drain_delay requests under way may still begin a refresh.
	lastFlights = 2 * time.Second
)

// run serves until the context ends, then lets the requests under way finish.
func (s *service) run(ctx context.Context, ready func(addresses []net.Addr)) error {
	defer s.store.Close()
	s.warn()
	if err := s.store.Own(); err != nil {
		return err
	}
	listeners, err := s.listen(s.config.Server.Listen)
	if err != nil {
		return err
	}
	connections := server.NewConnections(s.authn.Bounded)
	for i, listener := range listeners {
		listeners[i] = connections.Listener(listener)
	}
	if listeners, err = s.certificates.encrypt(listeners); err != nil {
		return err
	}
	servers := []*http.Server{newHTTPServer(s.server, connections, s.log)}
	if s.config.Server.MetricsListen != "off" {
		metricsListener, err := s.listen([]string{s.config.Server.MetricsListen})
		if err != nil {
			return errors.Join(err, closeAll(listeners))
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", s.metrics.Handler())
		scrapes := server.NewConnections(func(netip.Addr) bool { return true })
		servers = append(servers, newHTTPServer(mux, scrapes, s.log))
		go func() { _ = servers[1].Serve(scrapes.Listener(metricsListener[0])) }()
	}
	failed := make(chan error, len(listeners)+1)
	for _, listener := range listeners {
		go func() { failed <- servers[0].Serve(listener) }()
	}
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	engine, trail := make(chan struct{}), make(chan struct{})
	defer func() { stopBackground(); <-engine; <-trail }()
	go func() { s.followTrail(background); close(trail) }()
	go func() { s.broker.Run(background); close(engine) }()
	go s.store.Feed.Follow(background, s.feed(), s.config.RideThroughMax)
	if s.cluster != nil {
		go s.cluster.Run(background)
	}
	go s.summarize(background)
	go s.watchDatabase(background)
	go func() {
		if err := s.keepHouse(background); err != nil {
			failed <- err
		}
	}()
	addresses := make([]net.Addr, 0, len(listeners))
	for _, listener := range listeners {
		addresses = append(addresses, listener.Addr())
	}
	s.log.Info("serving", slog.Any("addresses", addresses), slog.String("url", s.config.Server.URL))
	if ready != nil {
		ready(addresses)
	}
	select {
	case <-ctx.Done():
		s.log.Info("draining")
		return s.drain(servers, connections)
	case err := <-failed:
		return errors.Join(err, s.drain(servers, connections))
	}
}

func newHTTPServer(handler http.Handler, connections *server.Connections, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: connections.Handler(handler), ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ConnContext: func(ctx context.Context, accepted net.Conn) context.Context {
			return connections.Context(authn.WithConnection(ctx), accepted)
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// drain ends the service without losing a token (refresh-engine.md, "Stopping"). For drain_delay it goes on
// as before, while /readyz sends what balances the load elsewhere. Then no request is taken and no refresh
// begun; those under way are waited for until stop_timeout.
func (s *service) drain(servers []*http.Server, connections *server.Connections) (err error) {
	began := time.Now()
	s.server.Drain()
	time.Sleep(s.config.DrainDelay)
	stop, cancel := context.WithDeadline(context.Background(), began.Add(max(s.config.StopTimeout, s.config.DrainDelay)))
	defer cancel()
	requests := make(chan error, 1)
	go func() { requests <- s.endRequests(stop, servers, connections) }()
	select { // a request under way may still need a refresh
	case err = <-requests:
	case <-time.After(lastFlights):
		defer func() { err = <-requests }()
	}
	if left := s.broker.Drain(stop); left > 0 {
		s.log.Error("stopped with refreshes under way, whose grants may be lost where the provider has no reuse_grace; give the process more time (stop_timeout, and terminationGracePeriodSeconds in Kubernetes)",
			slog.Int("refreshes", left))
	}
	s.log.Info("stopped", slog.Duration("after", time.Since(began).Round(time.Millisecond)))
	return err
}

// endRequests takes no new request, and waits for those under way.
func (*service) endRequests(ctx context.Context, servers []*http.Server, connections *server.Connections) (err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	time.AfterFunc(silentTime, connections.EndSilent)
	for _, one := range servers {
		if failed := one.Shutdown(ctx); failed != nil {
			err = errors.Join(err, fmt.Errorf("requests were cut off: %w", failed), one.Close())
		}
	}
	return err
}

// warn says at the start what an operator should know is weaker than it could be.
func (s *service) warn() {
	for _, warning := range s.config.Warnings {
		s.log.Warn(warning)
	}
	if strings.HasPrefix(s.config.Server.URL, "http://") {
		s.log.Warn("the public url is plain http: session cookies have neither the __Host- prefix nor Secure; use https anywhere but on localhost")
	}
	if s.store.Plaintext() {
		s.log.Warn("the connection to the database may go without TLS: add sslmode=verify-full to database.url")
	}
	if s.cluster != nil && !s.config.Kube.DisablePeerAddress {
		s.log.Warn("pods are known by their address, which is best effort by nature; let workspaces mount service-account tokens, then set kubernetes.disable_peer_address (wts_callers_total counts who still comes by address)")
	}
	if s.cluster != nil && len(s.config.Kube.Namespaces) == 0 {
		s.log.Warn("pods of every namespace count: a user who may create pods anywhere may act as any user; set kubernetes.namespaces")
	}
	for id, one := range s.config.Providers {
		if one.Unsigned() {
			s.log.Warn("a provider without an issuer: where it publishes no discovery document at its base_url, its id_tokens are taken without their signature", slog.String("provider", id))
		}
		if one.Plaintext() {
			s.log.Warn("a provider is reached over plain http, on this machine", slog.String("provider", id))
		}
	}
}
