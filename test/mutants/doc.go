// Package mutants plants bugs in the refresh engine and tells which of them the tests find: `make mutants`
// tries those that are kept as patches beside this file, `make mutate` some that are drawn by a seed. A
// bug that no test finds is a rule that no test holds. README.md says how to add one.
package mutants
