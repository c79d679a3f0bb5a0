package issuer

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Tokens that live long can be revoked before they expire. A verifier that asks nobody at each token reads of it in a
// status list: one bit for each token, signed as a whole, which it keeps for a minute
// (draft-ietf-oauth-status-list).

const (
	// StatusListSize is how many tokens one list has a bit for.
	StatusListSize = 1 << 20
	// StatusTTL is how long a verifier may keep a list: a token that is revoked is refused everywhere this long after.
	StatusTTL = time.Minute
	// statusKept is what a list says of that: less, since the list that is fetched may be some seconds old.
	statusKept = 45 * time.Second
	// statusLife is how long a list is good that cannot be had anew: an outage of wts refuses no token for as long.
	statusLife = time.Hour

	typeStatusList = "statuslist+jwt"
)

// status points to a token's bit in a status list.
type status struct {
	List statusEntry `json:"status_list"`
}

type statusEntry struct {
	Index int64  `json:"idx"`
	URI   string `json:"uri"`
}

// StatusListURI is where a list is served. It names the list for good, as its subject.
func (i *Issuer) StatusListURI(number int64) string {
	return i.config.URL + "/status/" + strconv.FormatInt(number, 10)
}

// Lasting is what an API token that is a JWT says beside what is asked for.
type Lasting struct {
	ID        string // jti
	ExpiresAt time.Time
	// Status is the token's number among all that can be revoked.
	Status int64
}

// MintLasting signs an API token as a JWT. What its audience allows was judged when it was asked for, and how long it
// lives by the audience's policy.
func (i *Issuer) MintLasting(request Request, lasting Lasting) (Token, error) {
	audience, ok := i.config.Audiences[request.Audience]
	if !ok {
		return Token{}, ErrAudience
	}
	revocable := &status{List: statusEntry{Index: lasting.Status % StatusListSize, URI: i.StatusListURI(lasting.Status / StatusListSize)}}
	return i.mint(audience, request, lasting.ExpiresAt.Sub(i.now()), lasting.ID, revocable)
}

// statusListClaims are the payload of a status list token (draft-ietf-oauth-status-list, 5.1).
type statusListClaims struct {
	Subject   string     `json:"sub"`
	IssuedAt  int64      `json:"iat"`
	ExpiresAt int64      `json:"exp"`
	TTL       int64      `json:"ttl"` // seconds
	List      StatusBits `json:"status_list"`
}

// StatusBits is a list as it stands in a token: one bit for each index, the least significant first, compressed.
type StatusBits struct {
	Bits int    `json:"bits"`
	List string `json:"lst"`
}

// CompressStatuses makes a list of bytes (draft-ietf-oauth-status-list, 4.1 and 4.2): zlib at its best, then base64url.
func CompressStatuses(list []byte) (StatusBits, error) {
	var text bytes.Buffer
	compressor, err := zlib.NewWriterLevel(&text, zlib.BestCompression)
	if err == nil {
		_, err = compressor.Write(list)
	}
	if err == nil {
		err = compressor.Close()
	}
	if err != nil {
		return StatusBits{}, fmt.Errorf("compressing a status list: %w", err)
	}
	return StatusBits{Bits: 1, List: base64.RawURLEncoding.EncodeToString(text.Bytes())}, nil
}

// SignStatusList signs a list. It is signed with ES256, which every verifier of ours knows, whatever its tokens are
// signed with.
func (i *Issuer) SignStatusList(number int64, list []byte) (string, error) {
	bits, err := CompressStatuses(list)
	if err != nil {
		return "", err
	}
	now := i.now()
	payload, err := json.Marshal(statusListClaims{
		Subject: i.StatusListURI(number), IssuedAt: now.Unix(), ExpiresAt: now.Add(statusLife).Unix(), TTL: int64(statusKept / time.Second), List: bits,
	})
	if err != nil {
		return "", fmt.Errorf("rendering a status list: %w", err)
	}
	signing, err := i.signer(ES256, now, now.Add(statusLife))
	if err != nil {
		return "", err
	}
	return signing.as(typeStatusList).sign(payload)
}
