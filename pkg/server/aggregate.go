package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/aggregate"
	"github.com/workspace-token-service/wts/pkg/broker"
)

// aggregate asks the commons that the caller has connected, each with the caller's token there; for
// a caller who is nobody, every commons without a token: GET /aggregate/<endpoint>?filters=...
func (s *Server) aggregate(x *exchange) error {
	endpoint := "/" + strings.Trim(x.Param("endpoint"), "/")
	if endpoint == "/" {
		return errNotFound
	}
	caller := x.caller.User.Username
	if caller == "" {
		caller = "at " + x.peer.Addr.String()
	}
	if err := s.Commons.Check(caller, endpoint); err != nil {
		return err
	}
	query, err := url.ParseQuery(x.Request.URL.RawQuery)
	if err != nil {
		return badRequest("message", "The query cannot be read: escape it")
	}
	commons := s.everyCommons()
	if x.caller.Proof != "" {
		if commons, err = s.connectedCommons(x); err != nil {
			return err
		}
	}
	answers, err := s.Commons.Get(x.Request.Context(), commons, endpoint, query)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, answers)
}

// everyCommons is each commons once, without a token.
func (s *Server) everyCommons() (all []aggregate.Commons) {
	seen := map[string]bool{}
	for _, one := range s.Broker.Providers() {
		host, origin := commonsOf(one)
		if !seen[host] {
			all = append(all, aggregate.Commons{Host: host, Origin: origin})
		}
		seen[host] = true
	}
	return all
}

// connectedCommons is each commons that the caller has connected. Where several providers lead to
// one, the newest connection that gives a token is used.
func (s *Server) connectedCommons(x *exchange) (all []aggregate.Commons, err error) {
	connections, err := s.Broker.Connections(x.Request.Context(), x.caller.User.ID)
	if err != nil {
		return nil, err
	}
	providers := map[string]broker.Listed{}
	for _, one := range s.Broker.Providers() {
		providers[one.ID] = one
	}
	origins, ids, hosts := map[string]string{}, map[string][]string{}, []string{}
	for _, one := range connections {
		provider, configured := providers[one.Provider]
		if !configured {
			continue // it was, when the user connected it
		}
		host, origin := commonsOf(provider)
		if len(ids[host]) == 0 {
			hosts = append(hosts, host)
		}
		origins[host], ids[host] = origin, append(ids[host], one.Provider)
	}
	userID := x.caller.User.ID
	for _, host := range hosts {
		all = append(all, aggregate.Commons{Host: host, Origin: origins[host], Token: func(ctx context.Context) (token string, err error) {
			for _, id := range ids[host] {
				got, failed := s.Broker.Token(ctx, userID, id, aggregateLife)
				if failed == nil {
					return string(got.Value), nil
				}
				err = errors.Join(err, failed)
			}
			return "", err
		}})
	}
	return all, nil
}

// aggregateLife is what a token has to live to be of use for one request.
const aggregateLife = 30 * time.Second

// commonsOf is the commons that a provider belongs to: its host is what answers are filed under.
func commonsOf(of broker.Listed) (host, origin string) {
	parsed, err := url.Parse(of.BaseURL)
	if err != nil {
		return of.BaseURL, of.BaseURL
	}
	return parsed.Host, parsed.Scheme + "://" + parsed.Host
}
