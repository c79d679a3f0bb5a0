package bench

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/paired"
)

// dead is the life of a token that has to be refreshed at its first use.
const dead = -time.Second

// together asks for a token once from each of these people's workers, at replica after replica, all at
// the same time, and returns how long the last answer took.
func together(b *testing.B, r *deployment.Deployment, people []int, query string) time.Duration {
	b.Helper()
	workers := make([]*http.Client, len(people))
	for i, person := range people {
		workers[i] = instance.WorkerAt(deployment.AddressOf(person))
	}
	began := time.Now()
	var all sync.WaitGroup
	for i := range people {
		all.Go(func() {
			if got := r.WTS[i%len(r.WTS)].Token(b, workers[i], query); got.Status != http.StatusOK {
				b.Errorf("answered %d: %s", got.Status, got.Message)
			}
		})
	}
	all.Wait()
	return time.Since(began)
}

func numbers(from, count int) (people []int) {
	for i := range count {
		people = append(people, from+i)
	}
	return people
}

// connectionWrites is how often a row of connections was written, once the database has counted it.
func connectionWrites(b *testing.B, r *deployment.Deployment) (writes int) {
	b.Helper()
	ctx := context.Background()
	connection, err := pgx.Connect(ctx, r.Database.URL)
	if err != nil {
		b.Fatal(err)
	}
	defer connection.Close(ctx)
	for last, since := -1, time.Now(); time.Since(since) < 3*time.Second; time.Sleep(200 * time.Millisecond) {
		if err := connection.QueryRow(ctx, "SELECT n_tup_upd + n_tup_ins FROM pg_stat_user_tables WHERE relname = 'connections'").Scan(&writes); err != nil {
			b.Fatal(err)
		}
		if writes != last {
			last, since = writes, time.Now()
		}
	}
	return writes
}

// refreshed asks a provider for an access token as wts does, without wts.
func refreshed(b *testing.B, at *providertest.Server, refreshToken string) (accessToken string) {
	b.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}, "client_id": {"wts"}, "client_secret": {"s"}}
	response, err := http.Post(at.Issuer+"/oauth/token", "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
		b.Fatalf("the provider answered %d, %v", response.StatusCode, err)
	}
	return answer.AccessToken
}

// A cold token costs one claim, one commit and one post, and hardly more time than the
// provider takes by itself.
func BenchmarkColdToken(b *testing.B) {
	const people = 60
	for b.Loop() {
		r := deployment.New(b, deployment.Setup{People: people, Replicas: 1, Life: time.Hour, Rate: 10_000})
		for _, name := range r.Names {
			r.Connect(b, name, dead, false)
		}
		writes, posts := connectionWrites(b, r), r.Provider.Ledger().TokenPosts
		var added []float64
		for person := range people {
			began := time.Now()
			refreshed(b, r.Provider, r.Provider.Grant("wts", "dora"))
			alone := time.Since(began)
			added = append(added, float64(together(b, r, []int{person}, "")-alone)/float64(time.Millisecond))
		}
		posts = r.Provider.Ledger().TokenPosts - posts - people
		paired.Report(b, paired.Median(added), "ms-more-than-the-provider", "≤3")
		paired.Report(b, float64(posts)/people, "posts", "1")
		paired.Report(b, float64(connectionWrites(b, r)-writes)/people, "writes", "2")
	}
}

// Many callers of one person, and many cold people, over three replicas at a
// provider that takes a second.
func BenchmarkCallersAtOnce(b *testing.B) {
	const people, callers = 600, 300
	for b.Loop() {
		r := deployment.New(b, deployment.Setup{People: people + 1, Replicas: 3, Life: time.Hour, Rate: 100_000})
		for _, name := range r.Names {
			r.Connect(b, name, dead, false)
		}
		time.Sleep(3 * time.Second) // for the replicas to have heard of everybody
		// It answers from memory: what it costs to sign tokens is not ours, and it shares the machine here.
		answer := `{"access_token":"a","token_type":"Bearer","expires_in":3600}`
		r.Provider.Fail(&providertest.Fault{Delay: time.Second, Status: http.StatusOK, Body: answer, Header: http.Header{"Content-Type": {"application/json"}}})
		posts := r.Provider.Ledger().TokenPosts
		one := make([]int, callers)
		last := together(b, r, one, "")
		paired.Report(b, float64(r.Provider.Ledger().TokenPosts-posts), "posts-for-300-callers", "1")
		paired.Report(b, last.Seconds(), "x-provider's-time-for-300-callers", "≤1.5")
		paired.Report(b, together(b, r, numbers(1, people), "").Seconds(), "s-for-600-cold-people", "≤1.5")
	}
}

// A provider that takes half a minute: the users of another provider beside both.
func BenchmarkAnotherProvidersTrouble(b *testing.B) {
	const people = 40
	for b.Loop() {
		r := deployment.New(b, deployment.Setup{People: people + 1, Replicas: 2, Life: time.Hour, Timeout: time.Minute, Rate: 10_000})
		for i, name := range r.Names {
			if i < people {
				r.Connect(b, name, time.Hour, true)
			} else {
				r.Connect(b, name, time.Hour, false)
			}
		}
		r.Expire(b, "second")
		var targets []*target // the same person's cached tokens, at the replica that is troubled and at one that is not
		for _, one := range r.WTS {
			targets = append(targets, &target{address: one.Address, pid: one.PID(), load: newLoad(b, one.Address, "/token/?expires=600", people, 8)})
		}
		beside := func() (rate, tail float64) {
			found := rounds(b, targets, func(round []window) []float64 {
				return []float64{
					round[0].rate / round[1].rate,
					float64(paired.Percentile(round[0].latencies, .99)) / float64(paired.Percentile(round[1].latencies, .99)),
				}
			})
			return found[0], found[1]
		}
		ask := func(stop <-chan struct{}, callers int) *sync.WaitGroup {
			asking := &sync.WaitGroup{}
			for caller := range callers {
				asking.Go(func() {
					worker := instance.WorkerAt(deployment.AddressOf(caller % people))
					for {
						select {
						case <-stop:
							return
						case <-time.After(100 * time.Millisecond):
							r.WTS[0].Token(b, worker, "?idp=second")
						}
					}
				})
			}
			return asking
		}

		r.Second.Fail(&providertest.Fault{Status: http.StatusServiceUnavailable})
		posts, began := r.Second.Ledger().TokenPosts, time.Now()
		stop := make(chan struct{})
		asking := ask(stop, people)
		rate, _ := beside()
		close(stop)
		asking.Wait()
		windows := time.Since(began).Seconds() // each is a second at least
		paired.Report(b, rate, "x-rate-beside-a-provider-that-fails", "≥0.9")
		paired.Report(b, float64(r.Second.Ledger().TokenPosts-posts)/people/windows, "attempts-for-each-user-and-second", "≤1")

		r.Second.Fail(&providertest.Fault{Delay: 30 * time.Second, Status: http.StatusServiceUnavailable})
		posts = r.Second.Ledger().TokenPosts
		stop = make(chan struct{})
		asking = ask(stop, people)
		for deadline := time.Now().Add(time.Minute); r.Second.Ledger().TokenPosts-posts < people && time.Now().Before(deadline); {
			time.Sleep(100 * time.Millisecond) // until it has been asked for everybody
		}
		_, tail := beside()
		close(stop)
		asking.Wait()
		paired.Report(b, tail, "x-p99-beside-a-provider-that-takes-30-s", "1")
	}
}
