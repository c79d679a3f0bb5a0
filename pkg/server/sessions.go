package server

import (
	"encoding/hex"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/workspace-token-service/wts/pkg/authn"
)

// sessions answers /api/v1/sessions: a person's own, in all their browsers, and of the programs that they let in (rule C2).
type sessions struct{ sessions *authn.Sessions }

// maxAgent is how much is kept of what a browser calls itself, in bytes.
const maxAgent = 200

// readable is a text that was sent as it may be kept and shown: cut, and without what cannot be seen.
func readable(text string, most int) string {
	seen := func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}
	return strings.Map(seen, strings.ToValidUTF8(text[:min(len(text), most)], ""))
}

// sessionView is a session as its person sees it. The id is the digest by which it is kept: it opens nothing.
type sessionView struct {
	ID        string     `json:"id"`
	Current   bool       `json:"current"` // it is the one that asks
	CreatedAt *time.Time `json:"created_at"`
	SeenAt    *time.Time `json:"seen_at"`
	EndsAt    *time.Time `json:"ends_at"` // at the latest; it ends before if it is not used
	Address   string     `json:"address"`
	Agent     string     `json:"agent"`
	Client    string     `json:"client,omitempty"` // the program that was let in; none for a browser
}

// list answers GET of a person's sessions, those that were seen last first.
func (s *sessions) list(x *exchange) error {
	all, own, err := s.sessions.Of(x.Request, x.caller.User.ID)
	if err != nil {
		return err
	}
	shown := []sessionView{}
	for _, one := range all {
		shown = append(shown, sessionView{
			ID: hex.EncodeToString(one.Digest[:]), Current: one.Digest == own, CreatedAt: when(one.CreatedAt), SeenAt: when(one.SeenAt), EndsAt: when(one.EndsAt),
			Address: one.Address, Agent: one.Agent, Client: one.Client,
		})
	}
	return x.json(http.StatusOK, map[string]any{"sessions": shown})
}

// end answers DELETE of one session. Another user's is not there.
func (s *sessions) end(x *exchange) error {
	raw, err := hex.DecodeString(x.Param("id"))
	if err != nil || len(raw) != len(authn.SessionDigest{}) {
		return errNoSuchSession
	}
	digest := authn.SessionDigest(raw)
	ended, err := s.sessions.EndOf(x.Request.Context(), x.caller.User.ID, &digest)
	switch {
	case err != nil:
		return err
	case ended == 0:
		return errNoSuchSession
	}
	x.Status(http.StatusNoContent)
	return nil
}

// endAll answers DELETE of every session of a person's, the one that asks included: for one whose laptop is gone.
func (s *sessions) endAll(x *exchange) error {
	ended, err := s.sessions.EndOf(x.Request.Context(), x.caller.User.ID, nil)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, map[string]int{"ended": ended})
}
