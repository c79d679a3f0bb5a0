// Package secret is a leaf: a type for values that must never be printed. Everything that holds a token,
// a password or a client secret uses it, so that a log line or an error cannot leak one by accident
// (security.md, no secret in a log or a reply).
package secret

// Text is a secret string. However it is printed, formatted, marshalled or logged, it reads [redacted];
// convert it to a string to use it.
type Text string

const redacted = "[redacted]"

// String implements fmt.Stringer.
func (Text) String() string { return redacted }

// GoString implements fmt.GoStringer, for %#v.
func (Text) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler, which JSON, YAML and slog use.
func (Text) MarshalText() ([]byte, error) { return []byte(redacted), nil }
