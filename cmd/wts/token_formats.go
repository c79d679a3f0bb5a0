package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/api"
)

// format is a form in which a token is printed: for a reader of a file, a shell, or a program that asks helpers for
// credentials.
type format struct {
	render func(token api.Token, wanted request) string
	// read reads what a program asks a helper for; nil where no program asks.
	read reader
}

// formats are those of --format.
var formats = map[string]format{
	"token": {render: func(token api.Token, _ request) string { return token.Value + "\n" }},
	"env": {render: func(token api.Token, _ request) string {
		return "export BEARER_TOKEN='" + strings.ReplaceAll(token.Value, "'", `'\''`) + "'\n"
	}},
	"curl": {render: func(token api.Token, _ request) string { return "oauth2-bearer = " + strconv.Quote(token.Value) + "\n" }},
	// ProteinPaint wants base64 of the JWT.
	"proteinpaint-bearer": {render: func(token api.Token, _ request) string {
		return base64.StdEncoding.EncodeToString([]byte(token.Value)) + "\n"
	}},
	"exec-credential":   {render: execCredential},
	"git-credential":    {render: gitCredential, read: readGit},
	"docker-credential": {render: dockerCredential, read: readDocker},
	"keyring":           {render: func(token api.Token, _ request) string { return token.Value + "\n" }, read: readKeyring},
}

const formatToken = "token"

// formatNames are in a stable order.
var formatNames = slices.Sorted(maps.Keys(formats))

// execCredential is for kubectl (client.authentication.k8s.io/v1).
func execCredential(token api.Token, _ request) string {
	status := map[string]string{"token": token.Value}
	if ends := endOf(token); !ends.IsZero() {
		status["expirationTimestamp"] = ends.UTC().Format(time.RFC3339)
	}
	text, _ := json.Marshal(map[string]any{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}) // strings
	return string(text) + "\n"
}

// gitCredential is for git (git-credential(1)), with the token's end, so that git does not keep it longer.
func gitCredential(token api.Token, _ request) string {
	text := "username=oauth2\npassword=" + token.Value + "\n"
	if ends := endOf(token); !ends.IsZero() {
		text += fmt.Sprintf("password_expiry_utc=%d\n", ends.Unix())
	}
	return text
}

// dockerCredential is for docker and podman (docker-credential-helpers).
func dockerCredential(token api.Token, wanted request) string {
	text, _ := json.Marshal(map[string]string{"ServerURL": wanted.said, "Username": "oauth2", "Secret": token.Value}) // strings
	return string(text) + "\n"
}
