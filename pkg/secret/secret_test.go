package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/pkg/secret"
)

func TestASecretIsNeverPrinted(t *testing.T) {
	const canary = "canary-token"
	holder := struct{ Token secret.Text }{canary}
	printed := map[string]string{
		"%v":  fmt.Sprintf("%v", holder),
		"%+v": fmt.Sprintf("%+v", holder),
		"%#v": fmt.Sprintf("%#v", holder),
		"%s":  fmt.Sprintf("a token %s", holder.Token),
		"%q":  fmt.Sprintf("%q", holder.Token),
	}
	marshalled, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	printed["json"] = string(marshalled)
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"slog json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var buffer bytes.Buffer
		slog.New(handler(&buffer)).Info("x", slog.Any("token", holder.Token))
		printed[name] = buffer.String()
	}
	for name, text := range printed {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(text, canary) || !strings.Contains(text, "redacted") {
				t.Errorf("printed %q, want [redacted]", text)
			}
		})
	}
	if string(holder.Token) != canary {
		t.Error("the value cannot be used")
	}
}
