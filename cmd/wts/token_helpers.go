package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/pkg/unverified"
)

// asked reads what git wants a credential for (git-credential(1)) and tells whether the token may go there:
// to a host that was named, over https. git asks every helper about every server that wants a password, also
// about one whose address was a stranger's. Where the answer is no, nothing is printed, and git goes on to
// its other helpers.
func (o tokenOptions) asked(from io.Reader) (bool, error) {
	if len(o.hosts) == 0 {
		return false, usagef("--host is missing: name the git servers that may have the token, like --host git.example.org")
	}
	wanted := map[string]string{}
	for lines := bufio.NewScanner(io.LimitReader(from, 64<<10)); lines.Scan() && lines.Text() != ""; {
		name, value, _ := strings.Cut(lines.Text(), "=")
		wanted[name] = value
	}
	named := slices.ContainsFunc(o.hosts, func(host string) bool { return strings.EqualFold(host, wanted["host"]) })
	return named && wanted["protocol"] == "https", nil
}

// gitCredential renders a token for git, with its end, so that git does not keep it longer.
func gitCredential(token api.Token) string {
	text := "username=oauth2\npassword=" + token.Value + "\n"
	if ends := endOf(token); !ends.IsZero() {
		text += fmt.Sprintf("password_expiry_utc=%d\n", ends.Unix())
	}
	return text
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
