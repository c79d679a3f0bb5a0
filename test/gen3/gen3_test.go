// Package gen3 tests the change from Gen3's Python service to ours and back, with real processes: the
// database that it leaves, its own cryptography, its init container, a rollout.
package gen3

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/pgtest"
)

func TestMain(m *testing.M) {
	code := instance.Main(m)
	pgtest.Cleanup()
	os.Exit(code)
}

const (
	encryptionKey = "c2l4dGVlbi1ieXRlcy1zaWdudGVlbi1ieXRlcy1lbmM="
	clientID      = "wts"
	clientSecret  = "s3cret"
)

// revisions are what the migrations of the Python service do, one after the other; stamp is where they
// say which was the last.
var revisions = []struct{ name, statements string }{
	{"before alembic", `CREATE TABLE refresh_token (token varchar NOT NULL, jti varchar NOT NULL, username varchar NOT NULL, userid varchar NOT NULL,
		expires bigint NOT NULL, CONSTRAINT refresh_token_pkey PRIMARY KEY (token), CONSTRAINT refresh_token_jti_key UNIQUE (jti))`},
	{"a38a346e6ded", `CREATE TABLE alembic_version (version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
		INSERT INTO alembic_version VALUES ('a38a346e6ded')`},
	{"27833deaf81f", `ALTER TABLE refresh_token ADD COLUMN idp varchar; UPDATE refresh_token SET idp = 'default'; ALTER TABLE refresh_token ALTER COLUMN idp SET NOT NULL;
		UPDATE alembic_version SET version_num = '27833deaf81f'`},
	{"3417aec47fe2", `UPDATE alembic_version SET version_num = '3417aec47fe2'`},
}

// migrateAsPython brings a database to a revision.
func migrateAsPython(t *testing.T, database, revision string) {
	t.Helper()
	for _, one := range revisions {
		sql(t, database, one.statements)
		if one.name == revision {
			return
		}
	}
}

func sql(t *testing.T, database, statements string) (rows []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(ctx)
	results, err := connection.PgConn().Exec(ctx, statements).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
	for _, result := range results {
		for _, row := range result.Rows {
			rows = append(rows, string(bytes.Join(row, []byte("|"))))
		}
	}
	return rows
}

// deployment is a commons that is about to change its service.
type deployment struct {
	database string
	fence    *providertest.Fence
	other    *providertest.Fence
	people   []string
	python   []string // the environment of Python programs
	env      []string // that of ours: nothing but what the Python service's pods have, and workers
	creds    map[string]any
}

// workerOf is the address of a person's worker.
func workerOf(at int) string { return fmt.Sprintf("127.0.1.%d", at+1) }

func newDeployment(t *testing.T, people int, port int) *deployment {
	t.Helper()
	d := &deployment{database: pgtest.Database(t)}
	var users []providertest.User
	workers := ""
	for i := range people {
		name := fmt.Sprintf("user%d@example.org", i)
		d.people = append(d.people, name)
		users = append(users, providertest.User{Subject: fmt.Sprint(100 + i), Name: name, Password: "p"})
		workers += fmt.Sprintf("%s: %s\n", workerOf(i), name)
	}
	start := func(address string) *providertest.Fence {
		fence, err := providertest.StartFence(providertest.FenceOptions{Address: address, Users: users})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = fence.Close() })
		fence.Register(providertest.Client{ID: clientID, Secret: clientSecret, RedirectURI: fmt.Sprintf("http://localhost:%d/oauth2/authorize", port)})
		return fence
	}
	d.fence, d.other = start("127.0.0.1:0"), start("127.0.0.3:0")
	d.creds = map[string]any{
		"wts_base_url": fmt.Sprintf("http://localhost:%d/", port), "encryption_key": encryptionKey, "secret_key": "s", "fence_base_url": d.fence.Issuer,
		"external_oidc": []any{map[string]any{"base_url": d.other.BaseURL, "login_options": map[string]any{"other": map[string]any{"name": "Other", "params": map[string]string{}}}}},
	}
	dir := t.TempDir()
	d.write(t, filepath.Join(dir, "appcreds.json"))
	if err := os.WriteFile(filepath.Join(dir, "workers.yaml"), []byte(workers), 0o600); err != nil {
		t.Fatal(err)
	}
	d.env = append(d.gen3Env(t), "PATH="+os.Getenv("PATH"), "SECRET_CONFIG="+filepath.Join(dir, "appcreds.json"),
		"WTS_WORKERS_FILE="+filepath.Join(dir, "workers.yaml"), "WTS_METRICS_LISTEN=off")
	d.python = append(os.Environ(), "ENCRYPTION_KEY="+encryptionKey, "DATABASE="+d.database, "FENCE="+d.fence.Issuer, "CLIENT="+clientID+":"+clientSecret)
	return d
}

func (d *deployment) write(t *testing.T, path string) {
	t.Helper()
	text, err := json.Marshal(d.creds)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// gen3Env is the environment that gen3-helm gives the pod.
func (d *deployment) gen3Env(t *testing.T) []string {
	t.Helper()
	at, err := url.Parse(d.database)
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		"OIDC_CLIENT_ID=" + clientID, "OIDC_CLIENT_SECRET=" + clientSecret, "AUTH_PLUGINS=k8s", "DBREADY=true",
		"SQLALCHEMY_DATABASE_URI=postgresql" + strings.TrimPrefix(at.String(), "postgres"),
	}
}

// programs of Python's.
func (d *deployment) runPython(t *testing.T, command, input string) []string {
	t.Helper()
	run := exec.CommandContext(t.Context(), "python3", "python_service.py", command)
	run.Env, run.Stdin = d.python, strings.NewReader(input)
	output, err := run.Output()
	if err != nil {
		t.Fatalf("python: %v", err)
	}
	return strings.Fields(string(output))
}

// served asks ours for a person's token, as their worker, and checks whose it is.
func served(t *testing.T, from *instance.Instance, at int, name, query string) {
	t.Helper()
	got := from.Token(t, instance.WorkerAt(workerOf(at)), query)
	if got.Status != http.StatusOK || !strings.Contains(payload(t, got.Token), name) {
		t.Fatalf("%s's worker got %d %s", name, got.Status, got.Message)
	}
}

// Rows that Python's own cryptography sealed are served after the swap, and it opens what we write.
func TestPythonsCryptographyAndOurs(t *testing.T) {
	port := instance.FreePort(t)
	d := newDeployment(t, 5, port)
	migrateAsPython(t, d.database, "3417aec47fe2")
	var tokens, insert []string
	for i, name := range d.people[:4] {
		tokens = append(tokens, d.fence.Grant(name, clientID))
		insert = append(insert, fmt.Sprintf("('%%s', 'jti%d', '%s', '%d', %d, 'default')", i, name, 100+i, time.Now().Add(time.Hour).Unix()))
	}
	tokens = append(tokens, d.other.Grant(d.people[0], clientID))
	insert = append(insert, fmt.Sprintf("('%%s', 'jti9', '%s', '100', %d, 'other')", d.people[0], time.Now().Add(time.Hour).Unix()))
	for i, sealed := range d.runPython(t, "seal", strings.Join(tokens, "\n")+"\n") {
		sql(t, d.database, "INSERT INTO refresh_token (token, jti, username, userid, expires, idp) VALUES "+fmt.Sprintf(insert[i], sealed))
	}
	ours := instance.StartDeployed(t, port, d.env)
	ours.AwaitStatus(t, "/_status", http.StatusOK)
	for i, name := range d.people[:4] {
		served(t, ours, i, name, "")
	}
	served(t, ours, 0, d.people[0], "?idp=other")
	if rows := sql(t, d.database, "SELECT count(*) FROM refresh_token"); rows[0] != "5" {
		t.Errorf("%s rows are left for the way back, want 5", rows[0])
	}
	logIn(t, port, 4, d.people[4])
	rows := sql(t, d.database, "SELECT token FROM refresh_token WHERE username = '"+d.people[4]+"'")
	if len(rows) != 1 {
		t.Fatalf("%d rows of ours", len(rows))
	}
	opened := d.runPython(t, "open", rows[0]+"\n")
	if !strings.Contains(payload(t, opened[0]), `"pur":"refresh"`) {
		t.Errorf("Python opened %q", opened)
	}
}

// logIn is a person in a browser, at ours.
func logIn(t *testing.T, port, _ int, name string) {
	t.Helper()
	page, err := providertest.LogIn(t.Context(), providertest.Browser(), fmt.Sprintf("http://localhost:%d/oauth2/authorization_url", port), name, "p")
	if err != nil || page.Status != http.StatusOK {
		t.Fatalf("logging in: %d, %v\n%s", page.Status, err, page.Body)
	}
}
