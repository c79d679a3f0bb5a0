// Package bench measures whole wts processes beside what they are to be read against: a bare gin
// handler in a process of its own, a provider asked directly, a replica that nothing else troubles. `make
// bench` runs it, and prints what it found beside what is wanted; docs/performance.md has the last
// figures.
package bench
