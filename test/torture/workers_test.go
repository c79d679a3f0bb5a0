//go:build torture

package torture

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
)

// tortured is a deployment that is hurt.
type tortured struct{ *deployment.Deployment }

func newTortured(t *testing.T, of deployment.Setup) tortured {
	t.Helper()
	r := deployment.New(t, of)
	r.LogInAll(t)
	return tortured{r}
}

// tally is what the workers saw.
type tally struct {
	calls, served, unavailable, refused, unreachable atomic.Int64

	mu       sync.Mutex
	waits    []time.Duration
	refusals []refusal
	foreign  []string // other people's tokens that were handed out
	ended    []dead
}

// work lets the workers of these people, by number, ask all the time, each at a replica of its choice,
// until stop closes. Who is refused logs in again, as a person would.
func (r tortured) work(t *testing.T, seen *tally, people []int, stop <-chan struct{}) *sync.WaitGroup {
	working := &sync.WaitGroup{}
	for _, at := range people {
		working.Go(func() {
			client, chance := r.Worker(at), rand.New(rand.NewPCG(*seed, uint64(at)))
			client.Timeout = 10 * time.Second
			for {
				select {
				case <-stop:
					return
				case <-time.After(20*time.Millisecond + time.Duration(chance.IntN(200))*time.Millisecond):
				}
				began := time.Now()
				replica := chance.IntN(len(r.WTS))
				status, token := ask(client, r.WTS[replica].Address)
				seen.note(status, time.Since(began))
				r.inspect(seen, token, r.Names[at], replica, began)
				if status == http.StatusForbidden || status == http.StatusUnauthorized {
					seen.refuse(r.rowOf(r.Names[at]))
					for r.LogIn(t.Context(), r.Names[at]) != nil && t.Context().Err() == nil {
						time.Sleep(300 * time.Millisecond)
					}
				}
			}
		})
	}
	return working
}

// everybody are the numbers of all.
func (r tortured) everybody() (people []int) {
	for i := range r.Names {
		people = append(people, i)
	}
	return people
}

func ask(client *http.Client, address string) (status int, token string) {
	response, err := client.Get("http://" + address + "/token/?expires=600")
	if err != nil {
		return 0, ""
	}
	defer response.Body.Close()
	var answer struct{ Token string }
	_ = json.NewDecoder(response.Body).Decode(&answer) // an error has none
	return response.StatusCode, answer.Token
}

// dead is a call that was answered with a token that had ended before it.
type dead struct {
	name    string
	replica int
	// asked is when the worker sent its call, answered when it had the token.
	asked, answered, ended time.Time
}

func (d dead) String() string {
	return fmt.Sprintf("%s: r%d gave %s a token that had ended %s before", d.asked.Format(clock), d.replica, d.name, d.asked.Sub(d.ended))
}

// inspect holds a token that was handed out to what the provider knows of it.
func (r tortured) inspect(seen *tally, token, name string, replica int, asked time.Time) {
	if token == "" {
		return
	}
	subject, ends, known := r.Provider.Inspect(token)
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if !known || subject != name {
		seen.foreign = append(seen.foreign, fmt.Sprintf("%s: r%d gave %s a token of %q", asked.Format(clock), replica, name, subject))
	}
	if known && ends.Before(asked) {
		seen.ended = append(seen.ended, dead{name, replica, asked, time.Now(), ends})
	}
}

func (s *tally) refuse(one refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals = append(s.refusals, one)
}

func (s *tally) note(status int, took time.Duration) {
	s.calls.Add(1)
	switch status {
	case http.StatusOK:
		s.served.Add(1)
		s.mu.Lock()
		s.waits = append(s.waits, took)
		s.mu.Unlock()
	case 0:
		s.unreachable.Add(1)
	case http.StatusForbidden, http.StatusUnauthorized:
		s.refused.Add(1)
	default:
		s.unavailable.Add(1)
	}
}

func (s *tally) percentile(share float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waits) == 0 {
		return 0
	}
	slices.Sort(s.waits)
	return s.waits[min(int(share*float64(len(s.waits))), len(s.waits)-1)]
}

// lost asks for everybody once more, when all is well, and returns who has to log in again.
func (r tortured) lost(t *testing.T) (names []string) {
	t.Helper()
	for i, name := range r.Names {
		client := r.Worker(i)
		status := 0
		for deadline := time.Now().Add(90 * time.Second); status != http.StatusOK && status != http.StatusForbidden && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			status, _ = ask(client, r.WTS[i%len(r.WTS)].Address)
		}
		if status != http.StatusOK {
			names = append(names, fmt.Sprintf("%s (%d)", name, status))
		}
	}
	return names
}
