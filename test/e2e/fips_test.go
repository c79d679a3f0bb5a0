//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

// Rule D8, as an operator goes into FIPS 140-3 mode and out of it again (docs/sealing-keys.md): two replicas serve all
// the while, at most one of them stopped at a time, over a database that wants SCRAM and TLS, and alice logs in once.
func TestIntoFIPSModeAndBack(t *testing.T) {
	t.Setenv("GODEBUG", "fips140=off") // such a binary is in the mode otherwise
	database, err := pgtest.StartWith(pgtest.Options{Secure: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = database.Remove() })
	ports := []int{instance.FreePort(t), instance.FreePort(t)}
	public := fmt.Sprintf("http://localhost:%d", ports[0])
	node := startProvider(t, "127.0.0.1", public+"/oauth2/authorize")
	keyring, workers := instance.NewKeyring(t), t.TempDir()+"/workers.yaml"
	if err := os.WriteFile(workers, []byte(instance.WorkerAddress+": alice\n127.0.0.1: bob\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var replicas []*instance.Instance
	for _, port := range ports {
		replicas = append(replicas, instance.Start(t, port, fmt.Sprintf(`
url: %s
listen: ["127.0.0.1:%d"]
metrics_listen: "off"
database: {url: "%s"}
keyring_file: %s
workers_file: %s
default_provider: main
providers:
  main: {issuer: "%s", client_id: wts, client_secret: end-to-end, username_claim: preferred_username, prompt: consent}
audiences: {npm: {}}
`, public, port, database.URL, keyring, workers, node.issuer)))
	}
	for _, one := range replicas {
		one.AwaitReady(t)
	}
	logInAs := func(name string) {
		t.Helper()
		if page := logIn(t, providertest.Browser(), public+"/oauth2/authorization_url", name); !strings.Contains(page, `<span class="name">`+name+"</span>") {
			t.Fatalf("after the login the page says:\n%s", page)
		}
	}
	worker := instance.Worker()
	rotate := func(where string) { // each replica once, with a token that the other one's rotation sealed
		t.Helper()
		for i, one := range replicas {
			time.Sleep(accessLife * time.Second)
			if answer := one.Token(t, worker, "?expires=600"); answer.Status != http.StatusOK {
				t.Fatalf("%s, replica %d: %d %s", where, i, answer.Status, answer.Message)
			}
		}
	}
	each := func(where string, variables ...string) {
		t.Helper()
		for i, one := range replicas {
			one.RestartIn(t, variables...)
			one.AwaitReady(t)
			rotate(fmt.Sprintf("%s, after replica %d", where, i))
		}
	}
	reencrypt := func(want byte) {
		t.Helper()
		said := strings.TrimSpace(replicas[0].Run(t, "keys", "reencrypt"))
		if t.Log(said); strings.HasPrefix(said, "0 secrets were sealed again") {
			t.Error("there was nothing to seal again")
		}
		if forms := formsIn(t, database.URL); len(forms) != 1 || forms[want] == 0 {
			t.Fatalf("at rest are so many of each form: %v, want form %d alone", forms, want)
		}
	}

	logInAs("alice")
	rotate("at first")
	each("seal_format 2", "WTS_SEAL_FORMAT=2")
	reencrypt(2)
	each("FIPS mode", "WTS_SEAL_FORMAT=2", "GODEBUG=fips140=only")
	logInAs("bob")
	for _, one := range replicas {
		minted := one.Token(t, worker, "?audience=npm&expires=60")
		if claims, err := verifyInNode(public, minted.Token); err != nil || !strings.Contains(claims, `"preferred_username":"alice"`) {
			t.Fatalf("minting in FIPS mode: %d %s; %v\n%s", minted.Status, minted.Message, err, claims)
		}
		if said := one.Run(t, "version"); !strings.Contains(said, "v1.0.0, FIPS 140-3 mode on") {
			t.Errorf("it says of itself %q", said)
		}
		t.Log(one.Run(t, "check-config", "--online"))
	}
	each("out of FIPS mode", "WTS_SEAL_FORMAT=2")
	each("seal_format 1")
	reencrypt(1)
	rotate("at last")
	// check-config tries the client's credentials with a token that is none, once for each replica.
	if node.count("grant.error") != len(replicas) || node.count("grant.revoked") > 0 {
		t.Errorf("a grant was refused or revoked:\n%s", node.text())
	}
}

// formsIn counts the connections' tokens and the private keys by the form of their seals.
func formsIn(t *testing.T, url string) map[byte]int {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(t.Context())
	rows, err := connection.Query(t.Context(), `SELECT refresh_token FROM connections UNION ALL SELECT access_token FROM connections
		UNION ALL SELECT private FROM signing_keys`)
	if err != nil {
		t.Fatal(err)
	}
	envelopes, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	forms := map[byte]int{}
	for _, envelope := range envelopes {
		forms[envelope[0]]++
	}
	return forms
}
