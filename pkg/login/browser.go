package login

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/oauth2"
)

// decideWithin is how long a person has in the browser.
const decideWithin = 10 * time.Minute

// ByBrowser begins a login in the browser of this machine, which open opens, and which it may wait for until it is closed: a code with PKCE, sent back to a port of a
// loopback address (RFC 8252 7.3). The errors are ErrDenied, ErrTooLate, *api.Error, and those of the network and of open.
func (s Service) ByBrowser(ctx context.Context, scopes []string, open func(address string) error) (Login, error) {
	ctx, cancel := context.WithTimeout(ctx, decideWithin)
	defer cancel()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		if listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "[::1]:0"); err != nil {
			return Login{}, fmt.Errorf("no port for the browser to come back to: %w", err)
		}
	}
	config := s.config(scopes)
	config.RedirectURL = "http://" + listener.Addr().String() + "/callback"
	state, verifier, back := rand.Text(), oauth2.GenerateVerifier(), make(chan answer, 1)
	server := &http.Server{Handler: receiver{s.Issuer, state, back}, ReadHeaderTimeout: patience}
	go func() { _ = server.Serve(listener) }() // until it is closed
	defer server.Close()                       //nolint:errcheck // nothing is under way
	opened := make(chan error, 1)
	go func() { opened <- open(config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier), forAudience)) }() // some open it until it is closed
	var got answer
	for waiting := true; waiting; {
		select {
		case got = <-back:
			waiting = false
		case err := <-opened:
			if opened = nil; err != nil {
				return Login{}, err
			}
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return Login{}, ErrTooLate
			}
			return Login{}, ctx.Err()
		}
	}
	stopping, stopped := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // the browser reads its page first
	defer stopped()
	_ = server.Shutdown(stopping)
	switch {
	case got.error == "access_denied":
		return Login{}, ErrDenied
	case got.error != "":
		return Login{}, fmt.Errorf("the service refuses: %q", got.error)
	}
	token, err := config.Exchange(withClient(ctx), got.code, oauth2.VerifierOption(verifier))
	if err != nil {
		return Login{}, said(err)
	}
	return s.begun(token), nil
}

// answer is what a browser comes back with.
type answer struct{ code, error string }

// receiver takes the one answer that belongs to the question; what else comes, from any page that knows the port, is
// refused and changes nothing.
type receiver struct {
	issuer, state string
	back          chan answer
}

// ServeHTTP implements http.Handler.
func (r receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	query := request.URL.Query()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Content-Security-Policy", "default-src 'none'")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	belongs := subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(r.state)) == 1 && query.Get("iss") == r.issuer // RFC 9207
	if request.Method != http.MethodGet || request.URL.Path != "/callback" || !belongs {
		http.Error(w, "This is no answer to the question that was asked.", http.StatusBadRequest)
		return
	}
	select {
	case r.back <- answer{query.Get("code"), query.Get("error")}:
	default: // a reload
	}
	fmt.Fprint(w, "<!doctype html><html lang=en><meta name=viewport content=\"width=device-width\"><title>wts</title><h1>Go on in the terminal</h1><p>You can close this page.</p></html>")
}
