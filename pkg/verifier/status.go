package verifier

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// ErrRevoked: the token was revoked before its time.
var ErrRevoked = errors.New("revoked")

// A token that names a status list (draft-ietf-oauth-status-list) is good while its bit is not set. The list is signed
// by the issuer, and fetched seldom: one list says of a million tokens whether they were revoked.

const (
	// maxListBytes bounds a list as it is fetched, and maxBits as it is unpacked: a million and some.
	maxListBytes = 256 << 10
	maxBits      = 4 << 20 / 8
	maxLists     = 16
	// Bounds of how long a list is kept, whatever it says itself.
	leastTTL, mostTTL = 5 * time.Second, time.Hour
	defaultTTL        = time.Minute
)

// statusList is a list that was fetched.
type statusList struct {
	bytes     []byte
	bits      int // for each token
	fetched   time.Time
	issuedAt  time.Time
	ttl       time.Duration
	expiresAt time.Time // zero: it does not say
}

// at is the status of an index; 0 is valid.
func (l *statusList) at(index int64) (int, bool) {
	perByte := int64(8 / l.bits)
	if index < 0 || index/perByte >= int64(len(l.bytes)) {
		return 0, false
	}
	return int(l.bytes[index/perByte]>>(int(index%perByte)*l.bits)) & (1<<l.bits - 1), true
}

// statusLists are the lists in memory. They are few and small: one says of a million tokens, in some twenty kilobytes on
// the wire and an eighth of a megabyte here.
type statusLists struct {
	fetching singleflight.Group
	mu       sync.Mutex
	lists    map[string]*knownList
}

// knownList is the last good list of an address, and the last attempt to fetch it.
type knownList struct {
	list     *statusList // nil before the first
	triedAt  time.Time
	fetching bool
	err      error // of the last attempt that ended
}

const (
	// statusRetry is how long after an attempt began the next one may, and statusAgain where no list is at hand.
	statusRetry, statusAgain = 5 * time.Second, time.Second
)

// revoked refuses a token whose status is not that of a valid one. A list that cannot be had anew goes on until it says
// itself that it ends; without one nothing is known of the token.
func (v *Verifier) revoked(ctx context.Context, claims *Claims) error {
	if claims.status == nil {
		return nil
	}
	list, err := v.statusList(ctx, claims.status.uri)
	if err != nil {
		return err
	}
	status, known := list.at(claims.status.index)
	switch {
	case !known:
		return fmt.Errorf("%w: its number is in no list", ErrMalformed)
	case status != 0:
		return ErrRevoked
	}
	return nil
}

// statusList is a list at hand that is young enough, or one that is fetched now, once for all who wait for it. It is
// fetched anew beside callers before it is too old. Where that fails, the list at hand goes on until it says itself that
// it ends, and callers wait for an issuer that does not answer a second at most, once in a while.
func (v *Verifier) statusList(ctx context.Context, uri string) (*statusList, error) {
	if !strings.HasPrefix(uri, v.issuer+"/") { // else a token could choose whom we ask
		return nil, fmt.Errorf("%w: its status list is not the issuer's", ErrMalformed)
	}
	now := v.settings.now()
	v.statuses.mu.Lock()
	known := v.statuses.of(uri)
	list, since, fetching, last := known.list, now.Sub(known.triedAt), known.fetching, known.err
	young := list != nil && now.Sub(list.fetched) < list.ttl && (list.expiresAt.IsZero() || now.Before(list.expiresAt))
	usable := young || list != nil && now.Before(list.expiresAt)
	wait, due := 10*time.Second, !fetching && since >= statusAgain
	if usable {
		wait, due = patience, !fetching && since >= statusRetry
	}
	if young {
		wait, due = 0, due && now.Sub(list.fetched) > list.ttl/4*3
	}
	if due {
		known.triedAt, known.fetching = now, true
	}
	v.statuses.mu.Unlock()
	var fetched <-chan singleflight.Result
	if due || fetching {
		fetched = v.statuses.fetching.DoChan(uri, func() (any, error) { return v.renewList(uri, now) })
	}
	switch {
	case young, usable && !due && (!fetching || since >= patience):
		return list, nil
	case fetched == nil:
		return nil, fmt.Errorf("%w: the status list: %w", ErrUnavailable, cmp.Or(last, ErrExpired))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	err := errors.New("the issuer does not answer")
	select {
	case answer := <-fetched:
		if fresh, ok := answer.Val.(*statusList); ok && answer.Err == nil {
			return fresh, nil
		}
		err = answer.Err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
	}
	if usable {
		return list, nil
	}
	return nil, fmt.Errorf("%w: the status list: %w", ErrUnavailable, err)
}

// of is what is known of an address.
func (s *statusLists) of(uri string) *knownList {
	known := s.lists[uri]
	if known == nil {
		if len(s.lists) >= maxLists {
			clear(s.lists) // an issuer of sixteen million tokens
		}
		known = &knownList{}
		s.lists[uri] = known
	}
	return known
}

// renewList fetches and verifies a list, and keeps it. Of two replicas of an issuer one may serve a list that is older
// than what the other one served: then the newer one stays, and the next attempt is near.
func (v *Verifier) renewList(uri string, now time.Time) (*statusList, error) {
	ctx, cancel := context.WithTimeout(v.keys.base, 10*time.Second)
	defer cancel()
	list, err := v.fetchList(ctx, uri, now)
	v.statuses.mu.Lock()
	defer v.statuses.mu.Unlock()
	known := v.statuses.of(uri)
	known.fetching, known.err = false, err
	switch {
	case err != nil:
		return nil, err
	case known.list == nil || !list.issuedAt.Before(known.list.issuedAt):
		known.list = list
	}
	return known.list, nil
}

// fetchList fetches and verifies a list.
func (v *Verifier) fetchList(ctx context.Context, uri string, now time.Time) (*statusList, error) {
	body, err := v.keys.read(ctx, uri)
	if err != nil {
		return nil, err
	}
	return v.readList(ctx, strings.TrimSpace(string(body)), uri, now)
}

// readList verifies a status list token (draft-ietf-oauth-status-list, 8.3).
func (v *Verifier) readList(ctx context.Context, token, uri string, now time.Time) (*statusList, error) {
	head, err := readHeader(token)
	if err != nil {
		return nil, err
	}
	if head.forbidden != "" || !sameType("statuslist+jwt", head.Type) {
		return nil, errors.New("it is of another type")
	}
	key, err := v.keys.find(ctx, head.KeyID)
	if err != nil {
		return nil, err
	}
	if !key.fits(head.Algorithm) {
		return nil, ErrAlgorithm
	}
	payload, err := key.open(token, head.Algorithm)
	if err != nil {
		return nil, err
	}
	var claims struct {
		Subject   string   `json:"sub"`
		IssuedAt  *seconds `json:"iat"`
		ExpiresAt *seconds `json:"exp"`
		TTL       *seconds `json:"ttl"`
		List      struct {
			Bits int    `json:"bits"`
			List string `json:"lst"`
		} `json:"status_list"`
	}
	if _, err := strictObject(payload, &claims); err != nil {
		return nil, err
	}
	list := &statusList{bits: claims.List.Bits, fetched: now, issuedAt: claims.IssuedAt.time(), ttl: defaultTTL, expiresAt: claims.ExpiresAt.time()}
	if claims.TTL != nil {
		list.ttl = min(max(time.Duration(float64(*claims.TTL)*float64(time.Second)), leastTTL), mostTTL)
	}
	switch {
	case claims.Subject != uri:
		return nil, errors.New("it is another list")
	case claims.IssuedAt == nil || claims.IssuedAt.time().After(now.Add(futureTolerance)):
		return nil, ErrNotYetValid
	case claims.ExpiresAt != nil && !now.Before(list.expiresAt):
		return nil, ErrExpired
	}
	list.bytes, err = unpackList(claims.List.Bits, claims.List.List)
	return list, err
}

// unpackList unpacks a list (draft-ietf-oauth-status-list, 4.1 and 4.2).
func unpackList(bits int, text string) ([]byte, error) {
	if bits != 1 && bits != 2 && bits != 4 && bits != 8 {
		return nil, errors.New("it has another number of bits than 1, 2, 4 or 8")
	}
	packed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("it is not base64url")
	}
	reader, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, errors.New("it is not zlib")
	}
	defer reader.Close()
	list, err := io.ReadAll(io.LimitReader(reader, maxBits+1))
	if err != nil || len(list) > maxBits {
		return nil, errors.New("it is cut off, or unpacks to more than is accepted")
	}
	return list, nil
}
