package main

import (
	"context"
	"crypto/fips140"
	"encoding/hex"
	"errors"
	"log/slog"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/pkg/store"
)

const (
	retryEvery    = time.Second
	maintainEvery = time.Minute
	tidyEvery     = 10 * time.Minute
	endingsEvery  = 5 * time.Minute
)

// keepHouse brings the database up to date as soon as it can be reached, and then keeps the signing
// keys and the tables in order. It ends early only for what no waiting mends.
func (s *service) keepHouse(ctx context.Context) error {
	if err := s.reach(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	close(s.prepared)
	maintain, tidy, endings := time.NewTicker(maintainEvery), time.NewTicker(tidyEvery), time.NewTicker(endingsEvery)
	defer maintain.Stop()
	defer tidy.Stop()
	defer endings.Stop()
	for err := s.lookAtEndings(ctx); ; {
		if err != nil && ctx.Err() == nil {
			s.log.Warn("housekeeping failed, and will be tried again", slog.String("error", err.Error()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-maintain.C:
			err = errors.Join(s.issuer.Maintain(ctx), s.apiTokens.Notify(ctx))
		case <-tidy.C:
			err = errors.Join(s.store.Tidy(ctx), s.store.Audit.Cut(ctx, time.Now().Add(-s.config.Audit.WithDefaults().Retention)))
		case <-endings.C:
			err = s.lookAtEndings(ctx)
		}
	}
}

// lookAtEndings learns at what age providers end grants whose end they do not state, and counts those that are about
// to end.
func (s *service) lookAtEndings(ctx context.Context) error {
	if err := s.broker.Learn(ctx); err != nil {
		return err
	}
	soon, err := s.store.Endings.Soon(ctx)
	if err != nil {
		return err
	}
	counted := map[string]store.EndingSoon{}
	for _, one := range soon {
		counted[one.Provider] = one
	}
	for id := range s.config.Providers {
		s.metrics.GrantsEnding(id, counted[id].Day, counted[id].Week)
	}
	return nil
}

// followTrail brings what was done into the database, once that is ready.
func (s *service) followTrail(ctx context.Context) {
	if s.trail == nil {
		return
	}
	select {
	case <-ctx.Done():
	case <-s.prepared:
		s.trail.Run(ctx, func(err error) {
			s.log.Error("the audit waits for the database; the log has it", slog.String("error", err.Error()))
		})
	}
}

// reach waits for the database: a replica that starts before it serves as soon as it is there.
func (s *service) reach(ctx context.Context) error {
	for said := ""; ; {
		err := s.prepare(ctx)
		if err == nil {
			s.log.Info("the database is ready")
			return nil
		}
		if errors.Is(err, store.ErrTooNew) {
			return err
		}
		if err.Error() != said {
			said = err.Error()
			s.log.Error("the database cannot be used yet, and is tried every second", slog.String("error", said))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryEvery):
		}
	}
}

func (s *service) prepare(ctx context.Context) error {
	if _, err := s.store.Migrate(ctx); err != nil {
		return err
	}
	if err := s.issuer.Maintain(ctx); err != nil {
		return err
	}
	unreadable, total, err := s.store.Unreadable(ctx)
	if err != nil {
		return err
	}
	if sealed := s.issuer.Sealed(); unreadable > 0 || sealed > 0 {
		s.log.Error("the keyring does not open everything in the database; what it does not open is kept, and its users are asked to log in again. Is it the right key file?"+inMode(),
			slog.Int("connections", unreadable), slog.Int("of", total), slog.Int("signing_keys", sealed))
	}
	return nil
}

// inMode is what else keeps seals from being opened in FIPS 140-3 mode.
func inMode() string {
	if !fips140.Enabled() {
		return ""
	}
	return "; FIPS 140-3 mode opens form 2 alone: leave the mode, set seal_format to 2, run `wts keys reencrypt`, and begin it again"
}

// feed is what this replica does about changes of others.
func (s *service) feed() store.Listener {
	return store.Listener{
		Connection: s.broker.Forget, Landed: s.broker.Landed, User: s.userChanged, Session: s.session.Forget, Keys: s.reloadKeys,
		Token: func(digestHex string) {
			if raw, err := hex.DecodeString(digestHex); err == nil && len(raw) == len(apitoken.Digest{}) {
				s.apiTokens.Forget(apitoken.Digest(raw))
			}
		},
		Missed: func(ctx context.Context) {
			s.broker.ForgetAll()
			s.authn.Forget()
			s.apiTokens.ForgetAll()
			s.reloadKeys(ctx)
		},
	}
}

// userChanged has a user looked up again, who may be disabled: what status lists say depends on it too.
func (s *service) userChanged(id, username string) {
	s.authn.ForgetUser(id, username)
	s.apiTokens.UsersChanged()
}

func (s *service) reloadKeys(ctx context.Context) {
	if err := s.issuer.Reload(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("the signing keys cannot be read again", slog.String("error", err.Error()))
	}
}
