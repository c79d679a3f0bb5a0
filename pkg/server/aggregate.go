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

// commons answers /aggregate.
type commons struct {
	broker     *broker.Broker
	aggregator *aggregate.Aggregator
}

// aggregate asks every configured commons: with the caller's token where there is one, without it where
// there is none or it cannot be had: GET /aggregate/<endpoint>?filters=... (Gen3 contract 1.4).
func (c *commons) aggregate(x *exchange) error {
	endpoint := "/" + strings.Trim(x.Param("endpoint"), "/")
	if endpoint == "/" {
		return errNotFound
	}
	caller, anonymous := x.caller.User.Username, x.caller.Proof == ""
	if anonymous || caller == "" {
		caller = "at " + x.peer.Network().String()
	}
	if err := c.aggregator.Check(caller, endpoint); err != nil {
		return err
	}
	query, err := url.ParseQuery(x.Request.URL.RawQuery)
	if err != nil {
		return badRequest("message", "The query cannot be read: escape it")
	}
	tokens, err := c.connectedCommons(x)
	if err != nil {
		return err
	}
	answers, err := c.aggregator.Get(x.Request.Context(), c.everyCommons(tokens), endpoint, query, anonymous)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, answers)
}

// tokenOf gets a token of the caller's.
type tokenOf func(context.Context) (string, error)

// everyCommons is each configured commons once, with the caller's tokens by host.
func (c *commons) everyCommons(tokens map[string]tokenOf) (all []aggregate.Commons) {
	seen := map[string]bool{}
	for _, one := range c.broker.Providers() {
		host, origin := commonsOf(one)
		if !seen[host] {
			all = append(all, aggregate.Commons{Host: host, Origin: origin, Token: tokens[host]})
		}
		seen[host] = true
	}
	return all
}

// connectedCommons gets tokens for the commons that the caller has connected. Where several providers lead
// to one, the newest connection that gives a token is used.
func (c *commons) connectedCommons(x *exchange) (map[string]tokenOf, error) {
	userID := x.caller.User.ID
	if userID == "" {
		return nil, nil
	}
	connections, err := c.broker.Connections(x.Request.Context(), userID)
	if err != nil {
		return nil, err
	}
	hosts := map[string]string{}
	for _, one := range c.broker.Providers() {
		hosts[one.ID], _ = commonsOf(one)
	}
	ids := map[string][]string{}
	for _, one := range connections {
		if host, configured := hosts[one.Provider]; configured { // it was, when the user connected it
			ids[host] = append(ids[host], one.Provider)
		}
	}
	tokens := map[string]tokenOf{}
	for host, providers := range ids {
		tokens[host] = func(ctx context.Context) (token string, err error) {
			for _, id := range providers {
				got, failed := c.broker.Token(ctx, userID, id, aggregateLife)
				if failed == nil {
					return string(got.Value), nil
				}
				err = errors.Join(err, failed)
			}
			return "", err
		}
	}
	return tokens, nil
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
