package broker

import (
	"errors"
	"testing"
	"time"
)

// A refusal ends the grant whose token was refused, and no other: one that was stored since, one that a refresh keeps, or
// one that was disconnected.
func TestARefusalEndsTheGrantThatWasRefused(t *testing.T) {
	row := Row{Connection: Connection{UserID: "u", Provider: "p", Version: 3, Phase: Ready, AccessToken: "dead"}}
	change, err := Apply(row, Event{At: time.Now(), Action: refused{"dead"}})
	if err != nil || change.Row.Phase != Broken || change.Row.Reason != revoked || !change.Tell || change.Row.Version <= row.Version {
		t.Fatalf("got %+v, %v; want a broken grant that every replica hears of", change, err)
	}
	for name, alter := range map[string]func(*Row){
		"another token since": func(r *Row) { r.AccessToken = "fresh" },
		"a refresh token":     func(r *Row) { r.RefreshToken = "rt" },
		"disconnected":        func(r *Row) { r.Phase = Disconnected },
		"no row":              func(r *Row) { r.Version = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			other := row
			alter(&other)
			if _, err := Apply(other, Event{At: time.Now(), Action: refused{"dead"}}); !errors.Is(err, ErrSuperseded) {
				t.Errorf("got %v, want ErrSuperseded", err)
			}
		})
	}
}
