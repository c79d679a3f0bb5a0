package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/keyring"
)

// Audit keeps the chains of the audit; it implements audit.Store and audit.Reader.
type Audit struct{ *core }

// auditChain is a row of audit_chains. Head and cut are digests that are sealed: who writes to the database can
// neither make one nor move it to another chain, nor to another number of the same chain.
type auditChain struct {
	ID      string `gorm:"primaryKey"`
	Number  int64
	Process string
	BeganAt int64
	Seq     int64
	Head    []byte
	CutSeq  int64
	Cut     []byte
}

// auditEntry is a row of audit_entries. At is in unix milliseconds, as an entry is before it is digested: what is read
// has the digest of what was written.
type auditEntry struct {
	Chain    string `gorm:"primaryKey"`
	Seq      int64  `gorm:"primaryKey;autoIncrement:false"`
	At       int64
	Times    int64
	Action   string
	Reason   string
	UserID   string
	Username string
	Proof    string
	Actor    string
	Provider string
	Audience string
	Resource string
	Client   string
	Token    string
	Request  string
	Peer     string
	Digest   []byte
}

// rowOfEntry is an entry as it is stored.
func rowOfEntry(e *audit.Entry) auditEntry {
	return auditEntry{
		Chain: e.Chain, Seq: e.Seq, At: e.At.UnixMilli(), Times: e.Times, Action: string(e.Action), Reason: e.Reason, UserID: e.UserID, Username: e.Username,
		Proof: e.Proof, Actor: e.Actor, Provider: e.Provider, Audience: e.Audience, Resource: e.Resource, Client: e.Client, Token: e.Token,
		Request: e.Request, Peer: e.Peer, Digest: e.Digest[:],
	}
}

// entry is a row as it is read.
func (r *auditEntry) entry() audit.Entry {
	e := audit.Entry{
		Chain: r.Chain, Seq: r.Seq, At: time.UnixMilli(r.At), Times: r.Times, Request: r.Request, Peer: r.Peer,
		Event: audit.Event{
			Action: audit.Action(r.Action), Reason: r.Reason, UserID: r.UserID, Username: r.Username, Proof: r.Proof, Actor: r.Actor, Provider: r.Provider,
			Audience: r.Audience, Resource: r.Resource, Client: r.Client, Token: r.Token,
		},
	}
	copy(e.Digest[:], r.Digest)
	return e
}

// headPlace binds what is sealed to its chain.
func headPlace(chain, column string, seq int64) keyring.Place {
	return keyring.Place{Table: "audit_chains", Owner: chain, Column: column, Counter: seq}
}

// sealHead seals a digest with the number of its entry, which form 1 does not bind.
func (s *Audit) sealHead(chain, column string, seq int64, digest []byte) []byte {
	return s.keys.Seal(append(binary.BigEndian.AppendUint64(nil, uint64(seq)), digest...), headPlace(chain, column, seq)) //nolint:gosec // it counts from 0
}

// BeginChain implements audit.Store. Of two that begin at once one finds its number taken, and write runs it again.
func (s *Audit) BeginChain(ctx context.Context, chain audit.Chain) (audit.Chain, error) {
	row := auditChain{
		ID: chain.ID, Process: chain.Process, BeganAt: chain.BeganAt.UnixMilli(), Head: s.sealHead(chain.ID, "head", 0, make([]byte, sha256.Size)),
	}
	err := s.write(besideRequests(ctx), func(tx *gorm.DB) error {
		// Also behind those that were removed: else the number of one would hide that it is gone.
		if err := tx.Raw("SELECT coalesce(max(number), 0) + 1 FROM (SELECT number FROM audit_chains UNION ALL SELECT number FROM audit_register) numbers").Scan(&row.Number).Error; err != nil {
			return err
		}
		if err := tx.Create(&row).Error; err != nil {
			return err
		}
		return s.register(tx, row.Number)
	})
	chain.Number = row.Number
	return chain, err
}

// Append implements audit.Store. The row of the chain is the only one that is changed, and it is this process's own: no
// replica waits for another one's.
func (s *Audit) Append(ctx context.Context, chain string, entries []audit.Entry, from, to audit.Head) error {
	rows := make([]auditEntry, len(entries))
	for i := range entries {
		rows[i] = rowOfEntry(&entries[i])
	}
	err := s.write(besideRequests(ctx), func(tx *gorm.DB) error {
		result := tx.Model(&auditChain{}).Where("id = ? AND seq = ?", chain, from.Seq).
			Updates(map[string]any{"seq": to.Seq, "head": s.sealHead(chain, "head", to.Seq, to.Digest[:])})
		switch {
		case result.Error != nil:
			return result.Error
		case result.RowsAffected == 0:
			return s.appended(tx, chain, to)
		}
		return tx.CreateInBatches(rows, 500).Error
	})
	if err != nil && !errors.Is(err, audit.ErrMoved) {
		return fmt.Errorf("storing the audit: %w", err)
	}
	return err
}

// appended tells a chain that ends where it should, since the answer to an earlier attempt was lost.
func (s *Audit) appended(tx *gorm.DB, chain string, to audit.Head) error {
	var row auditChain
	if err := tx.Take(&row, "id = ?", chain).Error; err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
		return err
	}
	if digest, ok := s.openHead(row.Head, chain, "head", row.Seq); ok && row.Seq == to.Seq && digest == to.Digest {
		return nil
	}
	return audit.ErrMoved
}

// openHead opens a sealed digest, where it is that of this chain and entry.
func (s *Audit) openHead(sealed []byte, chain, column string, seq int64) (digest audit.Digest, ok bool) {
	opened, err := s.keys.Open(sealed, headPlace(chain, column, seq))
	if err != nil || len(opened) != 8+len(digest) || binary.BigEndian.Uint64(opened) != uint64(seq) { //nolint:gosec // as it was sealed
		return digest, false
	}
	copy(digest[:], opened[8:])
	return digest, true
}

// Chains implements audit.Reader.
func (s *Audit) Chains(ctx context.Context) (all []audit.Chain, err error) {
	var rows []auditChain
	err = s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		return tx.Order("number").Find(&rows).Error
	})
	for _, row := range rows {
		chain := audit.Chain{
			ID: row.ID, Number: row.Number, Process: row.Process, BeganAt: time.UnixMilli(row.BeganAt), Head: audit.Head{Seq: row.Seq}, Cut: audit.Head{Seq: row.CutSeq}, Sealed: true,
		}
		var opens bool
		if chain.Head.Digest, opens = s.openHead(row.Head, row.ID, "head", row.Seq); !opens {
			chain.Sealed = false
		}
		if row.CutSeq > 0 {
			if chain.Cut.Digest, opens = s.openHead(row.Cut, row.ID, "cut", row.CutSeq); !opens {
				chain.Sealed = false
			}
		}
		all = append(all, chain)
	}
	return all, err
}

// Entries implements audit.Reader.
func (s *Audit) Entries(ctx context.Context, chain string, after int64, limit int) ([]audit.Entry, error) {
	return s.find(ctx, func(tx *gorm.DB) *gorm.DB {
		return tx.Where("chain = ? AND seq > ?", chain, after).Order("seq").Limit(limit)
	})
}

// Find implements audit.Reader. A person's own entries are read along an index of users, and all others by time: what
// is rare among many is found by saying since when.
func (s *Audit) Find(ctx context.Context, filter audit.Filter) ([]audit.Entry, error) {
	return s.find(ctx, func(tx *gorm.DB) *gorm.DB {
		for column, value := range map[string]string{
			"user_id": filter.UserID, "username": filter.Username, "token": filter.Token, "actor": filter.Actor, "action": string(filter.Action),
		} {
			if value != "" {
				tx = tx.Where(column+" = ?", value)
			}
		}
		if filter.Refused {
			tx = tx.Where("reason <> ''")
		}
		if !filter.Since.IsZero() {
			tx = tx.Where("at >= ?", filter.Since.UnixMilli())
		}
		if !filter.Until.IsZero() {
			tx = tx.Where("at < ?", filter.Until.UnixMilli())
		}
		if last := filter.Before; last != nil {
			tx = tx.Where("(at, chain, seq) < (?, ?, ?)", last.At.UnixMilli(), last.Chain, last.Seq)
		}
		return tx.Order("at DESC, chain DESC, seq DESC").Limit(filter.Limit)
	})
}

func (s *Audit) find(ctx context.Context, of func(tx *gorm.DB) *gorm.DB) ([]audit.Entry, error) {
	var rows []auditEntry
	err := s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		return of(tx).Find(&rows).Error
	})
	entries := make([]audit.Entry, 0, len(rows))
	for i := range rows {
		entries = append(entries, rows[i].entry())
	}
	return entries, err
}

// Cut deletes the entries from before a time, and leaves in the place of those of each chain the sealed digest of the
// last one: what is kept can be verified on. A chain that is not as it was written is left as it is, for a verification
// to say so: else a time that was altered would have the entry deleted. Any replica may call it at any time.
func (s *Audit) Cut(ctx context.Context, before time.Time) error {
	ctx = besideRequests(ctx)
	chains, err := s.Chains(ctx)
	var faults []error
	for i := range chains {
		chain := &chains[i]
		if !chain.Sealed || chain.Cut.Seq >= chain.Head.Seq {
			continue
		}
		if err := s.cut(ctx, chain, before); err != nil {
			faults = append(faults, fmt.Errorf("tidying the audit: %w", err))
		}
	}
	return errors.Join(append(faults, err)...)
}

// cut deletes the old entries of a chain: first it is said up to where, then they go.
func (s *Audit) cut(ctx context.Context, chain *audit.Chain, before time.Time) error {
	last, err := s.oldest(ctx, chain, before)
	if err != nil || last.Seq <= chain.Cut.Seq {
		return err
	}
	said := false
	err = s.write(ctx, func(tx *gorm.DB) error {
		result := tx.Model(&auditChain{}).Where("id = ? AND cut_seq = ?", chain.ID, chain.Cut.Seq).
			Updates(map[string]any{"cut_seq": last.Seq, "cut": s.sealHead(chain.ID, "cut", last.Seq, last.Digest[:])})
		said = result.Error == nil && result.RowsAffected == 1
		return result.Error
	})
	for deleted := int64(tidyBatch); said && err == nil && deleted >= tidyBatch; {
		err = s.write(ctx, func(tx *gorm.DB) error {
			result := tx.Exec(fmt.Sprintf("DELETE FROM audit_entries WHERE chain = ? AND seq IN (SELECT seq FROM audit_entries WHERE chain = ? AND seq <= ? ORDER BY seq LIMIT %d)", tidyBatch), chain.ID, chain.ID, last.Seq)
			deleted = result.RowsAffected
			return result.Error
		})
	}
	return err
}

// oldest is where the entries of a chain end that are from before a time, each of which follows the one before it.
func (s *Audit) oldest(ctx context.Context, chain *audit.Chain, before time.Time) (audit.Head, error) {
	head := chain.Beginning()
	for head.Seq < chain.Head.Seq {
		entries, err := s.Entries(ctx, chain.ID, head.Seq, tidyBatch)
		if err != nil {
			return audit.Head{}, err
		}
		if len(entries) == 0 {
			return audit.Head{}, nil
		}
		for i := range entries {
			entry := &entries[i]
			switch {
			case entry.Follows(head) != "":
				return audit.Head{}, nil
			case !entry.At.Before(before), entry.Seq > chain.Head.Seq:
				return head, nil
			}
			head = audit.Head{Seq: entry.Seq, Digest: entry.Digest}
		}
	}
	return head, nil
}

// auditRegister is the one row of audit_register.
type auditRegister struct {
	ID     int64 `gorm:"primaryKey;autoIncrement:false"`
	Number int64
	Sealed []byte
}

// TableName implements gorm's Tabler.
func (auditRegister) TableName() string { return "audit_register" }

// registerPlace is where the number of chains is sealed.
func registerPlace(number int64) keyring.Place {
	return keyring.Place{Table: "audit_register", Owner: "register", Column: "sealed", Counter: number}
}

// Highest implements audit.Reader. Without a row there is no chain yet.
func (s *Audit) Highest(ctx context.Context) (number int64, sealed bool, err error) {
	var rows []auditRegister
	err = s.run(ctx, func(tx *gorm.DB) error {
		rows = nil
		return tx.Limit(1).Find(&rows).Error
	})
	if err != nil || len(rows) == 0 {
		return 0, err == nil, err
	}
	opened, err := s.keys.Open(rows[0].Sealed, registerPlace(rows[0].Number))
	return rows[0].Number, err == nil && string(opened) == strconv.FormatInt(rows[0].Number, 10), nil
}

// register notes a chain that begins.
func (s *Audit) register(tx *gorm.DB, number int64) error {
	row := auditRegister{ID: 1, Number: number, Sealed: s.keys.Seal(strconv.AppendInt(nil, number, 10), registerPlace(number))}
	return tx.Clauses(clause.OnConflict{Columns: []clause.Column{{Name: "id"}}, DoUpdates: clause.AssignmentColumns([]string{"number", "sealed"})}).Create(&row).Error
}
