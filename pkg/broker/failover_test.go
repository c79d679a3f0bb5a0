package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/keyring"
	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// Of two rows the later comes back, whichever order they are offered in, and an end wins.
func TestRestore(t *testing.T) {
	login := ruleTime.Add(-time.Hour)
	row := func(version, stored int64, phase Phase, token secret.Text, change ...func(*Row)) Row {
		one := Row{
			Connection: Connection{UserID: "u", Provider: "p", Subject: "s", Phase: phase, Version: version, RefreshToken: token, ConnectedAt: login},
			Digest:     []byte(token), StoredVersion: stored,
		}
		for _, each := range change {
			each(&one)
		}
		return one
	}
	newLogin := func(r *Row) { r.ConnectedAt = ruleTime }
	rotates := func(r *Row) { r.Rotates = RotationYes }
	const promoted = versionsOfTimeline
	for name, each := range map[string]struct {
		held, kept Row
		restored   bool
		revoked    []secret.Text
		cancels    bool
	}{
		"the successor of what the standby holds": {held: row(5, 4, Ready, "r1"), kept: row(7, 6, Ready, "r2"), restored: true},
		"a claim that the standby lacks":          {held: row(5, 4, Ready, "r1"), kept: row(6, 4, Refreshing, "r1"), restored: true},
		"what the standby holds too":              {held: row(7, 6, Ready, "r2"), kept: row(7, 6, Ready, "r2")},
		"an earlier token with a later claim":     {held: row(7, 6, Ready, "r2"), kept: row(8, 4, Suspect, "r1")},
		"a later token of a lower version":        {held: row(8, 4, Suspect, "r1"), kept: row(7, 6, Ready, "r2"), restored: true},
		"what changed since the failover":         {held: row(promoted, promoted, Ready, "r9"), kept: row(7, 6, Ready, "r2")},
		"a row that is not there":                 {held: Row{Connection: Connection{UserID: "u", Provider: "p"}}, kept: row(1, 1, Ready, "r1"), restored: true, cancels: true},
		"a login":                                 {held: row(5, 4, Ready, "r1"), kept: row(6, 6, Ready, "r9", newLogin), restored: true, cancels: true},
		"a login after an end":                    {held: row(6, 4, Disconnected, ""), kept: row(7, 7, Ready, "r9", newLogin), restored: true, cancels: true},
		"an end":                                  {held: row(5, 4, Ready, "r1", rotates), kept: row(8, 0, Disconnected, ""), restored: true, revoked: []secret.Text{"r1"}},
		"an end before a login":                   {held: row(9, 9, Ready, "r9", newLogin), kept: row(8, 0, Disconnected, "")},
		"a successor of what has ended":           {held: row(8, 4, Disconnected, ""), kept: row(7, 6, Ready, "r2"), revoked: []secret.Text{"r2"}},
		"an end since the failover":               {held: row(promoted, 4, Disconnected, ""), kept: row(7, 6, Ready, "r2"), revoked: []secret.Text{"r2"}},
	} {
		t.Run(name, func(t *testing.T) {
			change, err := Apply(each.held, Event{At: ruleTime, Timeline: 2, Action: Restore{Row: each.kept}})
			if restored := err == nil && change.Refusal == nil; restored != each.restored {
				t.Fatalf("restored: %t, %v; want %t", restored, err, each.restored)
			}
			if each.restored && each.kept.Phase == Disconnected && change.Row.Rotates != RotationYes {
				t.Errorf("an end forgets that the provider rotates: %q", change.Row.Rotates)
			}
			var revoked []secret.Text
			for _, one := range change.Revoke {
				revoked = append(revoked, one.Token)
			}
			if len(revoked) != len(each.revoked) || len(revoked) > 0 && string(revoked[0]) != string(each.revoked[0]) {
				t.Errorf("%d tokens are to be revoked, want %d", len(revoked), len(each.revoked))
			}
			if !each.restored {
				return
			}
			if change.Row.Version != each.kept.Version || change.Row.Phase != each.kept.Phase || string(change.Row.RefreshToken) != string(each.kept.RefreshToken) {
				t.Errorf("got %s, version %d; want %s, version %d", change.Row.Phase, change.Row.Version, each.kept.Phase, each.kept.Version)
			}
			if change.Cancel != each.cancels || !change.Tell || !change.Landed {
				t.Errorf("cancels %t, tells %t, lands %t; want %t, true, true", change.Cancel, change.Tell, change.Landed, each.cancels)
			}
		})
	}
}

// Versions of a timeline are above all that the server before it may have given.
func TestVersionsOfTimelines(t *testing.T) {
	for name, each := range map[string]struct {
		version, timeline, want int64
	}{
		"no timeline":                        {7, 0, 8},
		"the first":                          {7, 1, 8},
		"the second":                         {7, 2, 1 << 32},
		"again on the second":                {1 << 32, 2, 1<<32 + 1},
		"another system, whose count is low": {3 << 32, 1, 3<<32 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			row := readyRow(func(r *Row) { r.Version = each.version })
			change, err := Apply(row, Event{At: ruleTime, Timeline: each.timeline, Action: Disconnect{}})
			if err != nil || change.Row.Version != each.want {
				t.Errorf("got version %d, %v; want %d", change.Row.Version, err, each.want)
			}
		})
	}
	// A login's token is of its own version, so that nothing of the former timeline is later.
	change, err := Apply(readyRow(), Event{At: ruleTime, Timeline: 2, Action: Login{Subject: "s", Digest: []byte("d9")}})
	if err != nil || change.Row.StoredVersion != 1<<32 {
		t.Errorf("a login stores version %d, %v; want %d", change.Row.StoredVersion, err, int64(1)<<32)
	}
	for incarnation, want := range map[string]int64{"7300000000000000001/0000000A": 10, "": 0, "no timeline": 0, "x/zz": 0} {
		t.Run(incarnation, func(t *testing.T) {
			if got := (Reading{Incarnation: incarnation}).Timeline(); got != want {
				t.Errorf("the timeline of %q is %d, want %d", incarnation, got, want)
			}
		})
	}
}

// What is kept is sealed, is the latest of each row, and lasts as long as the window.
func TestWhatIsKept(t *testing.T) {
	k := &kept{keys: someKeys(t), rows: map[cacheKey]*keptRow{}}
	row := readyRow(func(r *Row) { r.RefreshToken, r.AccessToken, r.AccessExpiresAt = "refresh", "access", ruleTime })
	k.keep(Change{Row: row, Revoke: []Unwanted{{"s", "unwanted"}}}, &Person{UserID: "u"}, true)
	key := cacheKey{row.UserID, row.Provider}
	one, ok := k.of(key)
	if !ok || one.restore.Row.RefreshToken != "" || one.restore.Row.AccessToken != "" || string(one.sealed) == "refresh" {
		t.Fatal("tokens are kept in clear")
	}
	lost, ok := k.open(one)
	if !ok || lost.Row.RefreshToken != "refresh" || lost.Row.AccessToken != "" || !lost.Row.AccessExpiresAt.IsZero() || len(lost.Revoke) != 1 || lost.Revoke[0].Token != "unwanted" || !lost.Separate {
		t.Errorf("opened: %t, %d to revoke; want the refresh token alone, and what is to be revoked", ok, len(lost.Revoke))
	}
	older := row
	older.Version--
	k.keep(Change{Row: older}, nil, false)
	if one, _ = k.of(key); one.restore.Row.Version != row.Version {
		t.Errorf("version %d is kept, want the later one", one.restore.Row.Version)
	}
	later := row
	later.Version++
	k.keep(Change{Row: later}, nil, false)
	if one, _ = k.of(key); one.restore.Row.Version != later.Version || one.restore.Person == nil {
		t.Errorf("version %d is kept, want the later one with the login's person", one.restore.Row.Version)
	}
	grant := readyRow(func(r *Row) { r.UserID, r.RefreshToken, r.AccessToken, r.Digest = "v", "", "the grant", nil })
	k.keep(Change{Row: grant}, nil, false)
	one, _ = k.of(cacheKey{"v", grant.Provider})
	if lost, _ := k.open(one); lost.Row.AccessToken != "the grant" {
		t.Error("an access token that is the whole grant is not kept")
	}
	k.prune(time.Hour)
	if len(k.all()) != 2 {
		t.Errorf("%d rows are kept within the window, want 2", len(k.all()))
	}
	time.Sleep(time.Millisecond)
	k.prune(0)
	if len(k.all()) != 0 || len(k.queue) != 0 {
		t.Errorf("%d rows are kept after the window, want 0", len(k.all()))
	}
}

// A database is settled when all who lived have offered what they had, or were waited for; and not before
// there was time to see who lives.
func TestWhoIsWaitedFor(t *testing.T) {
	for name, each := range map[string]struct {
		alive   []string
		offered map[string]bool
		after   time.Duration
		settled bool
	}{
		"alone, at once":           {},
		"alone, a moment later":    {after: failoverRest, settled: true},
		"one has not offered":      {alive: []string{"other"}, after: failoverRest},
		"all have":                 {alive: []string{"other"}, offered: map[string]bool{"other": true}, after: failoverRest, settled: true},
		"one was waited for":       {alive: []string{"other"}, after: failoverPatience, settled: true},
		"one of two has":           {alive: []string{"other", "third"}, offered: map[string]bool{"other": true}, after: failoverRest},
		"it is one of those alive": {alive: []string{"self"}, after: failoverRest, settled: true},
	} {
		t.Run(name, func(t *testing.T) {
			e := &engine{replica: "self", peers: peers{seen: map[string]heard{}}}
			e.failover.engine = e
			began := time.Now()
			e.failover.seen(Pulse{Reading: Reading{Incarnation: "s/1"}}, nil, began)
			if !e.failover.seen(Pulse{Reading: Reading{Incarnation: "s/2"}}, each.alive, began) {
				t.Fatal("another incarnation is not noticed")
			}
			if got := e.failover.allOffered(Pulse{Offered: each.offered}, began.Add(each.after)); got != each.settled {
				t.Errorf("settled: %t, want %t", got, each.settled)
			}
		})
	}
}

// failsOver is a database that fails over, and whose rows may be refused.
type failsOver struct {
	*desk
	refusal  error
	restored int
}

func (f *failsOver) Behind(_ context.Context, rows []Row) (behind []int, _ error) {
	for i := range rows {
		behind = append(behind, i)
	}
	return behind, nil
}

func (f *failsOver) Restore(context.Context, Restore) error {
	f.restored++
	return f.refusal
}

// A row that cannot be stored is offered again for a while, and then keeps the database from nothing.
func TestARowThatCannotComeBack(t *testing.T) {
	for name, each := range map[string]struct {
		refusal error
		last    bool
		done    bool
	}{
		"it comes back":                           {done: true},
		"something later is there":                {refusal: ErrSuperseded, done: true},
		"its user is not there yet":               {refusal: ErrNotConnected},
		"its user never comes":                    {refusal: ErrNotConnected, last: true, done: true},
		"the database refuses it":                 {refusal: errAway},
		"the database refuses it again and again": {refusal: errAway, last: true, done: true},
	} {
		t.Run(name, func(t *testing.T) {
			b, d, _ := newDesk(provider.Config{})
			database := &failsOver{desk: d, refusal: each.refusal}
			e := b.engine
			e.failovers, e.kept.keys = database, someKeys(t)
			for _, id := range []string{"u1", "u2"} {
				e.kept.keep(Change{Row: readyRow(func(r *Row) { r.UserID = id })}, nil, false)
			}
			err := e.failover.offer(t.Context(), each.last)
			if done := err == nil; done != each.done {
				t.Errorf("offered: %t, %v; want %t", done, err, each.done)
			}
			if each.done && database.restored != 2 {
				t.Errorf("%d rows were offered, want 2", database.restored)
			}
		})
	}
}

func someKeys(t *testing.T) *keyring.Keyring {
	t.Helper()
	keys, err := keyring.Parse(keyring.Generate(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// A row that the database holds in an earlier version than this replica has stored is brought back, and neither
// presented nor read as it is.
func TestARowThatWasSetBack(t *testing.T) {
	b, d, _ := newDesk(provider.Config{})
	database := &failsOver{desk: d}
	e := b.engine
	e.failovers, e.kept.keys = database, someKeys(t)
	e.lease.renewed(time.Now(), time.Now(), false)
	later := d.row
	later.Version++
	e.kept.keep(Change{Row: later}, nil, false)
	if _, err := e.claim(t.Context(), d.read(), Claim{}, 0); !errors.Is(err, ErrSuperseded) || len(d.taken) > 0 || database.restored != 1 {
		t.Errorf("claiming: got %v, %d changes, %d restored; want ErrSuperseded, none, one", err, len(d.taken), database.restored)
	}
	if _, err := e.read(t.Context(), deskKey); err != nil || database.restored != 2 {
		t.Errorf("reading: got %v, %d restored; want two", err, database.restored)
	}
	d.row.Version = later.Version
	if _, err := e.read(t.Context(), deskKey); err != nil || database.restored != 2 {
		t.Errorf("reading what was brought back: got %v, %d restored; want two still", err, database.restored)
	}
}
