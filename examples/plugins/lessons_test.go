package main

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A token that has ended uploads nothing: one that was revoked, from the same moment on, and one that has expired; of
// both forms, and the short ones that it was traded for.
func TestLesson31AnEndedTokenUploadsNothing(t *testing.T) {
	h := startHouse(t)
	alice := h.signedIn(t, "alice")
	opaque := h.make(t, alice, tokensOfOne, `{"name": "opaque", "scopes": ["upload"], "expires_in": null}`)
	signed := h.make(t, alice, tokensOfOne, `{"name": "signed", "format": "jwt", "scopes": ["upload"]}`)
	for number, value := range map[string]string{"1.0": opaque.Token, "1.1": signed.Token} {
		if got := h.post(t, addToOne, value, plugin(t, "one", number)); got.status != http.StatusCreated {
			t.Fatalf("before it ends: got %d %s; want 201", got.status, got.text)
		}
	}
	for number, made := range map[string]token{"2.0": opaque, "2.1": signed} {
		if got := h.at(t, alice, http.MethodDelete, tokensOfOne+"/"+made.ID, ""); got.status != http.StatusOK {
			t.Fatalf("revoking: got %d %s", got.status, got.text)
		}
		h.isRefused(t, h.post(t, addToOne, made.Token, plugin(t, "one", number)), number, "")
		h.isRefused(t, h.post(t, "/plugins/api/one/version/1.0/update/", made.Token, plugin(t, "one", number)), number, "")
	}
	t.Run("expired", func(t *testing.T) {
		late := h.make(t, alice, tokensOfOne, `{"name": "late", "scopes": ["upload"]}`)
		h.sql(t, "UPDATE api_tokens SET expires_at = ? WHERE id = ?", time.Now().Add(-time.Second).UnixMilli(), late.ID)
		h.isRefused(t, h.post(t, addToOne, late.Token, plugin(t, "one", "3.0")), "3.0", "")
		short := h.trade(t, h.make(t, alice, tokensOfOne, `{"name": "traded", "scopes": ["upload"]}`).Token, "scope", "upload", "expires", "1")
		time.Sleep(1100 * time.Millisecond)
		h.isRefused(t, h.post(t, addToOne, short, plugin(t, "one", "3.1")), "3.1", "expired")
	})
}

// A token uploads to its own plugin and to no other one, whatever else it may.
func TestLesson32AnotherResourcesTokenUploadsNothing(t *testing.T) {
	h := startHouse(t)
	alice := h.signedIn(t, "alice")
	opaque := h.make(t, alice, tokensOfOther, `{"name": "n", "scopes": ["upload", "read"]}`)
	signed := h.make(t, alice, tokensOfOther, `{"name": "n", "format": "jwt", "scopes": ["upload", "read"]}`)
	reader := h.make(t, alice, tokensOfOne, `{"name": "n", "scopes": ["read"]}`)
	personal := h.make(t, alice, "/api/v1/tokens", `{"audience": "plugins", "name": "n", "scopes": ["upload", "read"]}`)
	elsewhere := h.make(t, alice, "/api/v1/tokens", `{"audience": "elsewhere", "name": "n", "scopes": ["upload"]}`)
	for name, row := range map[string]struct{ value, says string }{
		"another plugin's, opaque":              {opaque.Token, "it is for the plugin other"},
		"another plugin's, a JWT":               {signed.Token, "it is for the plugin other"},
		"another plugin's, traded":              {h.trade(t, opaque.Token, "scope", "upload"), "it is for the plugin other"},
		"its own, without the scope":            {reader.Token, "lacks the scope upload"},
		"a maintainer's own":                    {personal.Token, "for no plugin"},
		"a maintainer's own, traded":            {h.trade(t, personal.Token, "scope", "upload"), "for no plugin"},
		"the staff's":                           {h.staffToken(t, "upload+approve"), "for no plugin"},
		"another audience's":                    {elsewhere.Token, ""},
		"another audience's, traded":            {h.trade(t, elsewhere.Token, "scope", "upload"), "for another audience"},
		"a forged one":                          {h.ci.Mint("plugins", "resource:one", map[string]any{"resource": "one", "scope": "upload"}), ""},
		"one with a letter that is another one": {opaque.Token[:20] + "_" + opaque.Token[21:], ""},
		"none":                                  {"", "send Authorization: Bearer"},
	} {
		t.Run(name, func(t *testing.T) {
			h.isRefused(t, h.post(t, addToOne, row.value, plugin(t, "one", "1.0")), "1.0", row.says)
		})
	}
	for number, value := range map[string]string{"1.0": opaque.Token, "1.1": signed.Token} {
		if got := h.post(t, addToOther, value, plugin(t, "other", number)); got.status != http.StatusCreated {
			t.Errorf("to its own plugin: got %d %s; want 201", got.status, got.text)
		}
	}
}

// To revoke a token takes away nothing that it has uploaded, and the versions go on to say by which token they came.
func TestLesson33RevocationKeepsWhatWasUploaded(t *testing.T) {
	h := startHouse(t)
	alice := h.signedIn(t, "alice")
	made := h.make(t, alice, tokensOfOne, `{"name": "ci", "description": "of the releases", "scopes": ["upload"]}`)
	archive := plugin(t, "one", "1.0")
	if got := h.post(t, addToOne, made.Token, archive); got.status != http.StatusCreated {
		t.Fatalf("got %d %s; want 201", got.status, got.text)
	}
	if got := h.at(t, alice, http.MethodDelete, tokensOfOne+"/"+made.ID, ""); got.status != http.StatusOK {
		t.Fatalf("revoking: got %d %s", got.status, got.text)
	}
	h.isRefused(t, h.post(t, addToOne, made.Token, plugin(t, "one", "2.0")), "2.0", "")
	h.startSite(t) // as after a restart
	shown := h.get(t, "/plugins/one/latest/json", "")
	if shown.member("version") != "1.0" || shown.member("uploaded_by") != "token of the releases" {
		t.Errorf("got %d %s; want the version 1.0, by the token of the releases", shown.status, shown.text)
	}
	kept, err := os.ReadFile(filepath.Join(h.dir, "one.1.zip"))
	if err != nil || !slices.Equal(kept, archive) {
		t.Errorf("got %d bytes, %v; want the archive as it was uploaded", len(kept), err)
	}
}

// A version that the staff has approved stays as it is; what is not public takes a good token; and a GET uploads nothing.
func TestLesson35ApprovedVersionsStay(t *testing.T) {
	h := startHouse(t)
	alice := h.signedIn(t, "alice")
	made := h.make(t, alice, tokensOfOne, `{"name": "ci", "scopes": ["upload"]}`)
	reader := h.make(t, alice, tokensOfOne, `{"name": "sees", "format": "jwt", "scopes": ["read"]}`)
	other := h.make(t, alice, tokensOfOther, `{"name": "sees", "scopes": ["upload", "read"]}`)
	archive := plugin(t, "one", "1.0")
	if got := h.post(t, addToOne, made.Token, archive); got.status != http.StatusCreated || got.member("approved") != false {
		t.Fatalf("got %d %s; want 201, and not approved", got.status, got.text)
	}
	const update, approve = "/plugins/api/one/version/1.0/update/", "/plugins/api/one/version/1.0/approve/"
	for name, value := range map[string]string{"its own token": made.Token, "a person who may not": h.staffToken(t, "upload"), "no token": ""} {
		if got := h.post(t, approve, value, nil); got.status != http.StatusForbidden {
			t.Errorf("approved by %s: got %d %s; want 403", name, got.status, got.text)
		}
	}
	if got := h.post(t, approve, h.staffToken(t, "approve"), nil); got.status != http.StatusOK || got.member("approved") != true {
		t.Fatalf("got %d %s; want it approved", got.status, got.text)
	}
	const detail = "You cannot edit an approved version, please create a new version instead."
	for _, number := range []string{"1.0", "1.1"} {
		if got := h.post(t, update, made.Token, plugin(t, "one", number)); got.status != http.StatusUnauthorized || got.member("detail") != detail {
			t.Errorf("an update to %s: got %d %s; want 401 with the detail", number, got.status, got.text)
		}
	}
	if kept, err := os.ReadFile(filepath.Join(h.dir, "one.1.zip")); err != nil || !slices.Equal(kept, archive) {
		t.Errorf("got %d bytes, %v; want the archive that was approved", len(kept), err)
	}
	if got := h.numbers(t, "one"); !slices.Equal(got, []string{"1.0"}) {
		t.Errorf("got the versions %v, want 1.0 alone", got)
	}
	t.Run("a GET", func(t *testing.T) {
		for _, path := range []string{addToOne, update, approve} {
			if got := h.get(t, path, made.Token); got.status != http.StatusMethodNotAllowed {
				t.Errorf("%s: got %d %s; want 405", path, got.status, got.text)
			}
		}
	})
	t.Run("who reads more", func(t *testing.T) {
		for _, path := range []string{"/plugins/one/json", "/plugins/one/latest/json", "/plugins/one/version/1.0/json"} {
			public := h.get(t, path, "")
			if public.status != http.StatusOK {
				t.Fatalf("%s: got %d %s; want 200", path, public.status, public.text)
			}
			for name, value := range map[string]string{"a bad one": "wtsr_" + made.Token[6:] + "x", "a forged one": h.ci.Mint("plugins", "x", nil), "another plugin's": other.Token} {
				if got := h.get(t, path, value); got != public {
					t.Errorf("%s with %s: got %d %s; want what the public reads", path, name, got.status, got.text)
				}
			}
			for name, value := range map[string]string{"an uploader": made.Token, "a reader": reader.Token} {
				if got := h.get(t, path, value); got.status != http.StatusOK || got == public || len(got.text) <= len(public.text) {
					t.Errorf("%s as %s: got %d %s; want the validation's status too", path, name, got.status, got.text)
				}
			}
		}
	})
}
