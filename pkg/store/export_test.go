package store

// Unlimit takes the server's limit on transactions away, as on an engine that has none.
func Unlimit(s *Store) { s.unlimited = true }
