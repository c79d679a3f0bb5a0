package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Fernet opens and makes the tokens that Gen3's Python service keeps in its table refresh_token
// (https://github.com/fernet/spec): version 0x80 | time (8 bytes) | IV (16) | AES-128-CBC with
// PKCS #7 | HMAC-SHA256 (32), in base64url. Such a value is tied to no place: it opens wherever it
// was copied to. It is for that table alone; everything of ours is sealed by a Keyring.
type Fernet struct {
	signing    []byte
	encryption cipher.Block
	raw        []byte
}

const (
	fernetVersion = 0x80
	fernetKey     = 32
	fernetHead    = 1 + 8 + aes.BlockSize
)

// NewFernet reads a key: 32 bytes in base64, of either alphabet, with line breaks and spaces
// anywhere, as Python's cryptography takes it (Gen3 contract 3).
func NewFernet(text string) (*Fernet, error) {
	text = strings.NewReplacer("\n", "", "\r", "", "\t", "", " ", "", "+", "-", "/", "_").Replace(text)
	raw, err := base64.URLEncoding.DecodeString(text)
	if err != nil || len(raw) != fernetKey {
		return nil, fmt.Errorf("a Fernet key is %d bytes in base64, with its padding: 44 characters", fernetKey)
	}
	block, err := aes.NewCipher(raw[fernetKey/2:])
	if err != nil {
		return nil, fmt.Errorf("a Fernet key: %w", err)
	}
	return &Fernet{signing: raw[:fernetKey/2], encryption: block, raw: raw}, nil
}

// Open decrypts a value. Its error is ErrTampered: the key is another one, or the value was changed.
func (f *Fernet) Open(value string) (string, error) {
	envelope, err := base64.URLEncoding.DecodeString(value)
	if err != nil || len(envelope) < fernetHead+aes.BlockSize+sha256.Size || envelope[0] != fernetVersion {
		return "", ErrTampered
	}
	body, tag := envelope[:len(envelope)-sha256.Size], envelope[len(envelope)-sha256.Size:]
	padded := body[fernetHead:]
	if subtle.ConstantTimeCompare(tag, f.tag(body)) != 1 || len(padded)%aes.BlockSize != 0 {
		return "", ErrTampered
	}
	secret := make([]byte, len(padded))
	cipher.NewCBCDecrypter(f.encryption, body[9:fernetHead]).CryptBlocks(secret, padded)
	// The tag held, so that whoever made the padding had the key.
	padding := int(secret[len(secret)-1])
	if padding == 0 || padding > aes.BlockSize {
		return "", ErrTampered
	}
	return string(secret[:len(secret)-padding]), nil
}

// IsFernet tells that a value has the form of one, whichever key made it.
func IsFernet(value string) bool {
	envelope, err := base64.URLEncoding.DecodeString(value)
	return err == nil && len(envelope) >= fernetHead+aes.BlockSize+sha256.Size && envelope[0] == fernetVersion
}

// Seal encrypts a secret, dated now.
func (f *Fernet) Seal(secret string, now time.Time) string {
	padding := aes.BlockSize - len(secret)%aes.BlockSize
	padded := append([]byte(secret), strings.Repeat(string(rune(padding)), padding)...)
	envelope := make([]byte, fernetHead, fernetHead+len(padded)+sha256.Size)
	envelope[0] = fernetVersion
	binary.BigEndian.PutUint64(envelope[1:], uint64(max(now.Unix(), 0)))
	rand.Read(envelope[9:fernetHead])
	cipher.NewCBCEncrypter(f.encryption, envelope[9:fernetHead]).CryptBlocks(padded, padded)
	envelope = append(envelope, padded...)
	return base64.URLEncoding.EncodeToString(append(envelope, f.tag(envelope)...))
}

func (f *Fernet) tag(body []byte) []byte {
	mac := hmac.New(sha256.New, f.signing)
	mac.Write(body)
	return mac.Sum(nil)
}

// KeyFile derives a key file from the Fernet key: a deployment of Gen3 has that one secret, and every
// replica has to come to the same keys. Parse reads it.
func (f *Fernet) KeyFile() (string, error) {
	derive := func(purpose string) (string, error) {
		key, err := hkdf.Key(sha256.New, f.raw, nil, "wts "+purpose, keyBytes)
		return base64.StdEncoding.EncodeToString(key), err
	}
	sealing, err := derive("sealing key")
	digest, err2 := derive("digest key")
	if err := errors.Join(err, err2); err != nil {
		return "", fmt.Errorf("deriving keys: %w", err)
	}
	return fmt.Sprintf("%sfrom-gen3 %s\n%s %s\n", fileHead, sealing, digestName, digest), nil
}
