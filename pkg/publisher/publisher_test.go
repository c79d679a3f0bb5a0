package publisher

import (
	"errors"
	"strings"
	"testing"
)

func TestSubjectsThatMayBeNamed(t *testing.T) {
	for subject, says := range map[string]string{
		"repo:octo/app:ref:refs/heads/main":           "",
		"repo:octo/app:environment:production":        "",
		"repo:octo/app:ref:refs/tags/v*":              "",
		"repo:octo/app:ref:refs/heads/release-*/done": "",
		"system:serviceaccount:ci:publisher":          "",
		"a job":                                       "",
		"":                                            "missing",
		"*":                                           "before its last colon",
		"job-*":                                       "before its last colon",
		"repo:octo/*:ref:refs/heads/main":             "before its last colon",
		"repo:*/app:ref:refs/heads/main":              "before its last colon",
		"repo:octo/app:*":                             "right behind its last colon",
		"repo:octo/app:ref:*":                         "right behind its last colon",
		"repo:octo/*:ref:refs/heads/*":                "more than one asterisk",
		"repo:octo/app:ref:refs/*/*":                  "more than one asterisk",
	} {
		t.Run(subject, func(t *testing.T) {
			err := checkSubject(subject)
			if (err == nil) != (says == "") || err != nil && (!errors.Is(err, ErrInput) || !strings.Contains(err.Error(), says)) {
				t.Errorf("got %v, want %q", err, says)
			}
		})
	}
}

func TestSubjectsThatFit(t *testing.T) {
	for name, row := range map[string]struct {
		pattern, subject string
		fits             bool
	}{
		"the same":               {"repo:octo/app:ref:refs/heads/main", "repo:octo/app:ref:refs/heads/main", true},
		"a longer one":           {"repo:octo/app:ref:refs/heads/main", "repo:octo/app:ref:refs/heads/main2", false},
		"another case":           {"repo:octo/app:ref:refs/heads/main", "repo:Octo/app:ref:refs/heads/main", false},
		"a tag":                  {"repo:octo/app:ref:refs/tags/v*", "repo:octo/app:ref:refs/tags/v1.2", true},
		"nothing behind":         {"repo:octo/app:ref:refs/tags/v*", "repo:octo/app:ref:refs/tags/v", true},
		"another tag":            {"repo:octo/app:ref:refs/tags/v*", "repo:octo/app:ref:refs/tags/w1", false},
		"a colon behind":         {"repo:octo/app:ref:refs/tags/v*", "repo:octo/app:ref:refs/tags/v:x", false},
		"a fork":                 {"repo:octo/app:ref:refs/tags/v*", "repo:mallory/app:ref:refs/tags/v1", false},
		"a middle":               {"repo:octo/app:ref:refs/heads/r-*-ok", "repo:octo/app:ref:refs/heads/r-1-ok", true},
		"a middle that overlaps": {"repo:octo/app:ref:refs/heads/r-*-ok", "repo:octo/app:ref:refs/heads/r-ok", false},
		"an asterisk in the job": {"repo:octo/app:ref:refs/heads/main", "repo:octo/app:ref:refs/heads/*", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := subjectFits(row.pattern, row.subject); got != row.fits {
				t.Errorf("%s of %s: got %t, want %t", row.subject, row.pattern, got, row.fits)
			}
		})
	}
}

// Whatever a maintainer may name and a job says, the repository is the one that is named.
func FuzzSubject(f *testing.F) {
	f.Add("repo:octo/app:ref:refs/tags/v*", "repo:octo/app:ref:refs/tags/v1")
	f.Add("repo:octo/app:*", "repo:octo/app:pull_request")
	f.Add("a*:b", "a:b")
	f.Fuzz(func(t *testing.T, pattern, subject string) {
		if checkSubject(pattern) != nil || !subjectFits(pattern, subject) {
			return
		}
		before := func(text string) string { return text[:strings.LastIndexByte(text, ':')+1] }
		if before(pattern) != before(subject) {
			t.Errorf("%q fits %q, whose parts before the last are others", subject, pattern)
		}
	})
}
