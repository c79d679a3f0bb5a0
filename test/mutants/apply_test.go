package mutants

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// Every patch applies to the code as it is: a change of the code that moves what a patch changes moves the patch too.
// `make mutants` tells whether the bugs are found.
func TestPatchesApply(t *testing.T) {
	patches, err := filepath.Glob("*.patch")
	if err != nil || len(patches) < 60 {
		t.Fatalf("%d patches, %v", len(patches), err)
	}
	for _, patch := range patches {
		t.Run(patch, func(t *testing.T) {
			absolute, err := filepath.Abs(patch)
			if err != nil {
				t.Fatal(err)
			}
			command := exec.CommandContext(t.Context(), "git", "apply", "--check", absolute)
			command.Dir = filepath.Join("..", "..")
			if output, err := command.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, output)
			}
		})
	}
}
