package server

// What a program sends is read strictly: a member that is not known is a fault and not passed over, so that a name that
// is mistyped does not become a default.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
)

// readBody reads JSON into a value: one object, with no member that is not known.
func readBody(x *exchange, into any) error {
	if kind, _, _ := mime.ParseMediaType(x.GetHeader("Content-Type")); kind != "application/json" {
		return &inputError{"the body has to be JSON, with Content-Type: application/json"}
	}
	decoder := json.NewDecoder(x.Request.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return &inputError{fmt.Sprintf("the body is larger than %d bytes", maxBody)}
		}
		return &inputError{"the body is not the JSON that is expected: " + jsonFault(err)}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return &inputError{"the body is more than one JSON value"}
	}
	return nil
}

// jsonFault says what is wrong without repeating what was sent.
func jsonFault(err error) string {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return fmt.Sprintf("%s has to be a %s", cut(kind.Field), kind.Type)
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("it is no JSON at byte %d", syntax.Offset)
	}
	return "a member is not known, or the end is missing"
}

// inputError is a fault of a request to the API.
type inputError struct{ message string }

func (e *inputError) Error() string { return e.message }
