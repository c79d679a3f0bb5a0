package apitoken

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// Statuses keeps the numbers of tokens that are JWTs.
type Statuses interface {
	// NextStatus is a number that no other token has.
	NextStatus(ctx context.Context) (int64, error)
	// LastStatus is the last number that was given away; -1 where none was.
	LastStatus(ctx context.Context) (int64, error)
	// EndedStatuses are the numbers from one up to another, which is not among them, whose values are not to be accepted
	// any more at a time: they were revoked or rotated, or their users have lapsed.
	EndedStatuses(ctx context.Context, from, to int64, at time.Time, lapses []Lapse) ([]int64, error)
}

// Lapse says which users' personal tokens for an audience do not count, although none was revoked: of those who are
// disabled or set aside, or whose grant at a provider was ended, or ran out by time before then.
type Lapse struct {
	Audience, Provider string
	RanOutBefore       time.Time
}

// Signer signs tokens and status lists.
type Signer interface {
	Mint(request issuer.Request) (issuer.Token, error)
	MintLasting(request issuer.Request, lasting issuer.Lasting) (issuer.Token, error)
	SignStatusList(number int64, list []byte) (string, error)
}

const (
	// listAge is how old a list may be that is served: a value whose overlap ended meanwhile is in the next one.
	listAge = issuer.StatusTTL / 6
	// listPause is how soon after one was made the next may be, however often something changes; and for how long it is
	// known that there is no list of a number.
	listPause = time.Second
)

// List is a status list, as it is served.
type List struct {
	Token, ETag string
	made        time.Time
	changes     uint64
}

// lists are the status lists in memory.
type lists struct {
	statuses    Statuses
	signer      Signer
	audiences   Audiences
	provider    string
	rideThrough time.Duration
	now         func() time.Time
	// changes counts what was heard of; a list that was made before the last is not the newest.
	changes atomic.Uint64
	making  singleflight.Group
	mu      sync.Mutex
	made    map[int64]*List
	// last is the last number as it was read at a time.
	last   int64
	lastAt time.Time
}

// given notes that a number was given away: its list is there from now on.
func (l *lists) given(number int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last, number)
}

// changed notes that some token has changed.
func (l *lists) changed() { l.changes.Add(1) }

// StatusList is a list by its number. It is made anew where a token has changed, and at least every ten seconds.
func (l *lists) StatusList(ctx context.Context, number int64) (*List, error) {
	l.mu.Lock()
	known := l.made[number]
	none := number < 0 || number*issuer.StatusListSize > l.last && l.now().Sub(l.lastAt) < listPause
	l.mu.Unlock()
	if none {
		return nil, ErrUnknown
	}
	if known != nil {
		age := l.now().Sub(known.made)
		if age < listPause || age < listAge && known.changes == l.changes.Load() {
			return known, nil
		}
	}
	made, err, _ := l.making.Do(fmt.Sprint(number), func() (any, error) { return l.make(context.WithoutCancel(ctx), number) })
	if err != nil {
		if known != nil && !errors.Is(err, ErrUnknown) && l.now().Sub(known.made) < l.rideThrough {
			return known, nil
		}
		return nil, err
	}
	fresh, _ := made.(*List)
	return fresh, nil
}

// make reads which numbers have ended, and signs the list of their bits. What changes meanwhile is in the next one.
func (l *lists) make(ctx context.Context, number int64) (*List, error) {
	list := &List{made: l.now(), changes: l.changes.Load()} // before the look
	from := number * issuer.StatusListSize
	last, err := l.statuses.LastStatus(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.last, l.lastAt = last, list.made
	l.mu.Unlock()
	if from < 0 || from > last {
		return nil, ErrUnknown
	}
	var lapses []Lapse
	for audience, unseen := range l.audiences.PersonalJWTs() {
		lapses = append(lapses, Lapse{Audience: audience, Provider: l.provider, RanOutBefore: list.made.Add(-unseen)})
	}
	ended, err := l.statuses.EndedStatuses(ctx, from, from+issuer.StatusListSize, list.made, lapses)
	if err != nil {
		return nil, err
	}
	bits := make([]byte, issuer.StatusListSize/8)
	for _, status := range ended {
		bits[(status-from)/8] |= 1 << ((status - from) % 8)
	}
	if list.Token, err = l.signer.SignStatusList(number, bits); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(list.Token))
	list.ETag = `"` + hex.EncodeToString(sum[:8]) + `"`
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made == nil {
		l.made = map[int64]*List{}
	}
	if before := l.made[number]; before == nil || before.made.Before(list.made) {
		l.made[number] = list
	}
	return list, nil
}
