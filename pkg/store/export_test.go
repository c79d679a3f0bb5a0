package store

import "testing"

// Unlimit takes the server's limit on transactions away, as on an engine that has none.
func Unlimit(s *Store) { s.unlimited = true }

// Saw has the store believe that it saw an incarnation of the database.
func Saw(s *Store, incarnation string) { s.newest.Store(&incarnation) }

// Sealed are the columns that Reencrypt seals again.
func Sealed() (names []string) {
	for _, column := range sealedColumns {
		names = append(names, column.table+"."+column.column)
	}
	return names
}

// Exec runs a statement on a connection of the store's own.
func Exec(t *testing.T, s *Store, statement string) {
	t.Helper()
	if err := s.db.Exec(statement).Error; err != nil {
		t.Fatal(err)
	}
}
