package issuer_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// ofParts are the header and the claims of a token.
func ofParts(t *testing.T, token string) (header, claims map[string]any) {
	t.Helper()
	for at, into := range []*map[string]any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[at])
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

// A name in letters that only look like another's, once they are folded, stays another name: PEPhub gives a namespace to
// who is called like it.
func TestPEPhubNamesAreNotFoldedIntoAnothers(t *testing.T) {
	i := startedWith(t, issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"hub": {Profile: issuer.ProfilePEPhub, Algorithm: issuer.ES256}}})
	const kelvin = "\u212a" // which Unicode folds into k
	token, err := i.Mint(issuer.Request{Audience: "hub", Person: issuer.Person{ID: "u2", Username: kelvin + "Ate", Groups: []string{"Pep" + kelvin + "it"}}})
	if err != nil {
		t.Fatal(err)
	}
	_, claims := ofParts(t, token.Value)
	if claims["login"] != kelvin+"ate" || cmp.Diff([]any{"pep" + kelvin + "it"}, claims["orgs"]) != "" {
		t.Errorf("the login is %q in %q", claims["login"], claims["orgs"])
	}
}

// A key that was replaced counts for as long as its tokens live, also where no other change drops it: who found an old
// secret signs nothing with it that is believed.
func TestARetiredKeyCountsForItsTokensAlone(t *testing.T) {
	config := issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"hub": {Profile: issuer.ProfilePEPhub}, "paint": proteinPaint(issuer.ES256)}}
	kept := &memory{}
	i := issuer.New(config, kept, time.Now)
	if err := i.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret, err := i.MakeAudienceKey(t.Context(), "hub")
	if err != nil {
		t.Fatal(err)
	}
	first, err := i.PublicKeys("paint")
	if err != nil {
		t.Fatal(err)
	}
	for _, audience := range []string{"hub", "paint"} {
		if _, err := i.MakeAudienceKey(t.Context(), audience); err != nil {
			t.Fatal(err)
		}
		if _, err := i.ActivateAudienceKey(t.Context(), audience, ""); err != nil {
			t.Fatal(err)
		}
	}
	old := bySecret(string(secret.Secret), `{"iss":"`+url+`","audience":"hub","sub":"u1","exp":`+strconv.FormatInt(time.Now().AddDate(1, 0, 0).Unix(), 10)+`}`)
	for since, counts := range map[time.Duration]bool{time.Minute: true, 60 * 24 * time.Hour: false} {
		later := issuer.New(config, kept, func() time.Time { return time.Now().Add(since) })
		if err := later.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := later.Read("hub", old); (err == nil) != counts {
			t.Errorf("%s after it was replaced, a token by the old secret: %v", since, err)
		}
		if keys, err := later.PublicKeys("paint"); err != nil || slices.Contains(keys, first[0]) != counts {
			t.Errorf("%s after it was replaced, the old key is among the public ones: %t, %v", since, !counts, err)
		}
	}
}

// signedBy tells whether a token's HS256 signature is by a secret, computed as its readers do.
func signedBy(token, secret string) bool {
	at := strings.LastIndexByte(token, '.')
	code := hmac.New(sha256.New, []byte(secret))
	code.Write([]byte(token[:at]))
	return base64.RawURLEncoding.EncodeToString(code.Sum(nil)) == token[at+1:]
}

var curator = issuer.Person{ID: "u1", Username: "Alice", Groups: []string{"Databio", "pepkit"}, Subject: "583231", Name: "Alice L.", Email: "a@example.org"}

func TestPEPhubProfile(t *testing.T) {
	const secret = "a-secret-that-PEPhub-has-in-its-configuration"
	i := startedWith(t, issuer.Config{URL: url, Audiences: map[string]issuer.Audience{
		"stock": {Profile: issuer.ProfilePEPhub, SigningSecret: secret}, "modern": {Profile: issuer.ProfilePEPhub, Algorithm: issuer.ES256},
	}})
	for audience, row := range map[string]struct{ algorithm, kind string }{"stock": {"HS256", "JWT"}, "modern": {"ES256", "pephub+jwt"}} {
		t.Run(audience, func(t *testing.T) {
			token, err := i.Mint(issuer.Request{Audience: audience, Person: curator, Lifetime: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			header, claims := ofParts(t, token.Value)
			if header["alg"] != row.algorithm || header["typ"] != row.kind {
				t.Errorf("the header is %v, want %v", header, row)
			}
			if row.algorithm == "HS256" && !signedBy(token.Value, secret) {
				t.Error("the signature is not by the secret")
			}
			exp, iat := claims["exp"].(float64), claims["iat"].(float64)
			delete(claims, "exp")
			delete(claims, "iat")
			want := map[string]any{
				"login": "alice", "id": 583231.0, "name": "Alice L.", "orgs": []any{"databio", "pepkit"}, "jti": token.ID, "iss": url, "sub": "u1", "audience": audience,
			}
			if diff := cmp.Diff(want, claims); diff != "" || exp-iat != 60 {
				t.Errorf("exp-iat is %v, and the claims (-want +got):\n%s", exp-iat, diff)
			}
			said, err := i.Read(audience, token.Value)
			if err != nil || said.ID != token.ID || said.Subject != "u1" {
				t.Errorf("read back: %+v, %v", said, err)
			}
			for other := range map[string]bool{"stock": true, "modern": true, "none": true} {
				if _, err := i.Read(other, token.Value); other != audience && !errors.Is(err, issuer.ErrNotOurs) {
					t.Errorf("read for %s: %v, want ErrNotOurs", other, err)
				}
			}
			if _, err := i.Read(audience, token.Value[:len(token.Value)-2]+"AA"); !errors.Is(err, issuer.ErrNotOurs) {
				t.Errorf("with another signature: %v, want ErrNotOurs", err)
			}
		})
	}
	nobody, err := i.Mint(issuer.Request{Audience: "stock", Person: issuer.Person{ID: "u2", Username: "bob", Subject: "x-1"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, claims := ofParts(t, nobody.Value); claims["orgs"] == nil || claims["id"] != "x-1" || claims["name"] != "bob" {
		t.Errorf("of a person of whom little is known it says %v", claims)
	}
}

// A key of an audience's own is replaced in two steps, and what it signed is read until it has expired.
func TestAudienceKeys(t *testing.T) {
	i := startedWith(t, issuer.Config{URL: url, Audiences: map[string]issuer.Audience{
		"own": {Profile: issuer.ProfilePEPhub}, "other": {Profile: issuer.ProfilePEPhub}, "plain": {}, "configured": {Profile: issuer.ProfilePEPhub, SigningSecret: "a-secret-of-the-operators-own-choice"},
	}})
	mint := func(audience string) (issuer.Token, error) {
		return i.Mint(issuer.Request{Audience: audience, Person: curator})
	}
	if _, err := mint("own"); !errors.Is(err, issuer.ErrNoSecret) {
		t.Fatalf("before there is a secret: %v, want ErrNoSecret", err)
	}
	for audience, want := range map[string]error{"plain": issuer.ErrNotOwn, "configured": issuer.ErrNotOwn, "none": issuer.ErrAudience} {
		if _, err := i.MakeAudienceKey(t.Context(), audience); !errors.Is(err, want) {
			t.Errorf("a key for %s: %v, want %v", audience, err, want)
		}
	}
	first, err := i.MakeAudienceKey(t.Context(), "own")
	if err != nil || len(first.Secret) < 43 || first.State() != issuer.Active {
		t.Fatalf("the first: %+v, %v", first, err)
	}
	old, err := mint("own")
	if err != nil || !signedBy(old.Value, string(first.Secret)) {
		t.Fatalf("signed by the first: %v", err)
	}
	if _, err := mint("other"); !errors.Is(err, issuer.ErrNoSecret) {
		t.Errorf("another audience has the key too: %v", err)
	}
	if _, err := i.ActivateAudienceKey(t.Context(), "own", ""); !errors.Is(err, issuer.ErrNoNext) {
		t.Errorf("activating nothing: %v", err)
	}
	dropped, err := i.MakeAudienceKey(t.Context(), "own")
	if err != nil || dropped.State() != issuer.Next {
		t.Fatalf("a second: %+v, %v", dropped, err)
	}
	if _, err := i.MakeAudienceKey(t.Context(), "own"); !errors.Is(err, issuer.ErrPending) {
		t.Errorf("a third while the second waits: %v", err)
	}
	if _, err := i.DropAudienceKey(t.Context(), "own"); err != nil {
		t.Fatal(err)
	}
	next, err := i.MakeAudienceKey(t.Context(), "own")
	if err != nil || next.Secret == first.Secret {
		t.Fatalf("the next: %v", err)
	}
	if between, err := mint("own"); err != nil || !signedBy(between.Value, string(first.Secret)) {
		t.Errorf("the next one signs before it was activated: %v", err)
	}
	if _, err := i.ActivateAudienceKey(t.Context(), "own", dropped.ID); !errors.Is(err, issuer.ErrNoNext) {
		t.Errorf("activating one that was dropped, while another waits: %v", err)
	}
	if activated, err := i.ActivateAudienceKey(t.Context(), "own", next.ID); err != nil || activated.ID != next.ID {
		t.Fatal(err)
	}
	fresh, err := mint("own")
	if err != nil || !signedBy(fresh.Value, string(next.Secret)) {
		t.Errorf("after the activation it is not the next that signs: %v", err)
	}
	for name, token := range map[string]string{"old": old.Value, "fresh": fresh.Value} {
		if _, err := i.Read("own", token); err != nil {
			t.Errorf("the %s token is not read: %v", name, err)
		}
	}
}

// Audiences that share the published keys are told apart: a token is read for whom it says it is, and with the type of the
// profile alone (RFC 8725 3.11).
func TestTokensBySharedKeysAreToldApart(t *testing.T) {
	hub := issuer.Audience{Profile: issuer.ProfilePEPhub, Algorithm: issuer.ES256}
	kept := &memory{}
	i := issuer.New(issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"hub": hub, "other": hub, "plain": {}}}, kept, time.Now)
	if err := i.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, err := i.Mint(issuer.Request{Audience: "hub", Person: curator})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Read("other", token.Value); !errors.Is(err, issuer.ErrNotOurs) {
		t.Errorf("a token for another hub: %v", err)
	}
	at := slices.IndexFunc(kept.keys, func(key issuer.Key) bool { return key.Algorithm == issuer.ES256 })
	for kind, want := range map[string]error{"pephub+jwt": nil, "at+jwt": issuer.ErrNotOurs, "JWT": issuer.ErrNotOurs, "": issuer.ErrNotOurs} {
		head := jws.NewHeaders()
		for name, value := range map[string]string{"typ": kind, "kid": kept.keys[at].ID} {
			if err := head.Set(name, value); err != nil {
				t.Fatal(err)
			}
		}
		payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(token.Value, ".")[1])
		same, err := jws.Sign(payload, jws.WithKey(jwa.ES256, kept.keys[at].Private, jws.WithProtectedHeaders(head)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Read("hub", string(same)); !errors.Is(err, want) {
			t.Errorf("the same claims with the type %q: %v, want %v", kind, err, want)
		}
	}
}

// A secret that does not sign yet vouches for nothing, since it may be dropped, and one that signs for no token without an
// end.
func TestWhatASecretDoesNotVouchFor(t *testing.T) {
	i := startedWith(t, issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"hub": {Profile: issuer.ProfilePEPhub}}})
	made := func() string {
		t.Helper()
		key, err := i.MakeAudienceKey(t.Context(), "hub")
		if err != nil {
			t.Fatal(err)
		}
		return string(key.Secret)
	}
	active, next := made(), made()
	ends := `,"exp":` + strconv.FormatInt(time.Now().Add(time.Minute).Unix(), 10)
	for name, row := range map[string]struct {
		secret, ends string
		want         error
	}{"as it should be": {active, ends, nil}, "by the next one": {next, ends, issuer.ErrNotOurs}, "without an end": {active, "", issuer.ErrNotOurs}, "with the end 0": {active, `,"exp":0`, issuer.ErrNotOurs}} {
		if _, err := i.Read("hub", bySecret(row.secret, `{"iss":"`+url+`","audience":"hub","sub":"u1"`+row.ends+`}`)); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
	}
}

// bySecret is a token by HS256.
func bySecret(secret, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	input := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode([]byte(claims))
	code := hmac.New(sha256.New, []byte(secret))
	code.Write([]byte(input))
	return input + "." + encode(code.Sum(nil))
}

// A secret is for HS256 alone and long enough for it, and what readers who share one are given ends within thirty days,
// since they hear of no revocation.
func TestConfigOfSecrets(t *testing.T) {
	const secret = "a-secret-that-PEPhub-has-in-its-configuration"
	keys := func(life time.Duration) issuer.APITokens {
		return issuer.APITokens{Personal: true, JWT: true, MaxLifetime: life}
	}
	for name, row := range map[string]struct {
		audience issuer.Audience
		want     string // in the fault; empty for none
	}{
		"a secret":                   {issuer.Audience{Profile: issuer.ProfilePEPhub, SigningSecret: secret}, ""},
		"one of 31 bytes":            {issuer.Audience{Profile: issuer.ProfilePEPhub, SigningSecret: "a-secret-of-thirty-one-bytes-xy"}, "signing_secret: has 31 bytes"},
		"one for a published key":    {issuer.Audience{Profile: issuer.ProfilePEPhub, Algorithm: issuer.ES256, SigningSecret: secret}, "signing_secret: is for the algorithm HS256 alone"},
		"one for the usual profile":  {issuer.Audience{SigningSecret: secret}, "signing_secret: is for the algorithm HS256 alone"},
		"keys of thirty days":        {issuer.Audience{Profile: issuer.ProfilePEPhub, APITokens: keys(30 * 24 * time.Hour)}, ""},
		"keys of more":               {issuer.Audience{Profile: issuer.ProfilePEPhub, APITokens: keys(31 * 24 * time.Hour)}, "api_tokens.max_lifetime: is 744h0m0s"},
		"of more, by published keys": {issuer.Audience{Profile: issuer.ProfilePEPhub, Algorithm: issuer.RS256, APITokens: keys(31 * 24 * time.Hour)}, ""},
		"HS256 in another profile":   {issuer.Audience{Algorithm: issuer.HS256}, "algorithm: is \"HS256\""},
	} {
		t.Run(name, func(t *testing.T) {
			err := issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"hub": row.audience}}.Validate()
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
	i := startedWith(t, issuer.Config{URL: url, Audiences: map[string]issuer.Audience{"hub": {Profile: issuer.ProfilePEPhub, APITokens: keys(0)}}})
	if policy, _ := i.APITokens("hub"); policy.MaxLifetime != 30*24*time.Hour {
		t.Errorf("keys live for %s where nothing is said, want thirty days", policy.MaxLifetime)
	}
}

// slowReads is memory over a slow network: the answer to a first reading of the keys arrives after those to later ones.
type slowReads struct {
	memory
	asked atomic.Int32
}

func (s *slowReads) AudienceKeys(ctx context.Context) ([]issuer.AudienceKey, error) {
	keys, err := s.memory.AudienceKeys(ctx)
	if s.asked.Add(1) == 1 {
		time.Sleep(time.Second)
	}
	return keys, err
}

// The change feed may read the keys while Maintain makes one: what it read before is not put over what Maintain read.
func TestAnOlderReadingOfTheKeysUndoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		configured := config()
		configured.Audiences["pinned"] = issuer.Audience{
			Profile: issuer.ProfileProteinPaint, Algorithm: issuer.ES256,
			Integration: &issuer.Integration{Dataset: "pinned", Embedders: []string{"portal.example.org"}},
		}
		i := issuer.New(configured, &slowReads{}, time.Now)
		fed := make(chan error)
		go func() { fed <- i.Reload(t.Context()) }()
		synctest.Wait()
		if err := i.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-fed; err != nil {
			t.Fatal(err)
		}
		if keys, err := i.PublicKeys("pinned"); err != nil || len(keys) != 1 {
			t.Errorf("the key that Maintain made: %d keys, %v", len(keys), err)
		}
	})
}
