// Package keyring seals secrets at rest.
//
// It owns the keys and the envelope, and knows nothing of tables or tokens: whoever seals says
// where the secret lives, and a ciphertext that was moved elsewhere does not open.
package keyring

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

var (
	// ErrUnknownKey says that the secret was sealed by a key that this keyring does not hold.
	// The secret is not lost: the keyring that holds the key still opens it.
	ErrUnknownKey = errors.New("sealed by a key that is not in the keyring")
	// ErrTampered says that the secret was changed, or copied from another place.
	ErrTampered = errors.New("sealed for another place, or changed since")
)

// An envelope is: version (1 byte), key id (8), nonce (24), ciphertext and tag.
//
// The nonce is 192 bits long, so that picking it blindly stays safe for any number of secrets;
// the 96 bits of plain AES-GCM run out after 2^32 of them.
const (
	version  = 1
	idLen    = 8
	headLen  = 1 + idLen + chacha20poly1305.NonceSizeX
	keyBytes = chacha20poly1305.KeySize
)

// Place says where a sealed secret lives. It is the associated data of the seal, so every field
// must be one that never changes while the secret stays.
type Place struct {
	Table  string
	Owner  string // the user's id, or the id of the thing that the row is about
	Part   string // the provider, where an owner has several rows
	Column string
}

type keyID [idLen]byte

type key struct {
	id   keyID
	name string
	aead cipher.AEAD
}

// Keyring holds the keys: the first one seals, any of them opens. It is safe for concurrent use.
type Keyring struct {
	keys   []key
	digest []byte
}

// New makes a keyring of raw keys, 32 bytes each, the sealing one first. The digest key is for
// Digest alone and must stay the same for as long as the database lives.
func New(digest []byte, keys ...NamedKey) (*Keyring, error) {
	if len(digest) != keyBytes {
		return nil, fmt.Errorf("the digest key has %d bytes, want %d", len(digest), keyBytes)
	}
	if len(keys) == 0 {
		return nil, errors.New("the keyring holds no key: `wts init` writes one")
	}
	ring := &Keyring{digest: digest}
	for _, named := range keys {
		aead, err := chacha20poly1305.NewX(named.Key)
		if err != nil {
			return nil, fmt.Errorf("key %q has %d bytes, want %d", named.Name, len(named.Key), keyBytes)
		}
		ring.keys = append(ring.keys, key{id: idOf(named.Key), name: named.Name, aead: aead})
	}
	return ring, nil
}

// NamedKey is one raw key and the name by which an operator knows it.
type NamedKey struct {
	Name string
	Key  []byte
}

func idOf(raw []byte) (id keyID) {
	sum := sha256.Sum256(append([]byte("wts key id\x00"), raw...))
	copy(id[:], sum[:])
	return id
}

// Seal encrypts a secret for one place, with the first key.
func (k *Keyring) Seal(secret []byte, place Place) []byte {
	sealing := &k.keys[0]
	envelope := make([]byte, headLen, headLen+len(secret)+chacha20poly1305.Overhead)
	envelope[0] = version
	copy(envelope[1:], sealing.id[:])
	rand.Read(envelope[1+idLen : headLen]) // never fails: crypto/rand ends the program instead
	return sealing.aead.Seal(envelope, envelope[1+idLen:headLen], secret, place.bind(envelope[:1+idLen]))
}

// Open decrypts what Seal made for the same place. The errors are ErrUnknownKey and ErrTampered.
func (k *Keyring) Open(envelope []byte, place Place) ([]byte, error) {
	if len(envelope) < headLen || envelope[0] != version {
		return nil, ErrTampered
	}
	for i := range k.keys {
		opening := &k.keys[i]
		if opening.id != keyID(envelope[1:1+idLen]) {
			continue
		}
		secret, err := opening.aead.Open(nil, envelope[1+idLen:headLen], envelope[headLen:], place.bind(envelope[:1+idLen]))
		if err != nil {
			return nil, ErrTampered
		}
		return secret, nil
	}
	return nil, ErrUnknownKey
}

// HeadLength is how much of an envelope names its key, in bytes.
const HeadLength = 1 + idLen

// Holds tells by an envelope's first HeadLength bytes whether its key is in the keyring.
func (k *Keyring) Holds(head []byte) bool {
	return len(head) >= HeadLength && head[0] == version &&
		slices.ContainsFunc(k.keys, func(one key) bool { return one.id == keyID(head[1:HeadLength]) })
}

// Digest is a keyed fingerprint (HMAC-SHA256) of a secret, by which rows are compared without
// opening them. It is useless to whoever holds the database alone.
func (k *Keyring) Digest(secret string) []byte {
	mac := hmac.New(sha256.New, k.digest)
	mac.Write([]byte(secret))
	return mac.Sum(nil)
}

// Names lists the keys, the sealing one first, as "name (id)".
func (k *Keyring) Names() []string {
	names := make([]string, 0, len(k.keys))
	for _, key := range k.keys {
		names = append(names, key.name+" ("+hex.EncodeToString(key.id[:])+")")
	}
	return names
}

// bind joins the place to the envelope's head, each part preceded by its length, so that no two
// places can read the same.
func (p Place) bind(head []byte) []byte {
	bound := append([]byte(nil), head...)
	for _, part := range []string{p.Table, p.Owner, p.Part, p.Column} {
		bound = binary.BigEndian.AppendUint64(bound, uint64(len(part)))
		bound = append(bound, part...)
	}
	return bound
}
