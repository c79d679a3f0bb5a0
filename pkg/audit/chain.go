package audit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// Digest chains the entries of a process: that of each is over the one before it, so that none can be altered, taken
// out or moved without all that follow.
type Digest [sha256.Size]byte

// String is the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Entry is an event as it is kept.
type Entry struct {
	Event
	Chain string
	Seq   int64 // from 1, without a gap
	At    time.Time
	// Times is how many events like it the entry stands for, of a minute; At is the last one's.
	Times         int64
	Request, Peer string
	Digest        Digest
}

// Head is how far a chain has come.
type Head struct {
	Seq    int64
	Digest Digest
}

// Chain is the entries of one process.
type Chain struct {
	ID      string
	Number  int64 // from 1, without a gap
	Process string
	BeganAt time.Time
	// Head is where it ends, and Cut up to where it was deleted when it was old enough; the zero Head is its beginning.
	Head, Cut Head
	// Sealed is false where the seals of either do not open: they were altered, or the keyring lacks their key.
	Sealed bool
}

// beginning is the digest before the first entry: of what the chain is.
func (c *Chain) beginning() Digest {
	return sha256.Sum256(fmt.Appendf(nil, "wts audit\n%s\n%d\n%s\n%d", c.ID, c.Number, c.Process, c.BeganAt.UnixMilli()))
}

// after is the digest of an entry that follows another one.
func (e *Entry) after(before Digest) Digest {
	hash := sha256.New()
	hash.Write(before[:])
	var number [8]byte
	for _, value := range [...]int64{e.Seq, e.At.UnixMilli(), e.Times} {
		binary.BigEndian.PutUint64(number[:], uint64(value)) //nolint:gosec // as it is, whatever it means
		hash.Write(number[:])
	}
	for _, text := range e.texts() {
		binary.BigEndian.PutUint64(number[:], uint64(len(*text)))
		hash.Write(number[:])
		hash.Write([]byte(*text))
	}
	return Digest(hash.Sum(nil))
}

// texts are the texts of an entry, in the order in which the digest has them. New ones are added at the end.
func (e *Entry) texts() []*string {
	return []*string{
		(*string)(&e.Action), &e.Reason, &e.UserID, &e.Username, &e.Proof, &e.Actor, &e.Provider, &e.Audience, &e.Resource, &e.Token, &e.Request, &e.Peer, &e.Client,
	}
}

// Queries are for people and operators, and read the newest first; a verification reads a chain in its order.

// Filter says which entries are wanted. Empty fields want all.
type Filter struct {
	UserID, Username, Token, Actor string
	Action                         Action
	Refused                        bool // those alone that were refused
	Since, Until                   time.Time
	Before                         *Entry // those before it, as it stands in a list
	Limit                          int
}

// Reader reads chains.
type Reader interface {
	// Chains are all, by their number.
	Chains(ctx context.Context) ([]Chain, error)
	// Highest is how many chains there ever were; false where that was altered, or the keyring lacks its key.
	Highest(ctx context.Context) (number int64, sealed bool, err error)
	// Entries are those of a chain after one of its numbers, in order.
	Entries(ctx context.Context, chain string, after int64, limit int) ([]Entry, error)
	// Find are the newest that fit, the newest first.
	Find(ctx context.Context, filter Filter) ([]Entry, error)
}

// Verified is what a verification found.
type Verified struct {
	Chains, Entries int64
	Faults          []string
}

// Verify goes through every chain and says what was altered, removed, moved or cut off. It tells told, where that is not
// nil, how many entries it has read. The error is the database's.
func Verify(ctx context.Context, reader Reader, told func(entries int64)) (found Verified, err error) {
	if told == nil {
		told = func(int64) {}
	}
	chains, err := reader.Chains(ctx)
	if err != nil {
		return found, err
	}
	fault := func(format string, args ...any) { found.Faults = append(found.Faults, fmt.Sprintf(format, args...)) }
	highest, sealed, err := reader.Highest(ctx)
	if err != nil {
		return found, err
	}
	if !sealed {
		fault("how many chains there are does not open: it was altered, or the keyring lacks its key")
	}
	for i := range chains {
		chain := &chains[i]
		if found.Chains++; chain.Number != found.Chains {
			fault("chain %d is missing: all of its entries were removed", found.Chains)
			found.Chains = chain.Number
		}
		if !chain.Sealed {
			fault("chain %d: its end or its beginning does not open: it was altered, or the keyring lacks its key", chain.Number)
			continue
		}
		read, why, err := verify(ctx, reader, chain, func(read int64) { told(found.Entries + read) })
		if err != nil {
			return found, err
		}
		found.Entries += read
		if why != "" {
			fault("chain %d: %s", chain.Number, why)
		}
	}
	if sealed && found.Chains < highest {
		fault("chain %d is missing: all of its entries were removed", highest)
	}
	return found, nil
}

// verify goes through a chain, and says the first thing that is wrong with it.
func verify(ctx context.Context, reader Reader, chain *Chain, told func(int64)) (read int64, why string, err error) {
	head := chain.Beginning()
	for head.Seq < chain.Head.Seq {
		entries, err := reader.Entries(ctx, chain.ID, head.Seq, maxAppend)
		if err != nil {
			return read, "", err
		}
		if len(entries) == 0 {
			return read, fmt.Sprintf("it is cut off after entry %d; it had %d", head.Seq, chain.Head.Seq), nil
		}
		for i := range entries {
			entry := &entries[i]
			if entry.Seq > chain.Head.Seq { // stored since the head was read
				return read, endFault(head, chain), nil
			}
			if why := entry.Follows(head); why != "" {
				return read, why, nil
			}
			head = Head{entry.Seq, entry.Digest}
			read++
		}
		told(read)
	}
	return read, endFault(head, chain), nil
}

// Beginning is the head of a chain before its first entry that is kept.
func (c *Chain) Beginning() Head {
	if c.Cut.Seq > 0 {
		return c.Cut
	}
	return Head{Digest: c.beginning()}
}

// Follows says why an entry is not the one that was stored after a head; nothing where it is.
func (e *Entry) Follows(head Head) string {
	switch {
	case e.Seq != head.Seq+1:
		return fmt.Sprintf("entry %d was removed", head.Seq+1)
	case e.after(head.Digest) != e.Digest:
		return fmt.Sprintf("entry %d was altered, or put in the place of another one (%s %s)", e.Seq, e.At.UTC().Format(time.RFC3339), cmp.Or(string(e.Action), "?"))
	}
	return ""
}

// endFault says that a chain does not end where its process left it.
func endFault(head Head, chain *Chain) string {
	if chain.Head.Seq > 0 && head != chain.Head {
		return fmt.Sprintf("it does not end where its process left it, with entry %d", chain.Head.Seq)
	}
	return ""
}
