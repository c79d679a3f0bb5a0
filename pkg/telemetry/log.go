// Package telemetry is logs and metrics. Nobody imports it but cmd: a package that has something to
// report takes a small Observer of its own, which the types here implement.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// LogConfig is the log, as the operator writes it.
type LogConfig struct {
	// Level is debug, info, warn or error. Default info.
	Level string `config:"level"`
	// Format is json or text. Default json.
	Format string `config:"format"`
}

// Validate reports every fault at once.
func (c LogConfig) Validate() error {
	var faults []error
	if _, err := c.level(); err != nil {
		faults = append(faults, fmt.Errorf("log.level: is %q, want debug, info, warn or error", c.Level))
	}
	if c.Format != "" && c.Format != "json" && c.Format != "text" {
		faults = append(faults, fmt.Errorf("log.format: is %q, want json or text", c.Format))
	}
	return errors.Join(faults...)
}

// level is the least level that is written; info unless told otherwise.
func (c LogConfig) level() (slog.Level, error) {
	var level slog.Level
	if c.Level == "" {
		return slog.LevelInfo, nil
	}
	return level, level.UnmarshalText([]byte(c.Level))
}

// NewLog makes a log and a function that writes out what it still holds. Lines are gathered for at
// most a fifth of a second, so that a request does not wait for a system call. A warning is written before the
// call returns, with all that came before it, and so is a line of the audit: what was handed out is on record
// before its caller has it. Callers who wait at the same time share a write.
func NewLog(config LogConfig, to io.Writer) (*slog.Logger, func()) {
	level, _ := config.level()
	buffer := &lineBuffer{to: to}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewJSONHandler(buffer, options)
	if config.Format == "text" {
		handler = slog.NewTextHandler(buffer, options)
	}
	return slog.New(urgent{handler, buffer}), buffer.flush
}

const (
	flushAfter = 200 * time.Millisecond
	flushAt    = 64 << 10 // bytes
)

// lineBuffer gathers lines.
type lineBuffer struct {
	to io.Writer

	mu      sync.Mutex // never held over a write
	lines   []byte
	added   uint64 // lines, since the beginning
	pending bool   // a timer is set

	writing sync.Mutex // held over a write
	spare   []byte
	stored  uint64 // lines that were written
}

// Write implements io.Writer for one line.
func (b *lineBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	b.lines = append(b.lines, line...)
	b.added++
	if !b.pending {
		b.pending = true
		time.AfterFunc(flushAfter, b.later)
	}
	full := len(b.lines) >= flushAt
	b.mu.Unlock()
	if full {
		b.flush()
	}
	return len(line), nil
}

func (b *lineBuffer) later() {
	b.mu.Lock()
	b.pending = false
	b.mu.Unlock()
	b.flush()
}

// flush returns when the lines that are there now have been written: by itself, or by another that wrote them
// while this one waited.
func (b *lineBuffer) flush() {
	b.mu.Lock()
	want := b.added
	b.mu.Unlock()
	b.writing.Lock()
	defer b.writing.Unlock()
	if b.stored >= want {
		return
	}
	b.mu.Lock()
	lines, until := b.lines, b.added
	b.lines = b.spare[:0]
	b.mu.Unlock()
	_, _ = b.to.Write(lines) // a log that cannot be written has nowhere to say so
	b.spare, b.stored = lines, until
}

// urgent writes out the buffer with a line that an operator should see now, or that a caller waits for.
type urgent struct {
	slog.Handler
	buffer *lineBuffer
}

// Handle implements slog.Handler.
func (u urgent) Handle(ctx context.Context, record slog.Record) error {
	err := u.Handler.Handle(ctx, record)
	if record.Level >= slog.LevelWarn || audited(record) {
		u.buffer.flush()
	}
	return err
}

// audited tells a line of the audit by its attribute.
func audited(record slog.Record) (yes bool) {
	record.Attrs(func(attr slog.Attr) bool {
		yes = attr.Key == "audit"
		return !yes
	})
	return yes
}

// WithAttrs implements slog.Handler.
func (u urgent) WithAttrs(attrs []slog.Attr) slog.Handler {
	return urgent{u.Handler.WithAttrs(attrs), u.buffer}
}

// WithGroup implements slog.Handler.
func (u urgent) WithGroup(name string) slog.Handler {
	return urgent{u.Handler.WithGroup(name), u.buffer}
}
