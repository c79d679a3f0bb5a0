package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/login"
)

// tokenSource is from where a command has its token: which service, by which proof, and what is wanted.
type tokenSource struct {
	person
	proofFile string
	want      api.Request
	wait      time.Duration
}

func (s *tokenSource) flags(command *cobra.Command) {
	s.person.flags(command)
	flags := command.Flags()
	flags.StringVar(&s.proofFile, "proof-file", "", "a projected service-account token, or an API token; without it your login proves who calls, else the address")
	flags.StringVar(&s.want.Audience, "audience", "", "want a token that wts signs for this audience")
	flags.StringVar(&s.want.IDP, "idp", "", "want this provider's own access token")
	flags.StringSliceVar(&s.want.Scopes, "scope", nil, "scopes of an audience's token")
	flags.StringSliceVar(&s.want.Datasets, "dataset", nil, "datasets of an integration that the token is to name; all of them where none is named")
	s.want.Expires = 10 * time.Minute
	flags.Var((*span)(&s.want.Expires), "expires", "the life that is wanted, in seconds or like 10m")
	flags.Var((*span)(&s.wait), "wait", "try again for so long, in seconds or like 2m, where the service is away, or the person has yet to log in")
}

// getter asks the service for a token. A login proves who calls where one is kept for the service and no file is named;
// a worker has none, and is known by its address.
func (s *tokenSource) getter(ctx context.Context) (func(context.Context) (api.Token, error), error) {
	client := &api.Client{URL: s.url}
	if s.proofFile == "" {
		logins, address, err := s.login()
		if err != nil {
			return nil, err
		}
		if address != "" {
			client.URL, client.Proof = address, proofOf(ctx, logins, address)
		}
	} else {
		client.Proof = api.ProofFile(s.proofFile)
	}
	if client.URL == "" {
		return nil, usagef("--url is missing (or WTS_URL): where is wts? Or log in: wts login https://wts.example.org")
	}
	if err := checkURL(client.URL); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (api.Token, error) { return client.Token(ctx, s.want) }, nil
}

// login is the login that is kept for the service, by its address: an empty one where there is none, as for a service
// that is reached without encryption, or in a container without a home.
func (s *tokenSource) login() (logins *login.Store, address string, err error) {
	if logins, err = login.NewStore(); err != nil {
		return nil, "", nil //nolint:nilerr // there is no place where one could be
	}
	if address = s.url; address == "" {
		address, err = logins.Current()
	} else if address, err = login.Address(address); err != nil {
		return logins, "", nil //nolint:nilerr // none is kept for such an address; checkURL says what is wrong with it
	}
	if err == nil {
		_, err = logins.Find(address)
	}
	if errors.Is(err, login.ErrNone) {
		return logins, "", nil
	}
	return logins, address, err
}

// span is a time that a flag takes in seconds, as HTTP does, or as Go writes durations.
type span time.Duration

// Set implements pflag.Value.
func (s *span) Set(text string) error {
	length, err := time.ParseDuration(text)
	if seconds, plain := strconv.ParseUint(text, 10, 31); plain == nil {
		length, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || length < 0 {
		return errors.New("want seconds like 600, or a time like 10m")
	}
	*s = span(length)
	return nil
}

// String implements pflag.Value.
func (s *span) String() string { return time.Duration(*s).String() }

// Type implements pflag.Value.
func (s *span) Type() string { return "time" }
