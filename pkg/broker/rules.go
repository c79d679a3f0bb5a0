package broker

import (
	"bytes"
	"cmp"
	"time"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// The rules: what an event does to a row. They are pure functions of the row and the event, time
// included, so that the store, the spool's replay and the simulation all run the same ones
// (refresh-engine.md, "A refresh, step by step"). The store reads a row, applies an action and swaps the
// row by its version; a swap that loses reads and applies again.

// Row is a connection with what the engine keeps about it. Times are those of the database's clock.
type Row struct {
	Connection
	// Digest is the keyed digest of RefreshToken; Parent that of the token whose successor it is.
	Digest, Parent []byte
	// FlightID is the claim under way, Replica the process that holds it; both are empty without one.
	FlightID, Replica string
	ClaimedAt         time.Time // of the claim under way
	PresentedAt       time.Time // when this very token was first presented; zero: it was not
	NextAttemptAt     time.Time // before it nobody presents the token; zero: no such time
	StoredVersion     int64     // the version of the claim or login that stored this token
	// Failure is what the provider answers about this connection alone, again and again since then.
	Failure      string
	FailingSince time.Time
	Reading      Reading
}

// Reading is when a row was read: the database's time, and this process's before the statement was
// sent and after its answer came.
type Reading struct {
	Database, Sent, Received time.Time
	// Incarnation names the database since its last failover; empty where it does not say.
	Incarnation string
	// Behind is by how much the database's clock was set back since the row's access token was stored.
	Behind time.Duration
}

// Local translates a time of the database's clock into this process's, never later than it is.
func (r Reading) Local(at time.Time) time.Time {
	if at.IsZero() || r.Database.IsZero() {
		return at
	}
	return at.Add(r.Sent.Round(0).Sub(r.Database) - r.Behind)
}

// ToDatabase translates a time of this process's clock into the database's, never later than it is.
func (r Reading) ToDatabase(at time.Time) time.Time {
	if at.IsZero() || r.Database.IsZero() {
		return at
	}
	return at.Round(0).Add(r.Database.Sub(r.Received.Round(0)))
}

// Now is the database's time now, by what this process's clock has gone on since the reading.
func (r Reading) Now() time.Time { return r.Database.Add(time.Since(r.Received)) }

// Event is something that happens to a row at a time of the database's clock, and on a timeline of it.
type Event struct {
	At       time.Time
	Timeline int64
	Action   Action
}

// Action is one of Claim, Commit, Verdict, Disconnect, Login and Restore.
type Action interface {
	on(row Row, at time.Time) (Change, error)
}

// Change is what an event makes of a row, and what belongs to it in the same transaction.
type Change struct {
	// Row is the row as it is to be stored. Where Keep is set it is the row as it was.
	Row  Row
	Keep bool
	// Tell: every replica has to forget what it holds of the connection.
	Tell bool
	// Landed: a flight ended, and those who wait for it read the row again.
	Landed bool
	// Revoke are refresh tokens that nobody wants any more, with the subjects they belong to.
	Revoke []Unwanted
	// Cancel drops pending revocations of the row's subject: a login has renewed the grant that they
	// would end.
	Cancel bool
	// Spent is a refresh token that is dead for good; copies of it elsewhere may go.
	Spent secret.Text
	// Refusal is what the caller is told although the change is stored.
	Refusal error

	restored bool // the row has its version already
	fresh    bool // it stores a token of its own version
}

// Unwanted is a refresh token for the revocation outbox.
type Unwanted struct {
	Subject string
	Token   secret.Text
}

// Apply applies an event to a row. The error is a refusal, after which nothing is stored: ErrClaimed,
// ErrSuperseded, ErrNotConnected, ErrOtherAccount or *NotYet. A row that does not exist yet has
// version 0.
func Apply(row Row, event Event) (Change, error) {
	change, err := event.Action.on(row, event.At)
	if err != nil {
		return Change{}, err
	}
	if change.Keep {
		change.Row = row
		return change, nil
	}
	if !change.restored {
		change.Row.Version = nextVersion(row, event.Timeline)
	}
	if change.fresh {
		change.Row.StoredVersion = change.Row.Version
	}
	return change, nil
}

// Why a row that is claimed or suspect is in doubt.
const (
	doubted = "suspect"
	// takenOver: beside the doubt, a replica that fell silent may yet come back with the successor.
	takenOver = "taken_over"
)

// doubtful tells that the token was presented before and that the outcome is not known.
func (r *Row) doubtful() bool {
	return r.Phase == Suspect || r.Phase == Refreshing && r.Reason != ""
}

// land clears the claim of a row.
func (r *Row) land() { r.FlightID, r.Replica, r.ClaimedAt = "", "", time.Time{} }

// present tells that the row holds a grant, whatever is being done with it.
func (r *Row) present() bool {
	return r.Version > 0 && (r.Phase == Ready || r.Phase == Refreshing || r.Phase == Suspect)
}

// Claim asks for the right to present the row's refresh token, once (refresh-engine.md step 4).
type Claim struct {
	Version         int64  // of the row as it was read
	Flight, Replica string // of the claimant
	// Over is the flight to take over, of a replica that is gone; empty for a row without one. Dead: it is
	// known to be, so that it cannot come back with a successor.
	Over string
	Dead bool
}

// on gives the claim where no other flight holds the row, or its holder fell silent (refresh-engine.md step 4).
func (c Claim) on(row Row, at time.Time) (Change, error) {
	switch {
	case c.Flight != "" && row.FlightID == c.Flight:
		return Change{Keep: true}, nil // given before, and only the acknowledgement was lost
	case row.FlightID != c.Over && row.FlightID != "":
		return Change{}, ErrClaimed
	case row.FlightID != c.Over, row.Version != c.Version, !row.present(), row.RefreshToken == "":
		return Change{}, ErrSuperseded
	case c.Over == "" && at.Before(row.NextAttemptAt):
		return Change{}, &NotYet{In: row.NextAttemptAt.Sub(at)}
	}
	next := row
	switch {
	case row.FlightID != "" && !c.Dead, row.Reason == takenOver:
		next.Reason = takenOver // until a token is stored: the former holder may come back with one
	case row.FlightID != "", row.doubtful():
		next.Reason = doubted
	default:
		next.Reason = ""
	}
	if next.PresentedAt.IsZero() {
		next.PresentedAt = at
	}
	next.Phase, next.FlightID, next.Replica, next.ClaimedAt = Refreshing, c.Flight, c.Replica, at
	return Change{Row: next}, nil
}

// Commit stores what a flight brought. The condition is on the digest of the token that was presented,
// not on the claim: the holder of a successor of the stored token wins, even a process that was paused
// while another took over, and even over a row that was just found broken for that same token
// (refresh-engine.md step 6). A replayed spool record is a Commit too.
type Commit struct {
	Flight    string
	Version   int64  // the claim's
	Presented []byte // digest of the token that was presented
	Token     secret.Text
	// Tokens are what came, in times of the database's clock; Successor is the new token's digest.
	Tokens    provider.Tokens
	Successor []byte
	// After is how long the connection rests where no access token came that may be handed out.
	After time.Duration
	// Tell: the provider revokes the access token before, so that every replica has to forget it.
	Tell bool
	// Broken is why the grant is not to be used although the refresh succeeded; empty where it may be.
	Broken string
}

func (c Commit) rotated() bool {
	return c.Tokens.RefreshToken != "" && !bytes.Equal(c.Successor, c.Presented)
}

// on stores what a refresh brought, where the row still is what the flight began with; what came too late is unwanted.
func (c Commit) on(row Row, at time.Time) (Change, error) {
	rotated := c.rotated()
	switch {
	case row.Version == 0:
		return Change{}, ErrSuperseded
	case !rotated && (row.Phase == Broken || c.Version <= row.StoredVersion):
		return Change{}, ErrSuperseded // it says nothing that a later flight has not said
	case row.Phase == Disconnected && rotated:
		// The version moves, so that a login in between makes this apply again, and revoke nothing.
		return Change{Row: row, Revoke: []Unwanted{{row.Subject, c.Tokens.RefreshToken}}, Refusal: ErrSuperseded}, nil
	case row.Phase == Disconnected:
		return Change{}, ErrSuperseded
	case bytes.Equal(row.Digest, c.Presented):
	case rotated && bytes.Equal(row.Digest, c.Successor):
		return Change{Keep: true}, nil // committed before, and only the acknowledgement was lost
	case rotated && bytes.Equal(row.Parent, c.Presented) && c.Version > row.StoredVersion && row.FlightID == "" && row.PresentedAt.IsZero():
		// Two successors of one parent: the later claim's wins, while nobody has claimed the other.
	default:
		return Change{}, ErrSuperseded
	}
	next := row
	next.AccessToken, next.AccessIssuedAt, next.AccessExpiresAt = c.Tokens.AccessToken, c.Tokens.IssuedAt, c.Tokens.AccessExpiresAt
	switch {
	case rotated:
		next.RefreshToken, next.Digest, next.RefreshExpiresAt = c.Tokens.RefreshToken, c.Successor, c.Tokens.RefreshExpiresAt
		next.Parent, next.Rotates = c.Presented, RotationYes
	case row.Rotates != RotationYes:
		next.Rotates = RotationNo
	}
	if !rotated && next.RefreshToken == "" {
		next.RefreshToken = c.Token // the keyring at hand does not open the row's, which is the same
	}
	if !rotated && !c.Tokens.RefreshExpiresAt.IsZero() {
		next.RefreshExpiresAt = c.Tokens.RefreshExpiresAt
	}
	next.Failure, next.FailingSince = "", time.Time{}
	if rotated || row.FlightID == c.Flight || row.FlightID == "" {
		next.land()
		next.PresentedAt, next.Phase, next.Reason = time.Time{}, Ready, ""
	}
	next.NextAttemptAt = time.Time{}
	if next.RefreshToken != "" { // tokens are sealed for this version: one that is not at hand keeps it
		next.StoredVersion = c.Version
	}
	if c.After > 0 {
		next.NextAttemptAt = at.Add(c.After)
	}
	if c.Broken != "" {
		next.Phase, next.Reason = Broken, c.Broken
	}
	change := Change{Row: next, Landed: true, Tell: c.Tell || row.Phase == Broken || next.Phase == Broken}
	if rotated {
		change.Spent = c.Token
	}
	return change, nil
}

// Verdict ends a flight that brought no token (refresh-engine.md step 8).
type Verdict struct {
	Flight    string
	Presented []byte // digest of the token that was presented
	Token     secret.Text
	Phase     Phase
	Reason    string
	// After is how long nobody is to present the token.
	After time.Duration
	// Unsent: the token never left this process, and First: nobody had presented it before.
	Unsent, First bool
	// Failure is the provider's answer, where it may be about this connection alone.
	Failure string
}

func (v Verdict) on(row Row, at time.Time) (Change, error) {
	if row.Version == 0 || row.Phase == Disconnected || !bytes.Equal(row.Digest, v.Presented) || v.Phase != Broken && row.FlightID != v.Flight {
		return Change{}, ErrSuperseded
	}
	next := row
	next.land()
	next.Phase, next.Reason, next.NextAttemptAt = v.Phase, v.Reason, time.Time{}
	if v.After > 0 || v.Phase == Suspect { // sweepers find doubts by this time
		next.NextAttemptAt = at.Add(v.After)
	}
	if v.Unsent && v.First {
		next.PresentedAt = time.Time{}
	}
	if v.Failure != "" && v.Failure != row.Failure {
		next.Failure, next.FailingSince = v.Failure, at
	}
	change := Change{Row: next, Landed: true}
	if v.Phase == Broken {
		change.Tell, change.Spent = true, v.Token
	}
	return change, nil
}

// Disconnect leaves a tombstone, which keeps the version so that it never restarts, and no token. One
// that finds a tombstone tells every replica once more: the person may ask again because one of them
// did not hear.
type Disconnect struct{}

// on leaves a tombstone, and has the refresh token revoked.
func (Disconnect) on(row Row, _ time.Time) (Change, error) {
	switch {
	case row.Version == 0:
		return Change{}, ErrNotConnected
	case row.Phase == Disconnected && row.Reason == "":
		return Change{Keep: true, Tell: true, Refusal: ErrNotConnected}, nil
	}
	// A grant that ran out lets API tokens go on for a while: to disconnect it ends that.
	next := Row{
		Connection: Connection{
			UserID: row.UserID, Provider: row.Provider, Subject: row.Subject, ConnectedAt: row.ConnectedAt, Phase: Disconnected, Rotates: row.Rotates,
		},
		StoredVersion: row.StoredVersion,
	}
	change := Change{Row: next, Tell: true, Landed: true}
	if row.RefreshToken != "" {
		change.Revoke = []Unwanted{{row.Subject, row.RefreshToken}}
	}
	return change, nil
}

// Login stores a grant over what was there for that user and provider (refresh-engine.md step 11).
type Login struct {
	Subject, Account string
	// Tokens are what came, in times of the database's clock; Digest is the refresh token's.
	Tokens provider.Tokens
	Digest []byte
	// Linked: the person was signed in before, so that another account is not swapped in unasked.
	Linked bool
	// Separate: each login at the provider is a grant of its own, so that the former one is revoked.
	Separate bool
}

// on stores the new grant, whatever state the former one was in.
func (l Login) on(row Row, at time.Time) (Change, error) {
	good := row.present() && !row.Unreadable && (row.RefreshExpiresAt.IsZero() || at.Before(row.RefreshExpiresAt))
	if l.Linked && good && row.Subject != "" && row.Subject != l.Subject {
		return Change{}, &OtherAccount{Connected: row.Account, SignedIn: l.Account}
	}
	next := Row{
		Connection: Connection{
			UserID: row.UserID, Provider: row.Provider, Subject: l.Subject, Account: l.Account, Phase: Ready, ConnectedAt: at, Rotates: cmp.Or(row.Rotates, RotationUnknown),
			RefreshToken: l.Tokens.RefreshToken, AccessToken: l.Tokens.AccessToken,
			AccessIssuedAt: l.Tokens.IssuedAt, AccessExpiresAt: l.Tokens.AccessExpiresAt, RefreshExpiresAt: l.Tokens.RefreshExpiresAt,
		},
		Digest: l.Digest,
	}
	change := Change{Row: next, fresh: true, Tell: true, Landed: true, Cancel: !l.Separate}
	other := row.Subject != "" && row.Subject != l.Subject
	switch {
	case l.Tokens.RefreshToken == "" && good && !other:
		// Some providers give a refresh token with the first consent alone: the stored one is still the grant.
		change.Row.RefreshToken, change.Row.Digest, change.Row.RefreshExpiresAt = row.RefreshToken, row.Digest, row.RefreshExpiresAt
	case row.RefreshToken != "" && (other || l.Separate) && !bytes.Equal(row.Digest, l.Digest):
		change.Revoke = []Unwanted{{row.Subject, row.RefreshToken}}
	}
	return change, nil
}
