package main

import (
	"os"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/test/instance"
)

func TestMain(m *testing.M) { os.Exit(instance.Main(m)) }

func TestTheDemoTellsItsStory(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), &out, []string{"--wts", instance.Binary(t), "--once", "--port", "0", "--dir", t.TempDir()})
	if err != nil || !strings.Contains(out.String(), "Every step went as it should.") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
