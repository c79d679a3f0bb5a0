package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/workspace-token-service/wts/pkg/provider/providertest"
	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/instance"
	"github.com/workspace-token-service/wts/test/paired"
)

// serveBarePage is a gin handler that reads a user's rows in two statements and answers with a page that was rendered
// before: address, database, user and the file of the page stand in what it is given, a line each.
func serveBarePage(given string) {
	parts := strings.SplitN(given, "\n", 4)
	body, err := os.ReadFile(parts[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	config, err := pgxpool.ParseConfig(parts[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	prepared, err := pgxpool.NewWithConfig(context.Background(), config.Copy())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // as wts asks, which a pooler may stand before
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	reading := func(pool *pgxpool.Pool) gin.HandlerFunc {
		return func(c *gin.Context) {
			for _, query := range []string{
				"SELECT * FROM connections WHERE user_id = $1", "SELECT * FROM audit_entries WHERE user_id = $1 AND provider = 'main' AND action = 'handout' AND reason = '' ORDER BY at DESC LIMIT 1",
			} {
				rows, err := pool.Query(c.Request.Context(), query, parts[2])
				if err != nil {
					c.Status(http.StatusInternalServerError)
					return
				}
				for rows.Next() {
					if _, err := rows.Values(); err != nil {
						c.Status(http.StatusInternalServerError)
						return
					}
				}
			}
			c.Data(http.StatusOK, "text/html; charset=utf-8", body)
		}
	}
	engine.GET("/page", reading(pool))
	engine.GET("/prepared", reading(prepared))
	engine.GET("/memory", func(c *gin.Context) { c.Data(http.StatusOK, "text/html; charset=utf-8", body) })
	fmt.Fprintln(os.Stderr, http.ListenAndServe(parts[0], engine))
	os.Exit(1)
}

// The pages of a person who is signed in, at eight connections, beside a bare gin handler that reads as much of the
// same database and answers with the same page from memory; and beside one that reads nothing.
func BenchmarkPages(b *testing.B) {
	r := deployment.New(b, deployment.Setup{
		People: 1, Replicas: 1, Life: time.Hour, Rate: 100, Log: "warn", More: "audiences: {service: {scopes: [read], api_tokens: {personal: true}}}",
	})
	cookie, user, base := signIn(b, r)
	for _, path := range []string{"/", "/tokens"} {
		body := fetched(b, base+path, cookie)
		file := b.TempDir() + "/page.html"
		if err := os.WriteFile(file, body, 0o600); err != nil {
			b.Fatal(err)
		}
		address := net.JoinHostPort("127.0.0.1", fmt.Sprint(instance.FreePort(b)))
		command := child(b, envBarePage+"="+strings.Join([]string{address, r.Database.URL, user, file}, "\n"))
		if err := command.Start(); err != nil {
			b.Fatal(err)
		}
		awaitListening(b, address)
		bare := &target{address: address, pid: command.Process.Pid, load: newLoad(b, address, "/page", 0, 8)}
		prepared := &target{address: address, pid: command.Process.Pid, load: newLoad(b, address, "/prepared", 0, 8)}
		memory := &target{address: address, pid: command.Process.Pid, load: newLoad(b, address, "/memory", 0, 8)}
		page := &target{address: r.WTS[0].Address, pid: r.WTS[0].PID()}
		page.load = newLoad(b, page.address, "", 0, 8)
		page.load.request = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/html\r\nCookie: %s\r\n\r\n", path, page.address, cookie)
		b.Run(path, func(b *testing.B) {
			for b.Loop() {
				found := rounds(b, []*target{bare, prepared, memory, page}, func(round []window) []float64 {
					return []float64{round[3].rate / round[0].rate, round[3].rate / round[1].rate, round[3].rate / round[2].rate}
				})
				paired.Report(b, found[0], "x-rate-of-bare-gin-that-reads-as-much", "≥0.3")
				paired.Report(b, found[1], "x-rate-of-bare-gin-whose-statements-are-prepared", "-")
				paired.Report(b, found[2], "x-rate-of-bare-gin-that-reads-nothing", "-")
			}
		})
	}
}

// signIn has a person sign in and make an API token, and returns their cookie, their id and where browsers reach the
// service.
func signIn(b *testing.B, r *deployment.Deployment) (cookie, user, base string) {
	b.Helper()
	_, port, _ := strings.Cut(r.WTS[0].Address, ":")
	base = "http://localhost:" + port
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	if _, err := providertest.LogIn(b.Context(), browser, base+"/oauth2/authorization_url", r.Names[0], "p"); err != nil {
		b.Fatal(err)
	}
	form := url.Values{"name": {"laptop"}, "audience": {"service"}, "scope": {"service read"}}
	response, err := browser.PostForm(base+"/tokens", form)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		b.Fatalf("making a token: %d", response.StatusCode)
	}
	address, _ := url.Parse(base)
	for _, one := range jar.Cookies(address) {
		if one.Name == "wts" {
			cookie = one.Name + "=" + one.Value
		}
	}
	pool, err := pgxpool.New(b.Context(), r.Database.URL)
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	if err := pool.QueryRow(b.Context(), "SELECT id FROM users WHERE username = $1", r.Names[0]).Scan(&user); err != nil || cookie == "" {
		b.Fatalf("no user, or no cookie: %v", err)
	}
	return cookie, user, base
}

// fetched loads a page once.
func fetched(b *testing.B, address, cookie string) []byte {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, address, nil)
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Accept", "text/html")
	request.Header.Set("Cookie", cookie)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(bufio.NewReader(response.Body))
	if err != nil || !strings.Contains(string(body), "Log out") {
		b.Fatalf("the page: %d, %v", response.StatusCode, err)
	}
	return body
}
