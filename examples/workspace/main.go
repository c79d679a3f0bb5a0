// Command workspace stands for a notebook or a batch job: it has a token of wts for its person, calls a resource service
// with it, and holds no credential besides. It takes the token from the file that the sidecar `wts token --watch` keeps
// fresh, and without one asks wts itself. It is an example to read and to copy from.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/workspace-token-service/wts/api"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "workspace:", err)
		os.Exit(1)
	}
}

// run calls the resource service once, or again and again until the context ends.
func run(ctx context.Context, out io.Writer, args []string) error {
	book, every, err := newNotebook(args)
	if err != nil {
		return err
	}
	for {
		said, err := book.read(ctx)
		switch {
		case every == 0 && err != nil:
			return err
		case err != nil:
			said = err.Error()
		}
		fmt.Fprintln(out, said)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
		if every == 0 {
			return nil
		}
	}
}

// notebook is what a person's program needs: where its token is, and what to call with it.
type notebook struct {
	url       string // of the resource service
	tokenFile string // that a sidecar keeps fresh; empty without one
	wts       *api.Client
	want      api.Request
}

// patient is the client for the resource service.
var patient = http.Client{Timeout: 30 * time.Second}

// newNotebook reads the flags, whose defaults are the variables that a pod's manifest sets.
func newNotebook(args []string) (book *notebook, every time.Duration, err error) {
	book = &notebook{wts: &api.Client{}}
	flags := flag.NewFlagSet("workspace", flag.ContinueOnError)
	flags.StringVar(&book.tokenFile, "token-file", os.Getenv("BEARER_TOKEN_FILE"), "the file that a sidecar keeps fresh (or BEARER_TOKEN_FILE)")
	flags.StringVar(&book.wts.URL, "wts", os.Getenv("WTS_URL"), "without a sidecar: the URL of wts (or WTS_URL)")
	proof := flags.String("proof-file", os.Getenv("WTS_PROOF_FILE"), "without a sidecar: a projected service-account token, or an API token (or WTS_PROOF_FILE); without it the address proves who calls")
	flags.StringVar(&book.want.Audience, "audience", "", "without a sidecar: for whom the token is; else it is what wts has as default")
	scopes := flags.String("scope", "", "without a sidecar: scopes of the token, with a blank between")
	flags.DurationVar(&book.want.Expires, "expires", 10*time.Minute, "without a sidecar: the life that is wanted")
	flags.DurationVar(&every, "every", 0, "call again after this time, and go on")
	if err := flags.Parse(args); err != nil {
		return nil, 0, err
	}
	if *proof != "" {
		book.wts.Proof = api.ProofFile(*proof)
	}
	book.url, book.want.Scopes = flags.Arg(0), strings.Fields(*scopes)
	switch {
	case flags.NArg() != 1:
		return nil, 0, errors.New("name the URL of the resource service, behind the flags")
	case book.tokenFile == "" && book.wts.URL == "":
		return nil, 0, errors.New("neither --token-file (or BEARER_TOKEN_FILE) nor --wts (or WTS_URL) says where a token is")
	}
	return book, every, nil
}

// token is a token that is good now. A file is read each time: the sidecar replaces it whole, when half of the token's
// life is over.
func (n *notebook) token(ctx context.Context) (string, error) {
	if n.tokenFile != "" {
		text, err := os.ReadFile(n.tokenFile) //nolint:gosec // the path is that of the person who starts the program
		if err != nil {
			return "", fmt.Errorf("the sidecar has no token yet; has its person logged in at wts? %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	token, err := n.wts.Token(ctx, n.want) // GET /token?expires=600&audience=...
	var refused *api.Error
	if errors.As(err, &refused) && !refused.Temporary() {
		return "", fmt.Errorf("%w; log in at wts in a browser, and run this again", err)
	}
	return token.Value, err
}

// read calls the resource service, and returns its status and answer.
func (n *notebook) read(ctx context.Context) (string, error) {
	token, err := n.token(ctx)
	if err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url, nil) //nolint:gosec // the URL is that of the person who starts the program
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := patient.Do(request) //nolint:gosec // the same
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the resource service answered %d: %s", response.StatusCode, strings.TrimSpace(string(text)))
	}
	return strings.TrimSpace(string(text)), nil
}
