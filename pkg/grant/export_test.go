package grant

import (
	"crypto/sha256"
	"encoding/base64"
)

// DigestOf is the digest of a code.
func DigestOf(text string) Digest { return digestOf(text) }

// ChallengeOf is what a client sends of its verifier.
func ChallengeOf(verifier string) string {
	digest := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(digest[:])
}
