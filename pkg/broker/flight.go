package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// A flight is one claim on a connection: the right to present its refresh token, once. Whoever has
// it presents; everybody else waits for it to land (refresh-engine.md steps 4 to 9).

// Flight is a claim that was given.
type Flight struct {
	ID string
	// Connection is the row as it was claimed; its version is the claim's.
	Connection
	// Digest is that of the token to present, which every change at the end is conditional on.
	Digest []byte
	// Doubtful: the outcome of an earlier presentation of this very token is not known.
	Doubtful bool
	// First: nobody has presented this token before.
	First bool

	// Presented is how long before the claim this token was first presented; zero where it was not.
	Presented time.Duration

	epoch   int64     // of this replica's lease, before the claim was sent
	claimed time.Time // before that, on this process' clock
	over    bool      // it was taken over, and its former owner may yet come back with a successor
}

// Claim asks for a flight over a row as it was read.
type Claim struct {
	UserID, Provider string
	Version          int64
	ID, Replica      string
	// Over is the flight to take over, of a replica that is gone; empty for a row without one.
	Over string
}

// Verdict ends a flight that brought no token.
type Verdict struct {
	Phase  Phase
	Reason string
	// After is how long nobody is to present the token.
	After time.Duration
	// Unsent: the token never left this process.
	Unsent bool
}

// Orphan is a flight that may have lost its replica, or a row of which an earlier presentation's
// outcome is not known and that nobody has claimed since.
type Orphan struct {
	Connection
	Digest          []byte
	Flight, Replica string
	// Since the replica was last heard, the claim was made, this token was first presented.
	Silent, Claimed, Presented time.Duration
	// First: the claim was the first one on this token.
	First bool
	// ProviderRotates: some connection of the provider's has got a new refresh token at a refresh.
	ProviderRotates bool
}

// Flights keeps claims. Each method is one transaction, or one statement. The same rules hold on every
// database; storetest states them.
type Flights interface {
	// Claim gives a flight. The errors are ErrClaimed, ErrSuperseded and *NotYet.
	Claim(ctx context.Context, claim Claim) (Flight, error)
	// Commit stores what a flight brought; ErrSuperseded where another token has taken the place of the
	// one that was presented, for which the successor is then dropped.
	Commit(ctx context.Context, flight Flight, tokens provider.Tokens) error
	// Settle ends a flight that brought nothing, under the same condition.
	Settle(ctx context.Context, flight Flight, verdict Verdict) error
	// Beat says that a replica lives, and returns how many do, with it.
	Beat(ctx context.Context, replica string) (living int, err error)
	// Orphans finds what this replica's sweeper has to judge: flights of replicas that are silent, or known
	// to be gone, flights that last too long, its own, and doubts that are due.
	Orphans(ctx context.Context, replica string, gone []string) ([]Orphan, error)
}

// Outbox keeps tokens that are to be revoked at their providers.
type Outbox interface {
	// TakeRevocation gives one that is due, to nobody else for a while; the zero one where none is.
	TakeRevocation(ctx context.Context) (Revocation, error)
	// Revoked ends it.
	Revoked(ctx context.Context, id string) error
}

// Revocation is a token to be revoked.
type Revocation struct {
	ID, Provider string
	Token        secret.Text
}

var (
	// ErrClaimed: another flight has the connection.
	ErrClaimed = errors.New("another flight has it")
	errLapsed  = errors.New("this replica's lease has lapsed")
)

// NotYet says that a connection is not to be presented for a while.
type NotYet struct{ In time.Duration }

func (n *NotYet) Error() string { return fmt.Sprintf("not to be tried for %s", n.In) }

// Rotation is what a connection's refreshes have shown.
type Rotation string

// The rotations.
const (
	RotationUnknown Rotation = "unknown"
	RotationYes     Rotation = "yes"
	RotationNo      Rotation = "no"
)
