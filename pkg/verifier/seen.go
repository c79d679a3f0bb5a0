package verifier

import (
	"crypto/sha256"
	"sync"
)

// verified is a token that was found good, by its hash.
type verified struct {
	claims *Claims
	key    *publicKey
}

// seen remembers a bounded number of good tokens in two generations: when the young one is full it
// becomes the old one, and what was not asked for since is forgotten.
type seen struct {
	limit      int
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]verified
}

func newSeen(limit int) *seen {
	return &seen{limit: limit / 2, young: map[[sha256.Size]byte]verified{}}
}

// get finds a token that was verified, and keeps it among the young ones.
func (s *seen) get(fingerprint [sha256.Size]byte) (verified, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.young[fingerprint]; ok {
		return found, true
	}
	found, ok := s.old[fingerprint]
	if ok {
		s.add(fingerprint, found)
	}
	return found, ok
}

func (s *seen) put(fingerprint [sha256.Size]byte, found verified) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(fingerprint, found)
}

// add makes room by dropping a whole generation: that costs no order of use, and no allocation for each token.
func (s *seen) add(fingerprint [sha256.Size]byte, found verified) {
	if len(s.young) >= s.limit {
		s.young, s.old = make(map[[sha256.Size]byte]verified, s.limit), s.young
	}
	s.young[fingerprint] = found
}
