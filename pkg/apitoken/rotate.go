package apitoken

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Rotate gives a token another value; the present one goes on for the overlap (a day unless it is said; 0 ends it now).
// Who rotates a resource's token has to be allowed what it may do, as who makes one.
func (s *Service) Rotate(ctx context.Context, who issuer.Person, id string, overlap *time.Duration) (token Token, value string, err error) {
	token, err = s.Get(ctx, who, id)
	if err == nil && token.Kind == Resource {
		err = s.judge.audiences.Allow(token.Audience, who, token.Scopes)
	}
	if err != nil {
		return Token{}, "", err
	}
	return s.rotate(ctx, token, nil, overlap)
}

// RotateSelf rotates the token whose value is presented. A value that has a successor may rotate nothing any more: two
// have a copy of the token, and it is revoked (rule B8).
func (s *Service) RotateSelf(ctx context.Context, presented string, from netip.Addr, overlap *time.Duration) (token Token, value string, err error) {
	token, err = s.Check(ctx, presented, from)
	if err != nil && !errors.Is(err, ErrReplaced) {
		return token, "", err
	}
	digest := DigestOf(presented)
	return s.rotate(ctx, token, &digest, overlap)
}

// rotate gives a token another value, for a person, or for who presents a value. Only the newest value may: of two
// programs that have the same token one is a thief, and neither knows which. With an error of rule B8 the token is
// returned too, for the audit.
func (s *Service) rotate(ctx context.Context, token Token, presented *Digest, overlap *time.Duration) (_ Token, value string, err error) {
	pause := defaultOverlap
	if overlap != nil {
		pause = *overlap
	}
	if pause < 0 || pause > maxOverlap {
		return Token{}, "", fmt.Errorf("%w: the overlap is 0 to %d seconds", ErrInput, int64(maxOverlap/time.Second))
	}
	var made Value
	reused := presented != nil && token.Values[0].Digest != *presented
	if !reused { // outside the transaction, which finds out whether it is needed
		who, scopes, err := s.rights(ctx, token)
		if err != nil {
			return token, "", err
		}
		narrowed := token
		narrowed.Scopes = scopes
		if value, made, err = s.value(ctx, narrowed, who, s.now()); err != nil {
			return token, "", err
		}
	}
	token, err = s.change(ctx, token.ID, func(token Token, now time.Time) (Token, error) {
		switch token.State(now) {
		case "revoked":
			return token, ErrRevoked
		case "expired":
			return token, ErrExpired
		}
		if reused = presented != nil && token.Values[0].Digest != *presented; reused {
			return token.revoke(now, "wts", "a value that had a successor was presented to rotate it"), nil
		}
		made.CreatedAt = now
		return token.succeed(made, now, pause)
	})
	switch {
	case err != nil:
		return token, "", err
	case reused:
		return token, "", ErrReplaced
	}
	return token, value, nil
}

// succeed gives a token a value, and each former one its end. Of the values of an opaque token those that ended first
// are forgotten beyond a bound; a JWT's number stays as long as it can be presented.
func (t Token) succeed(made Value, now time.Time, overlap time.Duration) (Token, error) {
	values := slices.Clone(t.Values)
	end := now.Add(overlap)
	for i := range values {
		if until := &values[i].Until; until.IsZero() || until.After(end) {
			*until = end
		}
	}
	for i := len(values) - 1; i >= 0 && len(values) >= maxValues; i-- {
		if t.Format == Opaque && !now.Before(values[i].Until) {
			values = slices.Delete(values, i, i+1)
		}
	}
	if len(values) >= maxValues {
		return t, ErrRotations
	}
	t.Values = slices.Insert(values, 0, made)
	return t, nil
}
