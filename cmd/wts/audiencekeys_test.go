package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// An operator makes the secret that an audience's service shares with wts, and replaces it in two steps.
func TestKeysOfAnAudience(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	file := filepath.Join(dir, "wts.yaml")
	if out, err := run(t, "init", dir); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	more := strings.Replace(string(text), "\naudiences:\n", "\naudiences:\n  hub: {profile: pephub}\n  chosen: {profile: pephub, signing_secret_file: chosen-secret}\n", 1)
	if more == string(text) {
		t.Fatal("the configuration that init writes has no audiences")
	}
	if err := os.WriteFile(file, []byte(more), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "migrate", "-c", file); err != nil {
		t.Fatalf("migrate: %v\n%s", err, out)
	}
	first, err := run(t, "keys", "make", "hub", "-c", file)
	if err != nil || !regexp.MustCompile(`(?m)^[A-Za-z0-9_-]{43}$`).MatchString(first) || !strings.Contains(first, `"audit":"make audience key"`) || strings.Contains(first, "does not sign yet") {
		t.Errorf("keys make: %v\n%s", err, first)
	}
	if out, err := run(t, "keys", "activate", "hub", "-c", file); err == nil || !strings.Contains(err.Error(), "make one first") {
		t.Errorf("keys activate without a next one: %v\n%s", err, out)
	}
	if out, err := run(t, "keys", "make", "hub", "-c", file); err != nil || !strings.Contains(out, "wts keys activate hub") {
		t.Errorf("keys make again: %v\n%s", err, out)
	}
	if _, err := run(t, "keys", "make", "hub", "-c", file); err == nil || !strings.Contains(err.Error(), "activate it, or drop it") {
		t.Errorf("keys make once more: %v", err)
	}
	if out, err := run(t, "keys", "drop", "hub", "-c", file); err != nil || !strings.Contains(out, "is gone") {
		t.Errorf("keys drop: %v\n%s", err, out)
	}
	if out, err := run(t, "keys", "make", "hub", "-c", file); err != nil {
		t.Errorf("keys make after the drop: %v\n%s", err, out)
	}
	if out, err := run(t, "keys", "activate", "hub", "-c", file); err != nil || !strings.Contains(out, "from now on") {
		t.Errorf("keys activate: %v\n%s", err, out)
	}
	if out, err := run(t, "keys", "list", "-c", file); err != nil || strings.Count(out, "HS256") != 2 || !strings.Contains(out, "retired") {
		t.Errorf("keys list: %v\n%s", err, out)
	}
	for audience, want := range map[string]string{"my-service": "no key of its own", "chosen": "no key of its own", "none": "not registered"} {
		if _, err := run(t, "keys", "make", audience, "-c", file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("keys make %s: %v", audience, err)
		}
	}
}
