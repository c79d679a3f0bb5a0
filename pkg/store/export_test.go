package store

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
