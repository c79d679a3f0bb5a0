package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/workspace-token-service/wts/pkg/provider"
	"github.com/workspace-token-service/wts/pkg/secret"
)

// The rules are pure: each row of these tables is a row of the database, an event, and what becomes of it.

var ruleTime = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return ruleTime.Add(d) }

// readyRow is a connection that nobody has claimed.
func readyRow(change ...func(*Row)) Row {
	row := Row{
		Connection: Connection{
			UserID: "u", Provider: "p", Subject: "s", Phase: Ready, Version: 7, RefreshToken: "r1", AccessToken: "a1", Rotates: RotationUnknown,
			AccessIssuedAt: after(-time.Hour), AccessExpiresAt: after(-time.Minute), ConnectedAt: after(-24 * time.Hour),
		},
		Digest: []byte("d1"), Parent: []byte("d0"), StoredVersion: 6,
	}
	for _, one := range change {
		one(&row)
	}
	return row
}

// claimedRow is one that a flight holds.
func claimedRow(change ...func(*Row)) Row {
	row := readyRow()
	row.Phase, row.FlightID, row.Replica, row.ClaimedAt, row.PresentedAt = Refreshing, "f1", "r1", after(-5*time.Second), after(-5*time.Second)
	for _, one := range change {
		one(&row)
	}
	return row
}

// applied is what a test says of an outcome; the fields that it leaves out are as in the row before.
type applied struct {
	refused error
	change  func(*Row) // from the row before to the one after, the version apart
	keep    bool
	tell    bool
	landed  bool
	revoke  []Unwanted
	cancel  bool
	spent   secret.Text
	told    error // Refusal
}

func check(t *testing.T, row Row, action Action, want applied) {
	t.Helper()
	got, err := Apply(row, Event{At: ruleTime, Action: action})
	var notYet *NotYet
	switch {
	case want.refused != nil && errors.As(want.refused, &notYet):
		wanted := notYet.In
		if !errors.As(err, &notYet) || notYet.In != wanted {
			t.Fatalf("got %v, want not for %s", err, wanted)
		}
		return
	case want.refused != nil:
		if !errors.Is(err, want.refused) {
			t.Fatalf("got %v, want %v", err, want.refused)
		}
		return
	case err != nil:
		t.Fatalf("refused: %v", err)
	}
	next := row
	if want.change != nil {
		want.change(&next)
	}
	if !want.keep {
		next.Version = row.Version + 1
	}
	wanted := Change{Row: next, Keep: want.keep, Tell: want.tell, Landed: want.landed, Revoke: want.revoke, Cancel: want.cancel, Spent: want.spent, Refusal: want.told}
	plain := cmp.Comparer(func(a, b secret.Text) bool { return string(a) == string(b) })
	sameError := cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) })
	if diff := cmp.Diff(wanted, got, plain, sameError, cmpopts.IgnoreUnexported(Change{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestClaim(t *testing.T) {
	mine := Claim{Version: 7, Flight: "f2", Replica: "r2"}
	over := Claim{Version: 7, Flight: "f2", Replica: "r2", Over: "f1"}
	dead := over
	dead.Dead = true
	claimed := func(reason string, presented time.Time) func(*Row) {
		return func(r *Row) {
			r.Phase, r.Reason, r.FlightID, r.Replica, r.ClaimedAt, r.PresentedAt = Refreshing, reason, "f2", "r2", ruleTime, presented
		}
	}
	suspect := func(reason string) Row {
		return readyRow(func(r *Row) { r.Phase, r.Reason, r.PresentedAt = Suspect, reason, after(-time.Minute) })
	}
	for name, line := range map[string]struct {
		row    Row
		action Claim
		want   applied
	}{
		"a ready row": {readyRow(), mine, applied{change: claimed("", ruleTime)}},
		"one whose token was presented before keeps that time": {
			readyRow(func(r *Row) { r.PresentedAt = after(-time.Minute) }), mine, applied{change: claimed("", after(-time.Minute))},
		},
		"an old reason does not stay":                   {readyRow(func(r *Row) { r.Reason = "of long ago" }), mine, applied{change: claimed("", ruleTime)}},
		"a doubt stays one":                             {suspect(doubted), mine, applied{change: claimed(doubted, after(-time.Minute))}},
		"a token that was taken over stays so":          {suspect(takenOver), mine, applied{change: claimed(takenOver, after(-time.Minute))}},
		"a flight of a silent replica is taken over":    {claimedRow(), over, applied{change: claimed(takenOver, after(-5*time.Second))}},
		"one of a dead replica cannot come back":        {claimedRow(), dead, applied{change: claimed(doubted, after(-5*time.Second))}},
		"unless another could before":                   {claimedRow(func(r *Row) { r.Reason = takenOver }), dead, applied{change: claimed(takenOver, after(-5*time.Second))}},
		"another flight has it":                         {claimedRow(), mine, applied{refused: ErrClaimed}},
		"another flight than the one to take over":      {claimedRow(func(r *Row) { r.FlightID = "f9" }), over, applied{refused: ErrClaimed}},
		"the flight to take over has landed":            {readyRow(), over, applied{refused: ErrSuperseded}},
		"given before, its acknowledgement lost":        {claimedRow(func(r *Row) { r.FlightID = "f2"; r.Version = 8 }), mine, applied{keep: true}},
		"the row is another by now":                     {readyRow(func(r *Row) { r.Version = 8 }), mine, applied{refused: ErrSuperseded}},
		"a flight of another version is not taken over": {claimedRow(func(r *Row) { r.Version = 8 }), over, applied{refused: ErrSuperseded}},
		"it rests":                               {readyRow(func(r *Row) { r.NextAttemptAt = after(3 * time.Second) }), mine, applied{refused: &NotYet{In: 3 * time.Second}}},
		"it has rested":                          {readyRow(func(r *Row) { r.NextAttemptAt = ruleTime }), mine, applied{change: claimed("", ruleTime)}},
		"a takeover does not wait for a rest":    {claimedRow(func(r *Row) { r.NextAttemptAt = after(time.Hour) }), over, applied{change: claimed(takenOver, after(-5*time.Second))}},
		"a broken grant":                         {readyRow(func(r *Row) { r.Phase = Broken }), mine, applied{refused: ErrSuperseded}},
		"a tombstone":                            {readyRow(func(r *Row) { r.Phase = Disconnected }), mine, applied{refused: ErrSuperseded}},
		"a grant without a refresh token":        {readyRow(func(r *Row) { r.RefreshToken = "" }), mine, applied{refused: ErrSuperseded}},
		"a row that is not there":                {Row{}, Claim{Flight: "f2"}, applied{refused: ErrSuperseded}},
		"a reason of an earlier end is no doubt": {readyRow(func(r *Row) { r.Reason = "" }), mine, applied{change: claimed("", ruleTime)}},
	} {
		t.Run(name, func(t *testing.T) { check(t, line.row, line.action, line.want) })
	}
}

func TestCommit(t *testing.T) {
	tokens := provider.Tokens{RefreshToken: "r2", AccessToken: "a2", IssuedAt: after(-time.Second), AccessExpiresAt: after(time.Hour), RefreshExpiresAt: after(24 * time.Hour)}
	rotation := Commit{Flight: "f1", Version: 7, Presented: []byte("d1"), Token: "r1", Tokens: tokens, Successor: []byte("d2")}
	kept := rotation
	kept.Tokens.RefreshToken, kept.Successor = "", nil
	access := func(r *Row) {
		r.AccessToken, r.AccessIssuedAt, r.AccessExpiresAt, r.RefreshExpiresAt = "a2", after(-time.Second), after(time.Hour), after(24*time.Hour)
		r.StoredVersion = 7
	}
	landed := func(r *Row) {
		r.FlightID, r.Replica, r.ClaimedAt, r.PresentedAt, r.NextAttemptAt = "", "", time.Time{}, time.Time{}, time.Time{}
		r.Phase, r.Reason = Ready, ""
	}
	rotated := func(r *Row) {
		access(r)
		landed(r)
		r.RefreshToken, r.Digest, r.Parent, r.Rotates = "r2", []byte("d2"), []byte("d1"), RotationYes
	}
	stored := applied{change: rotated, landed: true, spent: "r1"}
	told := stored
	told.tell = true
	forked := readyRow(func(r *Row) {
		r.RefreshToken, r.Digest, r.Parent, r.StoredVersion, r.Version = "r9", []byte("d9"), []byte("d1"), 5, 20
	})
	tombstone := readyRow(func(r *Row) { r.Phase, r.RefreshToken, r.Digest, r.AccessToken = Disconnected, "", nil, "" })
	sealedAway := claimedRow(func(r *Row) { r.RefreshToken, r.AccessToken, r.Unreadable = "", "", true })
	for name, line := range map[string]struct {
		row    Row
		action Commit
		want   applied
	}{
		"a successor":                           {claimedRow(), rotation, stored},
		"one that another flight has taken":     {claimedRow(func(r *Row) { r.FlightID, r.Version = "f9", 12 }), rotation, stored},
		"one of a row in doubt":                 {readyRow(func(r *Row) { r.Phase, r.Reason = Suspect, takenOver }), rotation, stored},
		"over a verdict on the same token":      {readyRow(func(r *Row) { r.Phase, r.Reason = Broken, revoked }), rotation, told},
		"failures are over":                     {claimedRow(func(r *Row) { r.Failure, r.FailingSince = "status 500", after(-time.Hour) }), rotation, applied{change: func(r *Row) { rotated(r); r.Failure, r.FailingSince = "", time.Time{} }, landed: true, spent: "r1"}},
		"where a refresh revokes access":        {claimedRow(), func() Commit { c := rotation; c.Tell = true; return c }(), told},
		"the acknowledgement was lost":          {readyRow(func(r *Row) { r.Digest = []byte("d2") }), rotation, applied{keep: true}},
		"another token is stored":               {readyRow(func(r *Row) { r.Digest, r.Parent = []byte("d5"), []byte("d4") }), rotation, applied{refused: ErrSuperseded}},
		"a row that is not there":               {Row{}, rotation, applied{refused: ErrSuperseded}},
		"a tombstone: it is to be revoked":      {tombstone, rotation, applied{revoke: []Unwanted{{"s", "r2"}}, told: ErrSuperseded}},
		"a tombstone, and nothing to revoke":    {tombstone, kept, applied{refused: ErrSuperseded}},
		"of two successors the later claim's":   {forked, rotation, stored},
		"of two successors not the earlier's":   {func() Row { r := forked; r.StoredVersion = 7; return r }(), rotation, applied{refused: ErrSuperseded}},
		"nor one whose sibling was claimed":     {func() Row { r := forked; r.FlightID = "f7"; return r }(), rotation, applied{refused: ErrSuperseded}},
		"nor one whose sibling was presented":   {func() Row { r := forked; r.PresentedAt = after(-time.Second); return r }(), rotation, applied{refused: ErrSuperseded}},
		"the refresh token is kept":             {claimedRow(), kept, applied{change: func(r *Row) { access(r); landed(r); r.Rotates = RotationNo }, landed: true}},
		"kept, where it has rotated before":     {claimedRow(func(r *Row) { r.Rotates = RotationYes }), kept, applied{change: func(r *Row) { access(r); landed(r) }, landed: true}},
		"kept, and not opened here":             {sealedAway, kept, applied{change: func(r *Row) { access(r); landed(r); r.RefreshToken, r.Rotates = "r1", RotationNo }, landed: true}},
		"kept, not opened here nor at hand":     {sealedAway, func() Commit { c := kept; c.Token = ""; return c }(), applied{change: func(r *Row) { access(r); landed(r); r.StoredVersion, r.Rotates = 6, RotationNo }, landed: true}},
		"kept, and another flight is under way": {claimedRow(func(r *Row) { r.FlightID = "f9" }), kept, applied{change: func(r *Row) { access(r); r.Rotates, r.NextAttemptAt = RotationNo, time.Time{} }, landed: true}},
		"kept, and a later one was stored":      {claimedRow(func(r *Row) { r.StoredVersion = 7 }), kept, applied{refused: ErrSuperseded}},
		"kept, of a broken grant":               {readyRow(func(r *Row) { r.Phase = Broken }), kept, applied{refused: ErrSuperseded}},
		"the same token comes as a successor":   {claimedRow(), func() Commit { c := rotation; c.Successor = []byte("d1"); return c }(), applied{change: func(r *Row) { access(r); landed(r); r.Rotates = RotationNo }, landed: true}},
		"no access token that may be used":      {claimedRow(), func() Commit { c := rotation; c.Tokens.AccessToken, c.After = "", 2*time.Second; return c }(), applied{change: func(r *Row) { rotated(r); r.AccessToken, r.NextAttemptAt = "", after(2*time.Second) }, landed: true, spent: "r1"}},
		"another person's id_token came":        {claimedRow(), func() Commit { c := rotation; c.Broken = identityChanged; return c }(), applied{change: func(r *Row) { rotated(r); r.Phase, r.Reason = Broken, identityChanged }, landed: true, tell: true, spent: "r1"}},
		"no end is stated, and one was before":  {claimedRow(func(r *Row) { r.RefreshExpiresAt = after(time.Minute) }), func() Commit { c := kept; c.Tokens.RefreshExpiresAt = time.Time{}; return c }(), applied{change: func(r *Row) { access(r); landed(r); r.Rotates, r.RefreshExpiresAt = RotationNo, after(time.Minute) }, landed: true}},
	} {
		t.Run(name, func(t *testing.T) { check(t, line.row, line.action, line.want) })
	}
}

func TestVerdict(t *testing.T) {
	doubt := Verdict{Flight: "f1", Presented: []byte("d1"), Token: "r1", Phase: Suspect, Reason: doubted}
	dead := Verdict{Flight: "f1", Presented: []byte("d1"), Token: "r1", Phase: Broken, Reason: revoked}
	unsent := Verdict{Flight: "f1", Presented: []byte("d1"), Phase: Ready, After: time.Second, Unsent: true, First: true}
	ended := func(phase Phase, reason string, next time.Time) func(*Row) {
		return func(r *Row) {
			r.FlightID, r.Replica, r.ClaimedAt = "", "", time.Time{}
			r.Phase, r.Reason, r.NextAttemptAt = phase, reason, next
		}
	}
	for name, line := range map[string]struct {
		row    Row
		action Verdict
		want   applied
	}{
		"a doubt is due at once where it does not rest": {claimedRow(), doubt, applied{change: ended(Suspect, doubted, ruleTime), landed: true}},
		"a doubt that rests":                            {claimedRow(), func() Verdict { v := doubt; v.After = time.Minute; return v }(), applied{change: ended(Suspect, doubted, after(time.Minute)), landed: true}},
		"ready, without a rest":                         {claimedRow(), func() Verdict { v := unsent; v.After, v.Unsent = 0, false; return v }(), applied{change: ended(Ready, "", time.Time{}), landed: true}},
		"a first presentation that was not sent":        {claimedRow(), unsent, applied{change: func(r *Row) { ended(Ready, "", after(time.Second))(r); r.PresentedAt = time.Time{} }, landed: true}},
		"a later one that was not sent":                 {claimedRow(), func() Verdict { v := unsent; v.First = false; return v }(), applied{change: ended(Ready, "", after(time.Second)), landed: true}},
		"the provider ends the grant":                   {claimedRow(), dead, applied{change: ended(Broken, revoked, time.Time{}), landed: true, tell: true, spent: "r1"}},
		"though another flight has it by now":           {claimedRow(func(r *Row) { r.FlightID = "f9" }), dead, applied{change: ended(Broken, revoked, time.Time{}), landed: true, tell: true, spent: "r1"}},
		"a doubt where another flight has it by now":    {claimedRow(func(r *Row) { r.FlightID = "f9" }), doubt, applied{refused: ErrSuperseded}},
		"a verdict on a token that is stored no longer": {claimedRow(func(r *Row) { r.Digest = []byte("d2") }), dead, applied{refused: ErrSuperseded}},
		"a tombstone":             {claimedRow(func(r *Row) { r.Phase = Disconnected }), dead, applied{refused: ErrSuperseded}},
		"a row that is not there": {Row{}, dead, applied{refused: ErrSuperseded}},
		"what the provider answers, for the first time": {claimedRow(), func() Verdict { v := doubt; v.Failure = "status 500"; return v }(), applied{change: func(r *Row) { ended(Suspect, doubted, ruleTime)(r); r.Failure, r.FailingSince = "status 500", ruleTime }, landed: true}},
		"the same again": {claimedRow(func(r *Row) { r.Failure, r.FailingSince = "status 500", after(-time.Hour) }), func() Verdict { v := doubt; v.Failure = "status 500"; return v }(), applied{change: ended(Suspect, doubted, ruleTime), landed: true}},
	} {
		t.Run(name, func(t *testing.T) { check(t, line.row, line.action, line.want) })
	}
}

func TestDisconnect(t *testing.T) {
	bare := func(r *Row) {
		*r = Row{Connection: Connection{UserID: r.UserID, Provider: r.Provider, Subject: r.Subject, ConnectedAt: r.ConnectedAt, Phase: Disconnected, Rotates: r.Rotates}, StoredVersion: r.StoredVersion}
	}
	for name, line := range map[string]struct {
		row  Row
		want applied
	}{
		"a connection":                        {readyRow(), applied{change: bare, tell: true, landed: true, revoke: []Unwanted{{"s", "r1"}}}},
		"one that is being refreshed":         {claimedRow(), applied{change: bare, tell: true, landed: true, revoke: []Unwanted{{"s", "r1"}}}},
		"a broken one":                        {readyRow(func(r *Row) { r.Phase = Broken }), applied{change: bare, tell: true, landed: true, revoke: []Unwanted{{"s", "r1"}}}},
		"one without a refresh token":         {readyRow(func(r *Row) { r.RefreshToken = "" }), applied{change: bare, tell: true, landed: true}},
		"a tombstone: everyone is told again": {readyRow(func(r *Row) { r.Phase = Disconnected }), applied{keep: true, tell: true, told: ErrNotConnected}},
		"what never was":                      {Row{}, applied{refused: ErrNotConnected}},
	} {
		t.Run(name, func(t *testing.T) { check(t, line.row, Disconnect{}, line.want) })
	}
}

func TestLogin(t *testing.T) {
	tokens := provider.Tokens{RefreshToken: "r2", AccessToken: "a2", IssuedAt: after(-time.Second), AccessExpiresAt: after(time.Hour)}
	login := Login{Subject: "s", Tokens: tokens, Digest: []byte("d2")}
	linked, separate, bare := login, login, login
	linked.Linked, separate.Separate = true, true
	bare.Tokens.RefreshToken, bare.Digest = "", nil
	other := func(l Login) Login { l.Subject = "other"; return l }
	fresh := func(subject string) func(*Row) {
		return func(r *Row) {
			rotates := r.Rotates
			if rotates == "" {
				rotates = RotationUnknown
			}
			*r = Row{
				Connection: Connection{
					UserID: r.UserID, Provider: r.Provider, Subject: subject, Phase: Ready, ConnectedAt: ruleTime, Rotates: rotates,
					RefreshToken: "r2", AccessToken: "a2", AccessIssuedAt: after(-time.Second), AccessExpiresAt: after(time.Hour),
				},
				Digest: []byte("d2"), StoredVersion: r.Version + 1,
			}
		}
	}
	keepsOld := func(r *Row) {
		refresh, digest, ends := r.RefreshToken, r.Digest, r.RefreshExpiresAt
		fresh("s")(r)
		r.RefreshToken, r.Digest, r.RefreshExpiresAt = refresh, digest, ends
	}
	without := func(r *Row) { fresh("s")(r); r.RefreshToken, r.Digest = "", nil }
	stored := applied{change: fresh("s"), tell: true, landed: true, cancel: true}
	for name, line := range map[string]struct {
		row    Row
		action Login
		want   applied
	}{
		"the first":                                {Row{Connection: Connection{UserID: "u", Provider: "p"}}, login, stored},
		"the same account again":                   {readyRow(), linked, stored},
		"over a flight":                            {claimedRow(), login, stored},
		"over a tombstone":                         {readyRow(func(r *Row) { r.Phase, r.RefreshToken, r.Digest = Disconnected, "", nil }), linked, stored},
		"another account, asked for first":         {readyRow(), other(linked), applied{refused: ErrOtherAccount}},
		"another account over a broken one":        {readyRow(func(r *Row) { r.Phase = Broken }), other(linked), applied{change: fresh("other"), tell: true, landed: true, cancel: true, revoke: []Unwanted{{"s", "r1"}}}},
		"another account over an expired one":      {readyRow(func(r *Row) { r.RefreshExpiresAt = ruleTime }), other(linked), applied{change: fresh("other"), tell: true, landed: true, cancel: true, revoke: []Unwanted{{"s", "r1"}}}},
		"another account over an unreadable one":   {readyRow(func(r *Row) { r.Unreadable, r.RefreshToken = true, "" }), other(linked), applied{change: fresh("other"), tell: true, landed: true, cancel: true}},
		"another at the default provider":          {readyRow(), other(login), applied{change: fresh("other"), tell: true, landed: true, cancel: true, revoke: []Unwanted{{"s", "r1"}}}},
		"each login a grant of its own":            {readyRow(), separate, applied{change: fresh("s"), tell: true, landed: true, revoke: []Unwanted{{"s", "r1"}}}},
		"of its own, and the same token":           {readyRow(func(r *Row) { r.Digest = []byte("d2") }), separate, applied{change: fresh("s"), tell: true, landed: true}},
		"no refresh token: the stored one is kept": {readyRow(func(r *Row) { r.RefreshExpiresAt = after(time.Hour) }), bare, applied{change: keepsOld, tell: true, landed: true, cancel: true}},
		"none, and the stored one has expired":     {readyRow(func(r *Row) { r.RefreshExpiresAt = after(-time.Hour) }), bare, applied{change: without, tell: true, landed: true, cancel: true}},
		"none, and the stored one is broken":       {readyRow(func(r *Row) { r.Phase = Broken }), bare, applied{change: without, tell: true, landed: true, cancel: true}},
	} {
		t.Run(name, func(t *testing.T) { check(t, line.row, line.action, line.want) })
	}
}

func TestJudge(t *testing.T) {
	policy := Policy{Grace: 10 * time.Second, Timeout: time.Minute, SpoolWait: 2 * time.Minute}
	strict := Policy{Timeout: time.Minute, SpoolWait: 2 * time.Minute}
	alone, keeps := strict, strict
	alone.Alone, keeps.NeverRotates = true, true
	flight := func(presented time.Duration, change ...func(*Orphan)) Orphan {
		one := Orphan{Row: claimedRow(), Claimed: presented, Presented: presented}
		one.Reading = Reading{Database: ruleTime, Sent: time.Now(), Received: time.Now()}
		for _, each := range change {
			each(&one)
		}
		return one
	}
	doubt := func(reason string, presented, due time.Duration) Orphan {
		one := flight(presented)
		one.Phase, one.FlightID, one.Reason = Suspect, "", reason
		one.Reading.Database, one.PresentedAt, one.NextAttemptAt = ruleTime, after(-presented), after(due)
		return one
	}
	rotatesNot := func(o *Orphan) { o.Rotates = RotationNo }
	unknown := func(o *Orphan) { o.Rotates = RotationUnknown }
	elsewhere := func(o *Orphan) { o.Rotates, o.ProviderRotates = RotationNo, true }
	silent := func(d time.Duration) Owner { return Owner{Silent: d} }
	for name, line := range map[string]struct {
		orphan Orphan
		owner  Owner
		policy Policy
		want   Judgement
	}{
		"its owner is alive":                              {flight(4 * time.Second), silent(time.Second), policy, Wait},
		"silent, within the grace":                        {flight(4 * time.Second), silent(leaseLife), policy, Present},
		"a moment less silent":                            {flight(4 * time.Second), silent(leaseLife - time.Millisecond), policy, Wait},
		"silent, the grace nearly over":                   {flight(9 * time.Second), silent(5 * time.Second), policy, Wait},
		"silent, the last moment of the grace":            {flight(9*time.Second - time.Millisecond), silent(5 * time.Second), policy, Present},
		"silent, no grace":                                {flight(4 * time.Second), silent(5 * time.Second), strict, Wait},
		"silent for less than spool_wait":                 {flight(3 * time.Minute), silent(2*time.Minute - time.Second), strict, Wait},
		"silent for spool_wait":                           {flight(3 * time.Minute), silent(2 * time.Minute), strict, Present},
		"spool_wait is shorter than the lease's life":     {flight(4 * time.Second), silent(leaseLife), Policy{Timeout: time.Minute, SpoolWait: time.Second}, Present},
		"silent, seen not to rotate":                      {flight(4*time.Second, rotatesNot), silent(5 * time.Second), strict, Present},
		"silent, not seen":                                {flight(4*time.Second, unknown), silent(5 * time.Second), strict, Wait},
		"silent, another of the provider's rotates":       {flight(4*time.Second, elsewhere), silent(5 * time.Second), strict, Wait},
		"silent, configured not to rotate":                {flight(4*time.Second, unknown), silent(5 * time.Second), keeps, Present},
		"dead, within the grace":                          {flight(4 * time.Second), Owner{Dead: true}, policy, Present},
		"dead, and the provider may work on it":           {flight(59 * time.Second), Owner{Dead: true}, strict, Wait},
		"dead, and no answer can come any more":           {flight(time.Minute), Owner{Dead: true}, strict, Present},
		"alone: the process before is dead":               {flight(time.Minute), silent(5 * time.Second), alone, Present},
		"alone, and the provider may work on it":          {flight(4 * time.Second), silent(5 * time.Second), alone, Wait},
		"alive, and it lasts too long, within spool_wait": {flight(66 * time.Second), silent(0), strict, Wait},
		"alive, and it lasts too long, safe":              {flight(66*time.Second, rotatesNot), silent(0), strict, Present},
		"alive, not too long, safe":                       {flight(65*time.Second, rotatesNot), silent(0), strict, Wait},
		"alive, and it lasts far too long":                {flight(65*time.Second + 2*time.Minute + time.Second), silent(0), strict, Present},
		"its own, which it holds":                         {flight(time.Hour), Owner{Self: true, Holds: true, Silent: time.Hour}, policy, Wait},
		"its own, which it does not hold":                 {flight(4 * time.Second), Owner{Self: true}, policy, Release},
		"a doubt that is due":                             {doubt(doubted, time.Minute, 0), Owner{}, strict, Present},
		"a doubt that is not":                             {doubt(doubted, time.Minute, time.Second), Owner{}, strict, Wait},
		"taken over, within the grace":                    {doubt(takenOver, 5*time.Second, -time.Second), Owner{}, policy, Present},
		"taken over, the grace is over":                   {doubt(takenOver, 10*time.Second, -time.Minute), Owner{}, policy, Wait},
		"taken over, and its time to come back is over":   {doubt(takenOver, 10*time.Minute, -2*time.Minute-time.Second), Owner{}, policy, Present},
		"taken over, no rotation":                         {doubt(takenOver, time.Minute, -time.Second), Owner{}, keeps, Present},
		"without a refresh token":                         {flight(time.Hour, func(o *Orphan) { o.RefreshToken = "" }), silent(time.Hour), policy, Wait},
		"that cannot be read":                             {flight(time.Hour, func(o *Orphan) { o.Unreadable = true }), silent(time.Hour), policy, Wait},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Judge(line.orphan, line.owner, line.policy); got != line.want {
				t.Errorf("got %d, want %d", got, line.want)
			}
		})
	}
}

// Times are translated so that a token never looks longer-lived than it is, whatever the clocks differ by.
func TestReadingsAreCautious(t *testing.T) {
	sent := time.Now()
	for _, skew := range []time.Duration{-time.Hour, 0, 7 * time.Second, time.Hour} {
		// The database looked at its clock somewhere between the two.
		reading := Reading{Database: sent.Add(skew + 300*time.Millisecond), Sent: sent, Received: sent.Add(time.Second)}
		end := sent.Add(time.Minute)
		stored := reading.ToDatabase(end)
		if exact := end.Add(skew); stored.After(exact) || exact.Sub(stored) > time.Second {
			t.Errorf("skew %s: stored %s from the exact time, want at most a second before", skew, stored.Sub(exact))
		}
		if back := reading.Local(end.Add(skew)); back.After(end) || end.Sub(back) > time.Second {
			t.Errorf("skew %s: read %s from the exact time, want at most a second before", skew, back.Sub(end))
		}
	}
	if !(Reading{Database: sent}).Local(time.Time{}).IsZero() || !(Reading{Database: sent}).ToDatabase(time.Time{}).IsZero() {
		t.Error("an unknown time became a known one")
	}
}

// How long a doubt rests: until it is due, and where its token was taken over from a replica that may come back,
// for spool_wait more once the grace is over.
func TestHowLongADoubtRests(t *testing.T) {
	const wait = 2 * time.Minute
	policy := Policy{Grace: 10 * time.Second, SpoolWait: wait}
	alone, keeps := policy, policy
	alone.Alone, keeps.NeverRotates = true, true
	for name, line := range map[string]struct {
		reason    string
		phase     Phase
		presented time.Duration // ago
		policy    Policy
		want      time.Duration // it is due in 3 s
	}{
		"its own":                            {doubted, Suspect, time.Minute, policy, 3 * time.Second},
		"taken over, within the grace":       {takenOver, Suspect, 9 * time.Second, policy, 3 * time.Second},
		"taken over, a moment later":         {takenOver, Suspect, 9*time.Second + time.Nanosecond, policy, 3*time.Second + wait},
		"taken over, without a grace":        {takenOver, Suspect, 0, Policy{SpoolWait: wait}, 3*time.Second + wait},
		"taken over, there is no other":      {takenOver, Suspect, time.Minute, alone, 3 * time.Second},
		"taken over, and nothing rotates":    {takenOver, Suspect, time.Minute, keeps, 3 * time.Second},
		"taken over, and it is ready by now": {takenOver, Ready, time.Minute, policy, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			row := readyRow(func(r *Row) {
				r.Phase, r.Reason, r.PresentedAt, r.NextAttemptAt = line.phase, line.reason, after(-line.presented), after(3*time.Second)
			})
			if got := waits(row, line.policy, ruleTime); got != line.want {
				t.Errorf("got %s, want %s", got, line.want)
			}
		})
	}
}
