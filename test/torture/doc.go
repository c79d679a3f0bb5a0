// Package torture hurts real wts processes on a real PostgreSQL, at a provider that keeps a ledger, and
// counts what it cost: `make torture`, and with the other tests `make test-torture`.
package torture
