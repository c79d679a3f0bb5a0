package config

import _ "embed"

//go:embed example.yaml
var example string

// Example is a commented configuration, which `wts init` writes.
func Example() string { return example }
