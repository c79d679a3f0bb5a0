//go:build torture

package torture

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/network"
)

// What ended a grant, by the ledger. All but the last excuse the loss where the provider has no grace: the
// provider had committed the rotation, and its answer did not reach us.
const (
	byCut     = "its answer was cut off"
	byKill    = "its replica was killed before the answer was stored"
	byDrop    = "its answer was dropped on the way"
	byNothing = "nothing explains it"
)

// landing is how long after an answer was received its successor may take to be stored, while the database is
// there.
const landing = 500 * time.Millisecond

// ledger is what the provider noted, by request and by person.
type ledger struct {
	posted, received map[int]time.Time               // by the post's number
	of               map[string][]providertest.Event // by subject
	names            map[string]string               // of refresh tokens: login.number
}

func read(events []providertest.Event) *ledger {
	l := &ledger{posted: map[int]time.Time{}, received: map[int]time.Time{}, of: map[string][]providertest.Event{}, names: map[string]string{}}
	logins, given := map[string]int{}, map[string]int{}
	for _, event := range events {
		switch event.What {
		case providertest.Posted:
			l.posted[event.Post] = event.At
		case providertest.Received:
			l.received[event.Post] = event.At
		case providertest.Granted:
			logins[event.Subject]++
			given[event.Subject] = 0
		}
		if event.Subject == "" {
			continue
		}
		l.of[event.Subject] = append(l.of[event.Subject], event)
		if event.Given != "" {
			l.names[event.Given] = fmt.Sprintf("%d.%d", logins[event.Subject], given[event.Subject])
			given[event.Subject]++
		}
	}
	return l
}

// loss is a grant that the provider ended because a spent token came back.
type loss struct {
	reuse     providertest.Event
	rotations []providertest.Event // of that token
	cause     string
	// apart: a fault that is not within what the bar is for befell it.
	apart bool
}

func (l *ledger) losses(events []providertest.Event, faults []fault) (losses []loss) {
	for _, event := range events {
		if event.What != providertest.Reused {
			continue
		}
		found := loss{reuse: event}
		for _, other := range l.of[event.Subject] {
			if other.What == providertest.Rotated && other.Presented == event.Presented {
				found.rotations = append(found.rotations, other)
			}
		}
		// Every one of the successors has to be accounted for.
		for _, rotation := range found.rotations {
			if found.cause = l.causeOf(rotation, faults); found.cause == byNothing {
				break
			}
		}
		found.cause = cmp.Or(found.cause, byNothing)
		for _, one := range faults {
			if *grace > 5*time.Second && one.lasts() && one.ended.Sub(one.began) > *grace-5*time.Second &&
				one.began.Before(event.At) && one.over.After(event.SpentAt.Add(-landing)) {
				found.apart = true
			}
		}
		losses = append(losses, found)
	}
	return losses
}

// lasts tells that a fault is an outage, so that its length counts.
func (f fault) lasts() bool {
	return slices.Contains([]string{pause, restart, dropProvider, dropDatabase, dropAll, notThere, stall}, f.what)
}

// causeOf says what became of the answer to a rotation: it was never received because of a fault, or its replica
// was killed before it had stored the successor.
func (l *ledger) causeOf(rotation providertest.Event, faults []fault) string {
	if rotation.AnswerLost {
		return byCut
	}
	replica, known := network.HostOf(rotation.From)
	posted, cause := l.posted[rotation.Post], byNothing
	received, ever := l.received[rotation.Post]
	if !known {
		return byNothing
	}
	if !ever {
		received = rotation.At.Add(time.Minute) // longer than it may have been waited for
	}
	stored := received.Add(landing)
	for _, one := range faults {
		mine := one.replica == replica
		switch {
		case !ever && mine && (one.what == dropProvider || one.what == dropAll) && one.began.Before(received) && one.over.After(posted):
			cause = byDrop
		case (mine && (one.what == dropDatabase || one.what == dropAll) || one.what == restart) && one.began.Before(stored) && one.over.After(received):
			stored = one.over.Add(landing)
		}
	}
	for _, one := range faults {
		if one.replica == replica && one.what == kill && one.began.After(posted.Add(-landing)) && one.began.Before(stored) {
			return byKill
		}
	}
	return cause
}

// doubts counts the tokens that were presented again within the grace, and those of them that two faults or more had
// befallen meanwhile.
func doubts(events []providertest.Event, faults []fault) (again, double int) {
	for _, event := range events {
		if event.What != providertest.Rotated || event.SpentAt.IsZero() {
			continue
		}
		again++
		befell := 0
		for _, one := range faults {
			if one.began.Before(event.At) && one.over.After(event.SpentAt.Add(-landing)) {
				befell++
			}
		}
		if befell > 1 {
			double++
		}
	}
	return again, double
}

// refusal is a row as it was when its person was refused, before they logged in again.
type refusal struct {
	name string
	at   time.Time
	row  map[string]any
	err  error
}

// rowOf reads a person's row, all but the sealed tokens.
func (r tortured) rowOf(name string) refusal {
	found := refusal{name: name, at: time.Now()}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, r.Database.URL)
	if err != nil {
		found.err = err
		return found
	}
	defer connection.Close(ctx)
	rows, err := connection.Query(ctx, `SELECT phase, reason, version, stored_version, flight, replica, claimed_at, presented_at, next_attempt_at, rotates, failure,
		refresh_digest, parent_digest, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now
		FROM connections WHERE provider = 'main' AND user_id = (SELECT id FROM users WHERE username = $1)`, name)
	if err == nil {
		found.row, err = pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
	}
	found.err = err
	return found
}

// line is one of a history.
type line struct {
	at   time.Time
	text string
}

const clock = "15:04:05.000"

// history is all that is known of a loss, in the order of time.
func (r tortured) history(l *ledger, of loss, faults []fault, refusals []refusal) string {
	name, events := of.reuse.Subject, l.of[of.reuse.Subject]
	// From two rotations before the token that came back was given: what was before that went well.
	from, given, earlier := time.Time{}, 0, 0
	for i := len(events) - 1; i >= 0; i-- {
		if given == 3 {
			if events[i].Given != "" {
				earlier++
			}
			continue
		}
		if events[i].Given != "" && !events[i].At.After(of.reuse.SpentAt) && l.names[events[i].Given] != "" && events[i].Presented != of.reuse.Presented {
			given, from = given+1, events[i].At
		}
	}
	from, to := from.Add(-100*time.Millisecond), of.reuse.At.Add(3*time.Second)
	var lines []line
	for _, event := range events {
		lines = append(lines, line{event.At, l.describe(event)})
	}
	for _, one := range faults {
		if one.over.After(from) && one.began.Before(to) {
			lines = append(lines, line{one.began, "  FAULT " + one.String() + " until " + one.ended.Format(clock)})
			from = slices.MinFunc([]time.Time{from, one.began}, time.Time.Compare)
		}
	}
	for _, one := range refusals {
		if one.name == name {
			lines = append(lines, line{one.at, "  REFUSED; the row: " + r.describe(l, one)})
		}
	}
	for i := range r.WTS {
		lines = append(lines, r.logged(i, name, from, to)...)
	}
	lines = slices.DeleteFunc(lines, func(one line) bool { return one.at.Before(from) || one.at.After(to) })
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	text := &strings.Builder{}
	fmt.Fprintf(text, "LOST: %s, token %s, spent at %s, came back after %s: %s\n", name, l.names[of.reuse.Presented], of.reuse.SpentAt.Format(clock), of.reuse.At.Sub(of.reuse.SpentAt), of.cause)
	fmt.Fprintf(text, "    %d tokens were given before\n", earlier)
	for _, one := range lines {
		fmt.Fprintf(text, "    %s %s\n", one.at.Format(clock), one.text)
	}
	return text.String()
}

func (l *ledger) describe(event providertest.Event) string {
	from := "  "
	if at, ok := network.HostOf(event.From); ok {
		from = fmt.Sprintf("r%d", at)
	}
	text := fmt.Sprintf("%s post %d %s", from, event.Post, event.What)
	if event.Presented != "" {
		text += " token " + cmp.Or(l.names[event.Presented], "unknown")
	}
	if event.Given != "" {
		text += " -> " + l.names[event.Given]
	}
	if !event.SpentAt.IsZero() {
		text += ", spent " + event.At.Sub(event.SpentAt).Round(time.Millisecond).String() + " before"
	}
	if event.What == providertest.Answered {
		text += fmt.Sprintf(" with %d", event.Status)
		if event.Status == 0 {
			text += ", broken off"
		}
		if event.Gone {
			text += ", the caller had gone"
		}
	}
	if event.AnswerLost {
		text += ", its answer thrown away"
	}
	return text
}

// describe names the tokens of a row by their digests, and gives its times as the age that they had.
func (r tortured) describe(l *ledger, of refusal) string {
	if of.err != nil {
		return of.err.Error()
	}
	text := &strings.Builder{}
	now, _ := of.row["now"].(int64)
	for _, column := range []string{"phase", "reason", "version", "stored_version", "flight", "replica", "claimed_at", "presented_at", "next_attempt_at", "rotates", "failure", "refresh_digest", "parent_digest"} {
		switch value := of.row[column].(type) {
		case nil:
		case []byte:
			fmt.Fprintf(text, "%s=%s (%s) ", column, short(hex.EncodeToString(value)), r.tokenOf(l, value))
		case int64:
			if strings.HasSuffix(column, "_at") {
				fmt.Fprintf(text, "%s=now%+.3fs ", column, float64(value-now)/1000)
			} else {
				fmt.Fprintf(text, "%s=%d ", column, value)
			}
		default:
			if value != "" {
				fmt.Fprintf(text, "%s=%s ", column, short(fmt.Sprint(value)))
			}
		}
	}
	return text.String()
}

func short(text string) string { return text[:min(len(text), 16)] }

func (r tortured) tokenOf(l *ledger, digest []byte) string {
	for token, name := range l.names {
		if bytes.Equal(r.Digest(token), digest) {
			return "token " + name
		}
	}
	return "no token of the ledger"
}

// logged are a replica's lines about a person, but for what was served, and its warnings; what it says again and
// again stands once.
func (r tortured) logged(at int, name string, from, to time.Time) (lines []line) {
	file, err := os.Open(r.WTS[at].LogFile())
	if err != nil {
		return []line{{from, err.Error()}}
	}
	defer file.Close()
	scanner, before := bufio.NewScanner(file), map[string]bool{}
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var said struct {
			Time                            time.Time
			Level, Msg, User, Reason, Cause string
			Error, Route                    string
			Status                          int
			Us                              int64
		}
		if json.Unmarshal(scanner.Bytes(), &said) != nil || said.Time.Before(from) || said.Time.After(to) {
			continue
		}
		text := said.Msg + " " + said.Cause + said.Error
		switch {
		case said.User == name && said.Status != http.StatusOK:
			text = fmt.Sprintf("%s %d %s", said.Route, said.Status, said.Reason)
		case said.User != "" || said.Level == "INFO" || said.Msg == "request" || said.Cause+said.Error == "":
			continue
		}
		if !before[text] {
			before[text] = true
			took := (time.Duration(said.Us) * time.Microsecond).Round(time.Millisecond)
			lines = append(lines, line{said.Time, fmt.Sprintf("  r%d logged, after %s: %s", at, took, text)})
		}
	}
	return lines
}
