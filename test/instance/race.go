//go:build race

package instance

// Race tells that the race detector is on, which makes processes larger and slower.
const Race = true
