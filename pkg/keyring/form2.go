package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// form2 is AES-256-GCM, with a key for each secret: HKDF-SHA-256 (RFC 5869) of the keyring's key with 256 random
// bits for salt. GCM alone runs out after 2^32 secrets of one key; a key for each never does. Everything in it is
// of the Go Cryptographic Module, and approved by FIPS 140-3 (rule D8).
type form2 struct{ raw []byte }

const saltBytes = 32

func newForm2(raw []byte) (sealer, error) {
	f := form2{raw}
	_, err := f.aead(make([]byte, saltBytes), Place{})
	return f, err
}

// aead is the cipher of one secret. Cookies have keys of their own: who can have one made can choose what is in
// it.
func (f form2) aead(salt []byte, place Place) (cipher.AEAD, error) {
	purpose := "rows"
	if place.Table == cookies {
		purpose = cookies
	}
	derived, err := hkdf.Key(sha256.New, f.raw, salt, "wts seal 2 "+purpose, keyBytes)
	if err != nil {
		return nil, fmt.Errorf("HKDF-SHA-256: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("AES-256: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("AES-256-GCM: %w", err)
	}
	return aead, nil
}

// cookies is the table of a Place that is a browser's cookie.
const cookies = "cookie"

// seal derives a key of its own for each secret, so that the library's 96-bit nonce never meets its limit.
func (f form2) seal(head, secret []byte, place Place) []byte {
	bound := place.bindCounted(head)
	salt := make([]byte, saltBytes)
	rand.Read(salt) // never fails: crypto/rand ends the program instead
	aead, err := f.aead(salt, place)
	if err != nil {
		panic(err) //nolint:forbidigo // newForm2 has made one of the same key; a secret that is not sealed would be lost
	}
	return aead.Seal(append(head, salt...), nil, secret, bound) //nolint:gosec // nil: the AEAD picks its nonce itself
}

// open derives the key again from the salt in the envelope.
func (f form2) open(head, sealed []byte, place Place) ([]byte, error) {
	if len(sealed) < saltBytes {
		return nil, ErrTampered
	}
	aead, err := f.aead(sealed[:saltBytes], place)
	if err != nil {
		return nil, ErrTampered
	}
	secret, err := aead.Open(nil, nil, sealed[saltBytes:], place.bindCounted(head))
	if err != nil {
		return nil, ErrTampered
	}
	return secret, nil
}

// bindCounted is bind with the counter of the sealed value.
func (p Place) bindCounted(head []byte) []byte {
	return binary.BigEndian.AppendUint64(p.bind(head), uint64(p.Counter)) //nolint:gosec // any 64 bits will do
}
