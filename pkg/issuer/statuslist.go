package issuer

// status points to a token's bit in a status list, for tokens that can be revoked before they expire
// (draft-ietf-oauth-status-list, 6.1).
type status struct {
	List statusEntry `json:"status_list"`
}

type statusEntry struct {
	Index int64  `json:"idx"`
	URI   string `json:"uri"`
}
