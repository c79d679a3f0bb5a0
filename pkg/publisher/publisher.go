// Package publisher lets CI jobs act for a resource without a secret that is stored in CI.
//
// A maintainer names whose jobs: an issuer that the operator trusts (GitHub Actions, GitLab, any other that signs OIDC
// tokens for jobs), a subject, and claims. A job exchanges its token for a short one of the resource's audience. The
// package owns which job's token matches; what the audience allows is the issuer's.
package publisher

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Why a job's token is not exchanged; all mean that the token is not accepted. What wraps one says why.
var (
	// ErrToken: the token is no good, or of an issuer that is not trusted.
	ErrToken = errors.New("the job's token is not accepted")
	// ErrReplayed: the token was exchanged before.
	ErrReplayed = errors.New("the job's token was exchanged already; a job asks its CI for a new one")
	// ErrNoMatch: no trusted publisher of the resource fits the token.
	ErrNoMatch = errors.New("no trusted publisher of the resource fits the job")
)

var (
	// ErrUnavailable: the issuer of jobs' tokens, or the database, does not answer.
	ErrUnavailable = errors.New("the job's token cannot be judged at the moment")
	// ErrUnknown: there is no such publisher.
	ErrUnknown = errors.New("there is no such trusted publisher")
	// ErrInput: what was sent makes no sense. What wraps it says why.
	ErrInput = errors.New("the trusted publisher is not valid")
	// ErrFull: the resource has as many as one may have.
	ErrFull = errors.New("there are as many trusted publishers as there may be; delete one first")
)

// Config is which issuers may be named, as the operator writes it.
type Config struct {
	// Issuers sign the tokens of CI jobs; each is the issuer identifier of OIDC. Without one there are no trusted
	// publishers.
	Issuers []string `config:"trusted_issuers"`
}

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	var faults []error
	for i, issuer := range c.Issuers {
		parsed, err := url.Parse(issuer)
		loopback := err == nil && parsed.Scheme == "http" && slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, parsed.Hostname())
		if err != nil || parsed.Host == "" || parsed.RawQuery != "" || parsed.Fragment != "" || parsed.Scheme != "https" && !loopback {
			faults = append(faults, fmt.Errorf("trusted_issuers[%d]: is no issuer like https://token.actions.githubusercontent.com: %q", i, issuer))
		}
	}
	return errors.Join(faults...)
}

// Publisher is whose jobs act for a resource.
type Publisher struct {
	ID                 string
	Audience, Resource string
	Issuer             string
	// Subject is the sub of the job's token; one asterisk in its last part stands for any text without a colon.
	Subject string
	// Claims are further ones that the token has to have, each with this value.
	Claims map[string]string
	Scopes []string
	Name   string
	// CreatedBy is the user's id.
	CreatedBy             string
	CreatedAt, LastUsedAt time.Time // LastUsedAt is zero for one that was not used
}

// Store keeps trusted publishers. Its errors are ErrUnknown, ErrFull, ErrReplayed and ErrUnavailable.
type Store interface {
	// CreatePublisher stores one, unless its resource has as many as limit.
	CreatePublisher(ctx context.Context, publisher Publisher, limit int) error
	// Publishers are those of a resource, the oldest first.
	Publishers(ctx context.Context, audience, resource string) ([]Publisher, error)
	DeletePublisher(ctx context.Context, audience, resource, id string) error
	// Spend notes that a job's token was exchanged, which expires at a time, and by which publisher. It is ErrReplayed
	// for one that was noted before.
	Spend(ctx context.Context, digest string, expires time.Time, publisherID string) error
}

const (
	maxPublishers         = 50 // of a resource
	maxClaims             = 20
	maxText               = 256 // bytes of a claim's name or value
	maxSubject, maxIssuer = 512, 512
)

// reserved are claims that are judged already, or say nothing of whose job it is.
var reserved = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}

// check judges what a maintainer names.
func (p *Publisher) check() error {
	fault := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrInput}, args...)...)
	}
	switch {
	case strings.TrimSpace(p.Name) == "" || len(p.Name) > 100:
		return fault("name has to have 1 to 100 bytes")
	case len(p.Subject) > maxSubject || len(p.Issuer) > maxIssuer:
		return fault("subject and issuer have at most %d bytes", maxSubject)
	case len(p.Claims) > maxClaims:
		return fault("more than %d claims", maxClaims)
	}
	for name, value := range p.Claims {
		switch {
		case slices.Contains(reserved, name):
			return fault("claims: %s cannot be named; it is judged already", name)
		case name == "" || value == "" || len(name) > maxText || len(value) > maxText:
			return fault("claims: a name and a value have 1 to %d bytes", maxText)
		case strings.Contains(value, "*"):
			return fault("claims: a value has no asterisk; it is compared as it is")
		}
	}
	return checkSubject(p.Subject)
}

// checkSubject wants a subject that names whose jobs are meant. An asterisk stands for a part of a branch or a tag: one
// before it is for every repository of an owner, or every owner, and one alone for every event, pull requests of
// strangers too.
func checkSubject(subject string) error {
	last := subject[strings.LastIndexByte(subject, ':')+1:]
	switch {
	case strings.TrimSpace(subject) == "":
		return fmt.Errorf("%w: subject is missing", ErrInput)
	case strings.Count(subject, "*") > 1:
		return fmt.Errorf("%w: subject has more than one asterisk", ErrInput)
	case !strings.Contains(subject, "*"):
		return nil
	case !strings.Contains(last, "*") || last == subject:
		return fmt.Errorf("%w: subject has an asterisk before its last colon; it may stand for a part of what follows it", ErrInput)
	case strings.HasPrefix(last, "*"):
		return fmt.Errorf("%w: subject has an asterisk right behind its last colon; name what the text begins with, as in refs/heads/release-*", ErrInput)
	}
	return nil
}

// fits tells whether a job's token is one of the publisher's.
func (p *Publisher) fits(issuer, subject string, claim func(name string) (string, bool)) bool {
	if p.Issuer != issuer || !subjectFits(p.Subject, subject) {
		return false
	}
	for name, want := range p.Claims {
		if got, there := claim(name); !there || got != want {
			return false
		}
	}
	return true
}

func subjectFits(pattern, subject string) bool {
	before, after, any := strings.Cut(pattern, "*")
	if !any {
		return pattern == subject
	}
	middle, ok := strings.CutPrefix(subject, before)
	if !ok || len(middle) < len(after) || !strings.HasSuffix(middle, after) {
		return false
	}
	return !strings.Contains(middle[:len(middle)-len(after)], ":")
}
