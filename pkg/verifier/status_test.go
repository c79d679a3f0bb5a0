package verifier

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"errors"
	"testing"
)

// The example of draft-ietf-oauth-status-list (4.1 and 4.2): sixteen statuses of one bit, and twelve of two.
func TestStatusListOfTheDraft(t *testing.T) {
	for name, row := range map[string]struct {
		bits int
		list string
		want []int
	}{
		"one bit":  {1, "eNrbuRgAAhcBXQ", []int{1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1}},
		"two bits": {2, "eNo76fITAAPfAgc", []int{1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			unpacked, err := unpackList(row.bits, row.list)
			if err != nil {
				t.Fatal(err)
			}
			list := statusList{bytes: unpacked, bits: row.bits}
			for i, want := range row.want {
				if got, known := list.at(int64(i)); got != want || !known {
					t.Errorf("status %d: got %d, known %t; want %d", i, got, known, want)
				}
			}
			for _, beyond := range []int64{-1, int64(len(row.want)), 1 << 62} {
				if _, known := list.at(beyond); known {
					t.Errorf("status %d is known, want it in no list", beyond)
				}
			}
		})
	}
}

func TestListsThatAreRefused(t *testing.T) {
	for name, row := range map[string]struct {
		bits int
		list string
	}{
		"no bits":          {0, "eNrbuRgAAhcBXQ"},
		"three bits":       {3, "eNrbuRgAAhcBXQ"},
		"no base64url":     {1, "eNrb+RgAAhcBXQ=="},
		"no zlib":          {1, base64.RawURLEncoding.EncodeToString([]byte("plain"))},
		"cut off":          {1, "eNrbuRg"},
		"a changed byte":   {1, "eNrbuRgAAhcBXA"},
		"four million and": {1, bomb(t, maxBits+1)},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := unpackList(row.bits, row.list); err == nil {
				t.Error("it is accepted, want an error")
			}
		})
	}
	if _, err := unpackList(1, bomb(t, maxBits)); err != nil {
		t.Errorf("as much as is accepted: got %v", err)
	}
}

func FuzzUnpackList(f *testing.F) {
	f.Add(1, "eNrbuRgAAhcBXQ")
	f.Add(2, "eNo76fITAAPfAgc")
	f.Fuzz(func(t *testing.T, bits int, text string) {
		unpacked, err := unpackList(bits, text)
		if err != nil {
			return
		}
		list := statusList{bytes: unpacked, bits: bits}
		for _, index := range []int64{-1, 0, int64(len(unpacked)) * int64(8/bits), 1 << 62} {
			if status, known := list.at(index); known && (status < 0 || status >= 1<<bits) {
				t.Errorf("status %d of %d is %d", index, len(unpacked), status)
			}
		}
	})
}

// What providers call status too is no status list.
func TestAStatusThatIsNoList(t *testing.T) {
	for name, row := range map[string]struct {
		claims string
		want   error
	}{
		"text":                {`{"exp": 1, "status": "active"}`, nil},
		"a number":            {`{"exp": 1, "status": 200}`, nil},
		"another kind":        {`{"exp": 1, "status": {"assertion": "x"}}`, nil},
		"a list without idx":  {`{"exp": 1, "status": {"status_list": {"uri": "https://op/s/0"}}}`, ErrMalformed},
		"a list without uri":  {`{"exp": 1, "status": {"status_list": {"idx": 0}}}`, ErrMalformed},
		"an idx that is text": {`{"exp": 1, "status": {"status_list": {"idx": "0", "uri": "https://op/s/0"}}}`, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			claims, err := readClaims([]byte(row.claims), settings{})
			if !errors.Is(err, row.want) || err == nil && claims.status != nil {
				t.Errorf("got %v; want %v, and no list", err, row.want)
			}
		})
	}
}

// bomb is a list of zeros that unpacks to so many bytes.
func bomb(t *testing.T, size int) string {
	t.Helper()
	var packed bytes.Buffer
	writer := zlib.NewWriter(&packed)
	if _, err := writer.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(packed.Bytes())
}
