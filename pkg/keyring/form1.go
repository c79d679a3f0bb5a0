package keyring

import (
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// form1 is XChaCha20-Poly1305. Its nonce is 192 bits long, so that picking it blindly stays safe for any
// number of secrets.
type form1 struct{ aead cipher.AEAD }

func newForm1(raw []byte) (sealer, error) {
	aead, err := chacha20poly1305.NewX(raw)
	if err != nil {
		return nil, fmt.Errorf("XChaCha20-Poly1305: %w", err)
	}
	return form1{aead}, nil
}

// seal binds the head and the place to the secret as associated data, so that neither can be exchanged.
func (f form1) seal(head, secret []byte, place Place) []byte {
	bound := place.bind(head)
	var nonce [chacha20poly1305.NonceSizeX]byte
	rand.Read(nonce[:]) // never fails: crypto/rand ends the program instead
	envelope := append(head, nonce[:]...)
	return f.aead.Seal(envelope, nonce[:], secret, bound)
}

// open tells nothing of why it fails: a wrong key, a wrong place and a changed byte look the same.
func (f form1) open(head, sealed []byte, place Place) ([]byte, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, ErrTampered
	}
	secret, err := f.aead.Open(nil, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], place.bind(head))
	if err != nil {
		return nil, ErrTampered
	}
	return secret, nil
}
