package server

import (
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/apitoken"
)

// resources answers /api/v1/resources: things inside an audience that have maintainers of their own.
type resources struct{ *apiTokens }

// resourceView is a resource as its maintainers see it.
type resourceView struct {
	Audience    string           `json:"audience"`
	ID          string           `json:"id"`
	Name        string           `json:"name"`
	Maintainers []maintainerView `json:"maintainers"`
	UpdatedAt   time.Time        `json:"updated_at"`
}

type maintainerView struct {
	Username string `json:"username"`
	Known    bool   `json:"known"` // a user has logged in by this name
}

// viewOf shows a resource. Users' ids are not shown: a maintainer knows the others by name.
func viewOf(info apitoken.ResourceInfo) resourceView {
	shown := resourceView{Audience: info.Audience, ID: info.ID, Name: info.Name, Maintainers: []maintainerView{}, UpdatedAt: info.UpdatedAt.UTC().Truncate(time.Second)}
	for _, one := range info.Maintainers {
		shown.Maintainers = append(shown.Maintainers, maintainerView{Username: one.Username, Known: one.UserID != ""})
	}
	return shown
}

// isResource is what an id may be: one segment of an address that needs no escape.
var isResource = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$`).MatchString

// put lets a resource service say who maintains a resource, by its own credentials: HTTP Basic with the audience as the
// name (RFC 7617).
func (r *resources) put(x *exchange) error {
	audience, id := x.Param("audience"), x.Param("resource")
	name, secret, sent := x.Request.BasicAuth()
	x.event.Audience, x.event.Resource = cut(audience), cut(id)
	if !sent || name != audience || !r.issuer.Authenticates(audience, secret) {
		x.Header("WWW-Authenticate", `Basic realm="wts", charset="UTF-8"`)
		return errClient
	}
	x.event.Proof, x.event.Actor = "client", audience
	x.share = "client " + audience
	if err := r.limits.take(x, reads, nil); err != nil {
		return err
	}
	if !isResource(id) {
		return &inputError{"the resource's id is 1 to 128 of A-Z, a-z, 0-9, dot, underscore, tilde and hyphen"}
	}
	var body struct {
		Name        string   `json:"name"`
		Maintainers []string `json:"maintainers"` // usernames
	}
	if err := readBody(x, &body); err != nil {
		return err
	}
	info, err := r.service.PutResource(x.Request.Context(), audience, id, body.Name, body.Maintainers)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, viewOf(info))
}

// edit lets a maintainer say who else maintains it, or pass it on.
func (r *resources) edit(x *exchange) error {
	who, err := r.person(x, "")
	if err != nil {
		return err
	}
	x.event.Audience, x.event.Resource = cut(x.Param("audience")), cut(x.Param("resource"))
	var body struct {
		Name        *string  `json:"name"`
		Maintainers []string `json:"maintainers"`
	}
	if err := readBody(x, &body); err != nil {
		return err
	}
	if body.Maintainers != nil { // who may make tokens
		if err := recent(x); err != nil {
			return err
		}
	}
	info, err := r.service.EditResource(x.Request.Context(), who, x.Param("audience"), x.Param("resource"), body.Name, body.Maintainers)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, viewOf(info))
}

// show answers GET of one resource.
func (r *resources) show(x *exchange) error {
	who, err := r.person(x, "")
	if err != nil {
		return err
	}
	info, err := r.service.ResourceFor(x.Request.Context(), who, x.Param("audience"), x.Param("resource"))
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, viewOf(info))
}

// list lists the resources that a person maintains; ?unmaintained=true lists, for admins, those that no user does who
// can log in.
func (r *resources) list(x *exchange) error {
	who, err := r.person(x, "")
	if err != nil {
		return err
	}
	unmaintained, _ := x.param("unmaintained")
	all, err := r.service.ResourcesFor(x.Request.Context(), who, strings.EqualFold(unmaintained, "true"))
	if err != nil {
		return err
	}
	shown := []resourceView{}
	for _, info := range all {
		shown = append(shown, viewOf(info))
	}
	return x.json(http.StatusOK, map[string]any{"resources": shown})
}
