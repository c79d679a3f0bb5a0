// Package keyring seals secrets at rest.
//
// It owns the keys and the envelope, and knows nothing of tables or tokens: whoever seals says
// where the secret lives, and a ciphertext that was moved elsewhere does not open.
package keyring

import (
	"crypto/fips140"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrUnknownKey says that the secret was sealed by a key that this keyring does not hold, or in a form that
	// it does not open. The secret is not lost: the keyring that holds the key still opens it.
	ErrUnknownKey = errors.New("sealed by a key that is not in the keyring")
	// ErrTampered says that the secret was changed, or copied from another place.
	ErrTampered = errors.New("sealed for another place, or changed since")

	errForm = fmt.Errorf("%w: sealed in a form that is not opened here", ErrUnknownKey)
)

// An envelope is: its form (1 byte), key id (8), and what the form makes of the secret.
const (
	// Form1 is XChaCha20-Poly1305, which FIPS 140-3 does not approve; it is not opened in FIPS mode.
	Form1 = 1
	// Form2 is AES-256-GCM with a key for each secret (rule D8).
	Form2 = 2
	// laterForms are those that a later version may write: what they have sealed is kept.
	laterForms = 15

	idLen    = 8
	headLen  = 1 + idLen
	keyBytes = 32
)

// Place says where a sealed secret lives. It is the associated data of the seal, so every field
// must be one that never changes while the secret stays.
type Place struct {
	Table  string
	Owner  string // the user's id, or the id of the thing that the row is about
	Part   string // the provider, where an owner has several rows
	Column string
	// Counter grows with each secret that is sealed for the place, so that an older one does not open there; 0
	// where there is one only. Form1 does not know it.
	Counter int64
}

type keyID [idLen]byte

// sealer is one form of one key.
type sealer interface {
	// seal appends the sealed secret to the envelope's head.
	seal(head, secret []byte, place Place) []byte
	// open returns the secret of what follows the head. Its error is ErrTampered.
	open(head, sealed []byte, place Place) ([]byte, error)
}

type key struct {
	id    keyID
	name  string
	forms map[byte]sealer
}

// Keyring holds the keys: the first one seals, any of them opens. It is safe for concurrent use.
type Keyring struct {
	keys   []key
	digest []byte
	form   byte
}

// New makes a keyring of raw keys, 32 bytes each, the sealing one first. The digest key is for
// Digest alone and must stay the same for as long as the database lives. It seals in Form1, and in FIPS mode
// in Form2, until it is told otherwise.
func New(digest []byte, keys ...NamedKey) (*Keyring, error) {
	if len(digest) != keyBytes {
		return nil, fmt.Errorf("the digest key has %d bytes, want %d", len(digest), keyBytes)
	}
	if len(keys) == 0 {
		return nil, errors.New("the keyring holds no key: `wts init` writes one")
	}
	ring := &Keyring{digest: digest, form: Form1}
	if fips140.Enabled() {
		ring.form = Form2
	}
	for _, named := range keys {
		if len(named.Key) != keyBytes {
			return nil, fmt.Errorf("key %q has %d bytes, want %d", named.Name, len(named.Key), keyBytes)
		}
		forms, err := formsOf(named.Key)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", named.Name, err)
		}
		ring.keys = append(ring.keys, key{id: idOf(named.Key), name: named.Name, forms: forms})
	}
	return ring, nil
}

// formsOf are the forms in which a key seals and opens.
func formsOf(raw []byte) (map[byte]sealer, error) {
	second, err := newForm2(raw)
	if err != nil || fips140.Enabled() {
		return map[byte]sealer{Form2: second}, err
	}
	first, err := newForm1(raw)
	return map[byte]sealer{Form1: first, Form2: second}, err
}

// WithForm is the same keyring, which seals in another form. In FIPS mode there is Form2 alone.
func (k *Keyring) WithForm(form int) (*Keyring, error) {
	if form != Form1 && form != Form2 {
		return nil, fmt.Errorf("there is no form %d, want %d or %d", form, Form1, Form2)
	}
	changed := *k
	changed.form = byte(form)
	if fips140.Enabled() {
		changed.form = Form2
	}
	return &changed, nil
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
	head := append([]byte{k.form}, sealing.id[:]...)
	return sealing.forms[k.form].seal(head, secret, place)
}

// Open decrypts what Seal made for the same place. The errors are ErrUnknownKey, also for a form that a later
// version may write, and ErrTampered.
func (k *Keyring) Open(envelope []byte, place Place) ([]byte, error) {
	if len(envelope) < headLen {
		return nil, ErrTampered
	}
	head, sealed := envelope[:headLen:headLen], envelope[headLen:]
	if head[0] == 0 || head[0] > laterForms {
		return nil, ErrTampered
	}
	for i := range k.keys {
		opening := &k.keys[i]
		if opening.id != keyID(head[1:]) {
			continue
		}
		form, known := opening.forms[head[0]]
		if !known {
			return nil, errForm
		}
		return form.open(head, sealed, place)
	}
	return nil, ErrUnknownKey
}

// Current tells that an envelope is sealed as Seal does it now: with the first key, in the form in use.
func (k *Keyring) Current(envelope []byte) bool {
	return len(envelope) >= headLen && envelope[0] == k.form && keyID(envelope[1:headLen]) == k.keys[0].id
}

// Form is the form in which Seal seals.
func (k *Keyring) Form() int { return int(k.form) }

// HeadLength is how much of an envelope names its form and its key, in bytes.
const HeadLength = headLen

// Holds tells by an envelope's first HeadLength bytes whether the keyring opens it.
func (k *Keyring) Holds(head []byte) bool {
	return len(head) >= HeadLength && slices.ContainsFunc(k.keys, func(one key) bool {
		return one.id == keyID(head[1:HeadLength]) && one.forms[head[0]] != nil
	})
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
