package apitoken

import (
	"regexp"
	"strings"
	"testing"
)

var whole = regexp.MustCompile("^(?:" + Pattern + ")$")

func TestAValueIsOneWordThatScannersFind(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		for _, kind := range []Kind{Personal, Resource} {
			value := newValue(kind)
			if seen[value] || !isValue(value) || !Looks(value) || !whole.MatchString(value) || !strings.HasPrefix(value, kind.prefix()) {
				t.Fatalf("%s token %q: seen before %t, valid %t, found by the pattern %t", kind, value, seen[value], isValue(value), whole.MatchString(value))
			}
			seen[value] = true
		}
	}
	if found := regexp.MustCompile(Pattern).FindString(`curl -H "Authorization: Bearer ` + newValue(Personal) + `" https://wts`); !isValue(found) {
		t.Errorf("the pattern finds %q in a command, want the token", found)
	}
}

// The least and the greatest random number have as many digits as any other.
func TestEveryRandomNumberHasAsManyDigits(t *testing.T) {
	var most [randomBytes]byte
	for i := range most {
		most[i] = 0xff
	}
	for name, random := range map[string][randomBytes]byte{"zero": {}, "all ones": most} {
		t.Run(name, func(t *testing.T) {
			if value := render(Personal, random); !isValue(value) {
				t.Errorf("%q is no token", value)
			}
		})
	}
	if zero := render(Personal, [randomBytes]byte{}); zero[5:32] != strings.Repeat("0", 27) {
		t.Errorf("got %q, want 27 zeros", zero)
	}
	if all := render(Personal, most); all[5] != 'a' { // 2^160 is 36.6 times 62^26
		t.Errorf("got %q, want its first digit to be a", all)
	}
}

// Any one character that is another, and any two neighbours that change places, are told by the checksum.
func TestATypoIsTold(t *testing.T) {
	value := newValue(Resource)
	for i := range len(value) {
		for _, char := range digits + "_-. é" {
			typo := value[:i] + string(char) + value[i+1:]
			if typo != value && isValue(typo) {
				t.Errorf("%q passes for %q", typo, value)
			}
		}
		if i > 0 && value[i] != value[i-1] {
			swapped := value[:i-1] + value[i:i+1] + value[i-1:i] + value[i+1:]
			if isValue(swapped) {
				t.Errorf("%q passes for %q", swapped, value)
			}
		}
	}
	for name, text := range map[string]string{
		"empty": "", "the prefix alone": "wtsp_", "cut": value[:len(value)-1], "longer": value + "0", "of another kind": "wtsp_" + value[5:], "a blank before it": " " + value,
	} {
		t.Run(name, func(t *testing.T) {
			if isValue(text) {
				t.Errorf("%q passes for a token", text)
			}
		})
	}
}

func FuzzIsValue(f *testing.F) {
	f.Add(newValue(Personal))
	f.Add("wtsr_")
	f.Add("eyJhbGciOiJFUzI1NiJ9.e30.x")
	f.Fuzz(func(t *testing.T, text string) {
		if isValue(text) && (!whole.MatchString(text) || !Looks(text) || checksum(text[:length-sumDigits]) != text[length-sumDigits:]) {
			t.Errorf("%q passes for a token", text)
		}
	})
}
