// Package telemetry is logs and metrics. Nobody imports it but cmd: a package that has something to
// report takes a small Observer of its own, which the types here implement.
package telemetry

import (
	"bufio"
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
	Level string `koanf:"level"`
	// Format is json or text. Default json.
	Format string `koanf:"format"`
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

func (c LogConfig) level() (slog.Level, error) {
	var level slog.Level
	if c.Level == "" {
		return slog.LevelInfo, nil
	}
	return level, level.UnmarshalText([]byte(c.Level))
}

// NewLog makes a log and a function that writes out what it still holds. Lines are gathered for at
// most a fifth of a second, so that a request does not wait for a system call; a warning goes out
// at once, with all that came before it.
func NewLog(config LogConfig, to io.Writer) (*slog.Logger, func()) {
	level, _ := config.level()
	buffer := &lineBuffer{out: bufio.NewWriterSize(to, 64<<10)}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewJSONHandler(buffer, options)
	if config.Format == "text" {
		handler = slog.NewTextHandler(buffer, options)
	}
	return slog.New(urgent{handler, buffer}), buffer.flush
}

const flushAfter = 200 * time.Millisecond

type lineBuffer struct {
	mu      sync.Mutex
	out     *bufio.Writer
	pending bool
}

func (b *lineBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.pending {
		b.pending = true
		time.AfterFunc(flushAfter, b.flush)
	}
	return b.out.Write(line)
}

func (b *lineBuffer) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending = false
	_ = b.out.Flush() // a log that cannot be written has nowhere to say so
}

// urgent writes out the buffer after a line that somebody should see now.
type urgent struct {
	slog.Handler
	buffer *lineBuffer
}

func (u urgent) Handle(ctx context.Context, record slog.Record) error {
	err := u.Handler.Handle(ctx, record)
	if record.Level >= slog.LevelWarn {
		u.buffer.flush()
	}
	return err
}

func (u urgent) WithAttrs(attrs []slog.Attr) slog.Handler {
	return urgent{u.Handler.WithAttrs(attrs), u.buffer}
}

func (u urgent) WithGroup(name string) slog.Handler {
	return urgent{u.Handler.WithGroup(name), u.buffer}
}
