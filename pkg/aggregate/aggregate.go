// Package aggregate sends one request to every commons and gathers what they answer.
//
// It owns which endpoints may be asked, how long a commons may take and how much it may say. It does
// not own tokens: the caller brings, for each commons, a function that gets one.
package aggregate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

var (
	// ErrEndpoint: the endpoint is not one that may be asked.
	ErrEndpoint = errors.New("the endpoint is not in the allow-list")
	// ErrTooOften: this caller asks too often, and may ask again in a moment.
	ErrTooOften = errors.New("too many requests")
)

// Config says what may be asked, as the operator writes it.
type Config struct {
	// Endpoints are the paths that may be asked, like /authz/mapping. None unless told otherwise.
	Endpoints []string `config:"endpoints"`
	// Timeout bounds what one commons may take, its token included. Default 5 s.
	Timeout time.Duration `config:"timeout"`
	// MaxBytes bounds what one commons may answer. Default 4 MiB.
	MaxBytes int64 `config:"max_bytes"`
	// PerSecond and Burst bound the requests of one caller, each of which becomes one to every commons.
	// Default 20 a second, 50 at once. Callers who are nobody share a bound with whoever else comes from
	// their address.
	PerSecond float64 `config:"per_second"`
	Burst     int     `config:"burst"`
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	for i, path := range c.Endpoints {
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?#\\ ") || strings.Contains(path, "..") || path == "/" {
			faults = append(faults, fmt.Errorf("aggregate.endpoints[%d]: %q is not a path like /authz/mapping", i, path))
		}
	}
	if c.Timeout < 0 || c.MaxBytes < 0 || c.PerSecond < 0 || c.Burst < 0 {
		faults = append(faults, errors.New("aggregate: timeout, max_bytes, per_second and burst must not be negative"))
	}
	return errors.Join(faults...)
}

// Commons is one to ask.
type Commons struct {
	// Host is the key of its answer: host, or host:port.
	Host string
	// Origin is its scheme and host.
	Origin string
	// Token gets the token to ask with; nil where none is sent.
	Token func(ctx context.Context) (string, error)
}

// Aggregator asks. It is safe for concurrent use.
type Aggregator struct {
	config  Config
	client  *http.Client
	callers *otter.Cache[string, *rate.Limiter]

	mu     sync.Mutex
	places map[string]places // by host; the commons are configured, so that they are few
}

const (
	maxCallers = 100_000
	// The requests to one commons at once, whose answers are held in memory.
	maxUsersAsking, maxAnonymousAsking = 16, 4
)

// New makes an aggregator of a valid configuration.
func New(config Config) *Aggregator {
	if config.Timeout == 0 {
		config.Timeout = 5 * time.Second
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = 4 << 20
	}
	config.PerSecond, config.Burst = cmp.Or(config.PerSecond, 20), cmp.Or(config.Burst, 50)
	endpoints := make([]string, 0, len(config.Endpoints))
	for _, path := range config.Endpoints {
		endpoints = append(endpoints, strings.TrimRight(path, "/"))
	}
	config.Endpoints = endpoints
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 8
	transport.MaxResponseHeaderBytes = 64 << 10
	return &Aggregator{
		config: config,
		client: &http.Client{
			Transport: transport,
			// A redirect could carry the token to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		places: map[string]places{},
		callers: otter.Must(&otter.Options[string, *rate.Limiter]{
			MaximumSize: maxCallers, ExpiryCalculator: otter.ExpiryAccessing[string, *rate.Limiter](10 * time.Minute),
		}),
	}
}

// filters is the parameter that is ours; every other goes on to the commons.
const filters = "filters"

// Check says whether a caller may ask an endpoint now. The errors are ErrEndpoint and ErrTooOften.
func (a *Aggregator) Check(caller, endpoint string) error {
	if !a.serves(endpoint) {
		return ErrEndpoint
	}
	limiter, _ := a.callers.ComputeIfAbsent(caller, func() (*rate.Limiter, bool) {
		return rate.NewLimiter(rate.Limit(a.config.PerSecond), a.config.Burst), false
	})
	if !limiter.Allow() {
		return ErrTooOften
	}
	return nil
}

func (a *Aggregator) serves(endpoint string) bool {
	return slices.Contains(a.config.Endpoints, strings.TrimRight(endpoint, "/"))
}

// Get asks every commons at once and returns their answers by host. null stands for a commons that did not
// answer, or not with JSON; in a commons' part it stands for a filter that names no key there (Gen3
// contract 1.4). Anonymous requests have places of their own, so that they cannot take those of users. The
// error is ErrEndpoint.
func (a *Aggregator) Get(ctx context.Context, all []Commons, endpoint string, query url.Values, anonymous bool) (map[string]json.RawMessage, error) {
	if !a.serves(endpoint) {
		return nil, ErrEndpoint
	}
	passed := url.Values{}
	for name, values := range query {
		if name != filters {
			passed[name] = values
		}
	}
	address := strings.TrimRight(endpoint, "/")
	if len(passed) > 0 {
		address += "?" + passed.Encode()
	}
	answers := make([]json.RawMessage, len(all))
	var asking sync.WaitGroup
	for i, one := range all {
		asking.Go(func() { answers[i] = a.ask(ctx, one, address, query[filters], anonymous) })
	}
	asking.Wait()
	result := make(map[string]json.RawMessage, len(all))
	for i, one := range all {
		result[one.Host] = answers[i]
	}
	return result, nil
}

var null = json.RawMessage("null")

// ask asks one commons.
func (a *Aggregator) ask(ctx context.Context, one Commons, address string, wanted []string, anonymous bool) json.RawMessage {
	ctx, cancel := context.WithTimeout(ctx, a.config.Timeout)
	defer cancel()
	place := a.placesAt(one.Host).users
	if anonymous {
		place = a.placesAt(one.Host).anonymous
	}
	select {
	case place <- struct{}{}:
		defer func() { <-place }()
	case <-ctx.Done():
		return null
	}
	body, ok := a.fetch(ctx, one, address)
	switch {
	case !ok:
		return null
	case len(wanted) == 0:
		return body
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil || object == nil {
		return null // a list has no keys
	}
	chosen := make(map[string]json.RawMessage, len(wanted))
	for _, key := range wanted {
		chosen[key] = null
		if value, there := object[key]; there {
			chosen[key] = value
		}
	}
	rendered, err := json.Marshal(chosen)
	if err != nil {
		return null
	}
	return rendered
}

// fetch gets one JSON document: with the user's token where there is one, without it where there is none
// or it cannot be had (Gen3 contract 1.4).
func (a *Aggregator) fetch(ctx context.Context, one Commons, address string) (json.RawMessage, bool) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, one.Origin+address, nil)
	if err != nil {
		return nil, false
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "Gen3WTS (wts)")
	if token := a.token(ctx, one); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, false
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, false
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, a.config.MaxBytes+1))
	if err != nil || int64(len(body)) > a.config.MaxBytes || !json.Valid(body) {
		return nil, false
	}
	return bytes.TrimSpace(body), true
}

// token gets the user's token in at most half of the time that the commons has: the other half is left to
// ask without it.
func (a *Aggregator) token(ctx context.Context, one Commons) string {
	if one.Token == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, a.config.Timeout/2)
	defer cancel()
	token, err := one.Token(ctx)
	if err != nil {
		return ""
	}
	return token
}

// places are the requests under way to one commons, of users and of anonymous callers: a commons that
// hangs takes up its own places and no other's, and anonymous callers take up no user's.
type places struct{ users, anonymous chan struct{} }

// placesAt are the places of a commons, by its host: two providers of one commons share them.
func (a *Aggregator) placesAt(host string) places {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, known := a.places[host]
	if !known {
		at = places{make(chan struct{}, maxUsersAsking), make(chan struct{}, maxAnonymousAsking)}
		a.places[host] = at
	}
	return at
}
