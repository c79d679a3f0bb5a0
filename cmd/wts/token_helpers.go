package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/unverified"
)

// A program asks its helpers about every server that wants a password, also about one whose address was a stranger's. So
// a helper of ours answers for the servers that were named, over https, and for no other; it keeps nothing, so that there
// is nothing to store or to erase. docker alone asks by a name, and not by an address: what is not encrypted there is what
// its own configuration names (insecure-registries).

// request is what a program asks a helper for.
type request struct {
	host string // with its port, where that was said
	said string // the server, as the program called it
	// quiet: a program that gets nothing sees no failure; none is what it is told else.
	quiet bool
	none  string
}

// errNoCredential: the server is none that may have the token. Some programs go on by it to other helpers, and to an
// anonymous request.
var errNoCredential = errors.New("no credentials for this server")

// reader reads a request from the words behind the command and from the standard input. Where ok is false the program
// asked for something else, which is answered by reply alone.
type reader func(args []string, from io.Reader) (wanted request, ok bool, reply string, err error)

const maxRequest = 64 << 10 // bytes

// readGit reads what git asks for (git-credential(1)). Where the answer is no, nothing is printed, and git goes on to its
// other helpers.
func readGit(args []string, from io.Reader) (wanted request, ok bool, reply string, err error) {
	if len(args) != 1 {
		return wanted, false, "", usagef("want a word, as git adds it: get, store or erase")
	}
	if args[0] != "get" {
		return wanted, false, "", nil
	}
	said := map[string]string{}
	for lines := bufio.NewScanner(io.LimitReader(from, maxRequest)); lines.Scan() && lines.Text() != ""; {
		name, value, _ := strings.Cut(lines.Text(), "=")
		said[name] = value
	}
	return request{host: said["host"], quiet: true}, said["protocol"] == "https", "", nil
}

// readDocker reads what docker asks for: the server's address on the standard input.
func readDocker(args []string, from io.Reader) (wanted request, ok bool, reply string, err error) {
	if len(args) != 1 {
		return wanted, false, "", usagef("want a word, as docker adds it: get, store, erase or list")
	}
	text, err := io.ReadAll(io.LimitReader(from, maxRequest))
	switch {
	case err != nil:
		return wanted, false, "", fmt.Errorf("reading what is asked for: %w", err)
	case args[0] == "list":
		return wanted, false, "{}\n", nil
	}
	wanted = requestOf(strings.TrimSpace(string(text)))
	wanted.none = "credentials not found in native keychain\n" // by which docker goes on without
	return wanted, args[0] == "get", "", nil
}

// readKeyring reads what pip asks the program keyring for: get, the service, and the name of the user. pip asks by the
// address and then by the host's name alone, also where the address is not encrypted: a name alone gets nothing.
func readKeyring(args []string, _ io.Reader) (wanted request, ok bool, reply string, err error) {
	if len(args) != 3 || args[0] != "get" {
		return wanted, false, "", errNoCredential
	}
	return requestOf(args[1]), strings.HasPrefix(args[1], "https://"), "", nil
}

// requestOf reads the address of a server, or its name alone. One that is not encrypted has no host.
func requestOf(text string) request {
	wanted := request{said: text}
	address := text
	if !strings.Contains(text, "://") {
		address = "https://" + text
	}
	if parsed, err := url.Parse(address); err == nil && parsed.Scheme == "https" {
		wanted.host = parsed.Host
	}
	return wanted
}

// helps reads what a program asks for, and tells whether it may have the token; else reply is all that it gets.
func (o *tokenOptions) helps(read reader, args []string, from io.Reader) (wanted request, mayHave bool, reply string, err error) {
	if len(o.hosts) == 0 && len(args) > 0 && args[0] == "get" {
		return wanted, false, "", usagef("--host is missing: name the servers that may have the token, like --host git.example.org")
	}
	wanted, ok, reply, err := read(args, from)
	switch {
	case err == nil && !ok && o.format == "keyring":
		return wanted, false, "", errNoCredential
	case err != nil || !ok:
		return wanted, false, reply, err
	}
	named := slices.ContainsFunc(o.hosts, func(host string) bool { return wanted.host != "" && strings.EqualFold(host, wanted.host) })
	if !named && !wanted.quiet {
		return wanted, false, wanted.none, errNoCredential
	}
	return wanted, named, "", nil
}

// endOf is when a token expires: as wts said, else as a JWT states it; zero where neither is known.
func endOf(token api.Token) time.Time {
	if !token.ExpiresAt.IsZero() {
		return token.ExpiresAt
	}
	return unverified.Expiry(token.Value)
}

// oneLine refuses a token that would be several lines of what a program reads line by line.
func oneLine(token api.Token) error {
	if strings.ContainsFunc(token.Value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("the token has a line break or another control character; it is not printed")
	}
	return nil
}
