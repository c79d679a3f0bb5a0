package apitoken

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"math/big"
	"strings"

	"github.com/workspace-token-service/wts/pkg/unverified"
)

// A token is one word that a scanner can find: a prefix that says what it is, 160 random bits in base 62, and a checksum
// by which a typo is told before anything is looked up.
const (
	prefixPersonal = "wtsp_"
	prefixResource = "wtsr_"

	randomBytes  = 20
	randomDigits = 27 // of base 62 for 160 bits
	sumDigits    = 6  // of base 62 for the 32 bits of a CRC

	length = len(prefixPersonal) + randomDigits + sumDigits
)

// Pattern is the regular expression of both kinds, for secret scanners.
const Pattern = `\bwts[pr]_[0-9A-Za-z]{33}\b`

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newValue makes a token.
func newValue(kind Kind) string {
	var random [randomBytes]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	return render(kind, random)
}

// render writes a value of 160 bits: the prefix, the bits in base 62, and the checksum of both.
func render(kind Kind, random [randomBytes]byte) string {
	body := kind.prefix() + base62(random[:], randomDigits)
	return body + checksum(body)
}

// checksum is the CRC-32 (IEEE 802.3) of what stands before it.
func checksum(body string) string {
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.ChecksumIEEE([]byte(body)))
	return base62(sum[:], sumDigits)
}

// base62 writes a number, the most significant digit first, with zeros before it.
func base62(number []byte, width int) string {
	text := make([]byte, width)
	left, base, digit := new(big.Int).SetBytes(number), big.NewInt(int64(len(digits))), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		left.DivMod(left, base, digit)
		text[i] = digits[digit.Int64()]
	}
	return string(text)
}

// Looks tells a text that claims to be one of our tokens, by its prefix: it is no other service's.
func Looks(text string) bool {
	return strings.HasPrefix(text, prefixPersonal) || strings.HasPrefix(text, prefixResource)
}

// isValue tells a text that can be a token. One that cannot is refused without a look-up.
func isValue(text string) bool {
	if len(text) != length || !Looks(text) {
		return false
	}
	body := text[:length-sumDigits]
	for i := len(prefixPersonal); i < len(body); i++ {
		if strings.IndexByte(digits, body[i]) < 0 {
			return false
		}
	}
	return text[len(body):] == checksum(body)
}

// Claims tells a text that says of itself that it is an API token of an issuer: by its prefix, or as a JWT that can be
// revoked. Whether it is one is to be looked up.
func Claims(text, issuer string) bool {
	if Looks(text) {
		return true
	}
	var said struct {
		Issuer string          `json:"iss"`
		Status json.RawMessage `json:"status"`
	}
	// Ours are not escaped: a token that hides the word is none of ours, and no signature of ours is on it.
	return unverified.Mentions(text, `"status"`) && unverified.Claims(text, &said) == nil && said.Issuer == issuer && len(said.Status) > 0
}

// mayBe tells a text that can be a value, opaque or a JWT.
func mayBe(text string) bool { return isValue(text) || !Looks(text) && unverified.IsForm(text) }

// Digest is what is kept of a token.
type Digest [sha256.Size]byte

// DigestOf is the SHA-256 of a token. It needs no salt and no slow hash: a token has 160 random bits.
func DigestOf(value string) Digest { return sha256.Sum256([]byte(value)) }

// suffix is what a list shows of a token, so that a person finds the one in their file: of a JWT five characters, by which
// PEPhub's clients name the key that is to be revoked.
func suffix(value string) string {
	if unverified.IsForm(value) {
		return value[len(value)-5:]
	}
	return value[len(value)-4:]
}
