package server

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/workspace-token-service/wts/pkg/apitoken"
)

// statusLists answers /status/<number>: which API tokens that are JWTs have ended before their time
// (draft-ietf-oauth-status-list, 8.1), from memory.
type statusLists struct{ service *apitoken.Service }

// show answers GET of one list. A number of no token is nothing that we sign.
func (s *statusLists) show(x *exchange) error {
	number, err := strconv.ParseInt(x.Param("list"), 10, 64)
	if err != nil || number < 0 || number > maxList {
		return errNotFound
	}
	list, err := s.service.StatusList(x.Request.Context(), number)
	if err != nil {
		return err
	}
	x.Header("Cache-Control", "public, max-age=5")
	x.Header("ETag", list.ETag)
	x.Header("Access-Control-Allow-Origin", "*") // public, as the keys are
	if strings.Contains(x.GetHeader("If-None-Match"), list.ETag) {
		x.Status(http.StatusNotModified)
		return nil
	}
	x.Data(http.StatusOK, "application/statuslist+jwt", []byte(list.Token))
	return nil
}

// maxList keeps a number within what the numbers of its tokens hold.
const maxList = 1 << 30
