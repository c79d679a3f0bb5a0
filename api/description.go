package api

import _ "embed"

// Description is the API's description, in OpenAPI 3.1: every route, and what is sent and answered there.
//
//go:embed openapi.yaml
var Description []byte
