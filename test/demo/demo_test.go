package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/workspace-token-service/wts/test/instance"
)

func TestMain(m *testing.M) { os.Exit(instance.Main(m)) }

func TestTheDemoTellsItsStory(t *testing.T) {
	var out strings.Builder
	examples := t.TempDir()
	if said, err := exec.Command("go", "build", "-tags", "nomsgpack", "-o", examples, "../../examples/...").CombinedOutput(); err != nil {
		t.Fatalf("building the examples: %v\n%s", err, said)
	}
	err := run(t.Context(), &out, []string{"--wts", instance.Binary(t), "--once", "--port", "0", "--examples", examples, "--dir", t.TempDir()})
	if err != nil || !strings.Contains(out.String(), "Every step went as it should.") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
