package kube

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/util/duration"
)

// printed is a table as kube-apiserver 1.36 prints it, for kubectl get pods -o wide.
const printed = `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"311"},"columnDefinitions":[` +
	`{"name":"Name","type":"string","format":"name","description":"Name must be unique within a namespace.","priority":0},` +
	`{"name":"Ready","type":"string","format":"","description":"","priority":0},{"name":"Status","type":"string","format":"","description":"","priority":0},` +
	`{"name":"Restarts","type":"string","format":"","description":"","priority":0},{"name":"Age","type":"string","format":"","description":"","priority":0},` +
	`{"name":"IP","type":"string","format":"","description":"","priority":1},{"name":"Node","type":"string","format":"","description":"","priority":1}],` +
	`"rows":[{"cells":["jupyter-alice","1/1","Running",0,"3h12m","10.1.2.3","node-1"],"object":null},` +
	`{"cells":["jupyter-bob","0/1","Pending","0","5s","\u003cnone\u003e","\u003cnone\u003e"],"object":null},` +
	`{"object":null,"cells":["jupyter-eve","1/1","Terminating","1 (2h ago)","2d5h","fd00::7",null]},` +
	// A pod that has ended, of which a container is said to run.
	`{"cells":["batch-1","1/2","Running","0","8m","10.1.2.4","node-1"],"conditions":[{"type":"Completed","status":"True","reason":"Failed"}],"object":null}]}
`

func TestATableIsReadAsItIs(t *testing.T) {
	t.Parallel()
	want := []row{
		{"jupyter-alice", netip.MustParseAddr("10.1.2.3"), true, true, 3*time.Hour + 12*time.Minute},
		{"jupyter-bob", netip.Addr{}, false, false, 5 * time.Second},
		{"jupyter-eve", netip.MustParseAddr("fd00::7"), false, false, 53 * time.Hour},
		{"batch-1", netip.MustParseAddr("10.1.2.4"), true, false, 8 * time.Minute},
	}
	got, err := readTable(strings.NewReader(printed))
	if difference := cmp.Diff(want, got, cmp.AllowUnexported(row{}), cmpopts.EquateComparable(netip.Addr{})); err != nil || difference != "" {
		t.Errorf("%v, %s", err, difference)
	}
	for name, change := range map[string][2]string{
		"a column is missing": {`"name":"IP"`, `"name":"Address"`},
		"another kind":        {`"kind":"Table"`, `"kind":"PodList"`},
		"rows twice":          {`"metadata":`, `"rows":[],"ignored":`},
	} {
		rows, err := readTable(strings.NewReader(strings.Replace(printed, change[0], change[1], 1)))
		if rows != nil || !errors.Is(err, errNoTable) && (name != "rows twice" || !errors.Is(err, errNotWhole)) { // a name twice is no JSON
			t.Errorf("%s: %v, %v", name, rows, err)
		}
	}
	for name, table := range map[string]string{
		"the rows first": `{"kind":"Table","rows":[{"cells":["a"]}],"columnDefinitions":[{"name":"Name"},{"name":"Status"},{"name":"Age"},{"name":"IP"},{"name":"Node"}]}`,
		"no columns":     `{"kind":"Table","rows":[{"cells":["a"]}],"columnDefinitions":null}`,
		"no object":      `{}`,
	} {
		if rows, err := readTable(strings.NewReader(table)); rows != nil || !errors.Is(err, errNoTable) {
			t.Errorf("%s: %v, %v", name, rows, err)
		}
	}
	for name, text := range map[string]string{"no pods": "[]", "no pods, as null": "null"} {
		rows, err := readTable(strings.NewReader(`{"kind":"Table","columnDefinitions":[{"name":"Name"},{"name":"Status"},{"name":"Age"},{"name":"IP"},{"name":"Node"}],"rows":` + text + `}`))
		if len(rows) > 0 || err != nil || rows == nil {
			t.Errorf("%s: %v, %v", name, rows, err)
		}
	}
	if got, err := readTable(strings.NewReader(strings.Replace(printed, `"resourceVersion":"311"`, `"continue":"more"`, 1))); !errors.Is(err, errNotWhole) {
		t.Errorf("a page: %v, %v", got, err)
	}
	for length := range len(printed) - 2 {
		if rows, err := readTable(strings.NewReader(printed[:length])); !errors.Is(err, errNotWhole) {
			t.Fatalf("the first %d bytes: %v, %v", length, rows, err)
		}
	}
}

// An age that is read is never more than the age that was printed, and hardly less.
func TestAnAgeIsReadAsItWasPrinted(t *testing.T) {
	t.Parallel()
	for range 100_000 {
		age := time.Duration(rand.Float64() * rand.Float64() * rand.Float64() * rand.Float64() * float64(12*365*24*time.Hour))
		text := duration.HumanDuration(age)
		got := readAge(text)
		if got > age || got < age-age/9-time.Second { // 8h to 48h are printed in hours, and 8d to two years in days
			t.Fatalf("%s, printed as %s, is read as %s", age, text, got)
		}
	}
	for _, text := range []string{"", "<unknown>", "<invalid>", "-5s", "5 s", "99999999d"} {
		if got := readAge(text); got != 0 {
			t.Errorf("%q: %s", text, got)
		}
	}
}

// A pod that was made after the reading, however long its creation took, is not the one that was read.
func TestWhatARowTells(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, one := range map[string]struct {
		age, read   time.Duration // ago
		running     bool
		ended, want bool
	}{
		"one that had ended, and is said to run":   {time.Hour, 10 * time.Minute, true, true, false},
		"an old pod":                               {time.Hour, 10 * time.Minute, true, false, true},
		"it was younger than a creation when read": {11 * time.Minute, 10 * time.Minute, true, false, false},
		"a pod made since":                         {5 * time.Minute, 10 * time.Minute, true, false, false},
		"an old pod in another state":              {time.Hour, 10 * time.Minute, false, false, false},
		"one that had ended":                       {time.Hour, 10 * time.Minute, false, true, true},
		"one that had ended, and another":          {time.Minute, 10 * time.Minute, false, true, false},
	} {
		got := row{age: one.age, running: one.running}.tells(reading{&pod{ended: one.ended}, now.Add(-one.read)}, now)
		if got != one.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// How long ago a reading was is said by the clock that says more: the monotonic one stands still in suspension.
func TestTheAgeOfAReading(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, one := range map[string]struct {
		sent time.Time
		want time.Duration
	}{
		"both clocks":     {now.Add(-time.Minute), time.Minute},
		"suspended since": {now.Round(0).Add(-time.Hour), time.Hour},
	} {
		if got := (reading{nil, one.sent}).age(now); got != one.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func FuzzReadTable(f *testing.F) {
	f.Add([]byte(printed))
	f.Fuzz(func(t *testing.T, body []byte) {
		rows, err := readTable(bytes.NewReader(body))
		if err != nil && rows != nil {
			t.Errorf("%v and %v", rows, err)
		}
	})
}

// BenchmarkATableOfPods prints what reading a table of 10,000 pods costs.
func BenchmarkATableOfPods(b *testing.B) {
	var body bytes.Buffer
	body.WriteString(`{"kind":"Table","columnDefinitions":[`)
	for i, name := range []string{"Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"} {
		fmt.Fprintf(&body, `%s{"name":%q,"type":"string","format":"","description":"What it is.","priority":0}`, map[bool]string{true: ","}[i > 0], name)
	}
	body.WriteString(`],"rows":[`)
	for i := range 10_000 {
		fmt.Fprintf(&body, `%s{"cells":["jupyter-%d","1/1","Running","0","3h12m","10.1.%d.%d","ip-10-0-0-1.ec2.internal","\u003cnone\u003e","\u003cnone\u003e"],"object":null}`, map[bool]string{true: ","}[i > 0], i, i/250, i%250)
	}
	body.WriteString(`]}`)
	b.SetBytes(int64(body.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if rows, err := readTable(bytes.NewReader(body.Bytes())); err != nil || len(rows) != 10_000 || rows[9].age == 0 || !rows[9].running {
			b.Fatal(len(rows), err)
		}
	}
}
