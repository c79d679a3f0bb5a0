package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// Flight is a claim that was given: the right to present a connection's refresh token, once. Its holder
// presents the token; everyone else waits until it lands (refresh-engine.md steps 4 to 9).
type Flight struct {
	// Row is the row as it was claimed.
	Row
	// Doubtful: the outcome of an earlier presentation of this very token is not known.
	Doubtful bool
	// First: the token was not presented before.
	First bool
	// Presented is how long before the claim this token was first presented.
	Presented time.Duration

	epoch   int64     // of this replica's lease, before the claim was sent
	claimed time.Time // before that, on this process's clock
	over    bool      // its token was taken over from a replica that may come back with the successor
	stamp   uint64    // of the cache, before the row was read that was claimed
}

// flightOf is the flight that a claimed row describes.
func flightOf(row Row) Flight {
	doubtful := row.doubtful()
	return Flight{Row: row, Doubtful: doubtful, over: row.Reason == takenOver, First: !doubtful && row.PresentedAt.Equal(row.ClaimedAt), Presented: row.ClaimedAt.Sub(row.PresentedAt)}
}

// presentedFor is how long ago the token was first presented.
func (f *Flight) presentedFor() time.Duration { return f.Presented + elapsed(f.claimed, time.Now()) }

// verdict ends the flight.
func (f *Flight) verdict(phase Phase) Verdict {
	verdict := Verdict{Flight: f.FlightID, Presented: f.Digest, Token: f.RefreshToken, Phase: phase, First: f.First}
	if phase == Suspect {
		verdict.Reason = cmp.Or(f.Reason, doubted)
	}
	return verdict
}

// Store keeps connections. Each method is one statement or one transaction. The same rules hold on
// every database; storetest states them.
type Store interface {
	// Row reads a row; ErrNotConnected where there is none.
	Row(ctx context.Context, userID, providerID string) (Row, error)
	// Rows reads all of a user's rows, in whatever phase.
	Rows(ctx context.Context, userID string) ([]Row, error)
	// Apply applies an action to the row and stores what it makes of it. It begins with the row at hand
	// where that has a version, and reads it again where another was quicker. Errors are those of the
	// function Apply, the change's Refusal, and failures of the database.
	Apply(ctx context.Context, row Row, action Action) (Change, error)
	// Disconnect applies Disconnect, and ends what else may be kept of the connection; ErrNotConnected
	// where there is nothing to disconnect.
	Disconnect(ctx context.Context, userID, providerID string) error
	// Orphans finds what a sweeper has to judge, and the heartbeats as they are after that.
	Orphans(ctx context.Context, look Look) ([]Orphan, Pulse, error)
}

// Look is what a sweeper asks for: flights of its own replica, of replicas that are not healthy, and
// those that were claimed longer ago than Overdue; and doubts that are due. Of neither those that began, or came due,
// less than Rested ago: whoever has to do with them is about to.
type Look struct {
	Replica         string
	Healthy         []string
	Overdue, Rested time.Duration
}

// Replicas keeps the processes' heartbeats.
type Replicas interface {
	// Beat changes this replica's heartbeat, and tells the others what it says.
	Beat(ctx context.Context, beat Beat) (Pulse, error)
	// Gone notes that a replica's process is dead, and that what its spool held was offered. Its next
	// heartbeat takes that back.
	Gone(ctx context.Context, replica string) error
}

// Beat is what a replica says with its heartbeat.
type Beat struct {
	Replica string
	// Offered is the incarnation of the database in which it has offered what it had stored.
	Offered string
	// Stepped is the last step back of the database's clock that it saw.
	Stepped Step
}

// Outbox keeps tokens that are to be revoked at their providers.
type Outbox interface {
	// TakeRevocation gives one of the provider's that is due, to nobody else for as long as the lease;
	// the zero one where none is.
	TakeRevocation(ctx context.Context, providerID string, lease time.Duration) (Revocation, error)
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
	errClosing = errors.New("this process is about to end")
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

// Refresher is what the engine asks of a provider.
type Refresher interface {
	// Refresh presents a token, once. The subject is who the grant is of, where that is known.
	Refresh(ctx context.Context, refreshToken secret.Text, subject string, gate provider.Gate) (provider.Tokens, error)
	Revoke(ctx context.Context, refreshToken secret.Text, gate provider.Gate) error
}
