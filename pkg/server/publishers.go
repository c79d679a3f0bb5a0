package server

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/workspace-token-service/wts/pkg/audit"
	"github.com/workspace-token-service/wts/pkg/publisher"
)

// publishers answers /api/v1/resources/<audience>/<id>/publishers, and exchanges the tokens of CI jobs.
type publishers struct {
	*apiTokens
	service *publisher.Service
}

// publisherView is a trusted publisher as a maintainer names it and sees it.
type publisherView struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name"`
	Issuer     string            `json:"issuer"`
	Subject    string            `json:"subject"`
	Claims     map[string]string `json:"claims"`
	Scopes     []string          `json:"scopes"`
	CreatedAt  *time.Time        `json:"created_at,omitempty"`
	LastUsedAt *time.Time        `json:"last_used_at"`
}

// viewOfPublisher shows a trusted publisher to who may manage the resource.
func viewOfPublisher(one publisher.Publisher) publisherView {
	shown := publisherView{
		ID: one.ID, Name: one.Name, Issuer: one.Issuer, Subject: one.Subject, Claims: one.Claims, Scopes: append([]string{}, one.Scopes...),
		CreatedAt: when(one.CreatedAt), LastUsedAt: when(one.LastUsedAt),
	}
	if shown.Claims == nil {
		shown.Claims = map[string]string{}
	}
	return shown
}

// list answers GET: the trusted publishers of a resource, and which issuers may be named.
func (p *publishers) list(x *exchange) error {
	who, err := p.person(x, "")
	if err != nil {
		return err
	}
	all, err := p.service.List(x.Request.Context(), who, x.Param("audience"), x.Param("resource"))
	if err != nil {
		return err
	}
	shown := []publisherView{}
	for _, one := range all {
		shown = append(shown, viewOfPublisher(one))
	}
	return x.json(http.StatusOK, map[string]any{"publishers": shown, "issuers": append([]string{}, p.service.Issuers()...)})
}

// create answers POST. Who names a publisher gives its jobs tokens, so that a recent login is wanted as for a token.
func (p *publishers) create(x *exchange) error {
	if err := recent(x); err != nil {
		return err
	}
	audience, resource := x.Param("audience"), x.Param("resource")
	x.event.Audience, x.event.Resource = cut(audience), cut(resource)
	var sent struct {
		Name    string            `json:"name"`
		Issuer  string            `json:"issuer"`
		Subject string            `json:"subject"`
		Claims  map[string]string `json:"claims"`
		Scopes  []string          `json:"scopes"`
	}
	if err := readBody(x, &sent); err != nil {
		return err
	}
	who, err := p.person(x, audience)
	if err != nil {
		return err
	}
	made, err := p.service.Create(x.Request.Context(), who, publisher.Publisher{
		Audience: audience, Resource: resource, Name: sent.Name, Issuer: sent.Issuer, Subject: sent.Subject, Claims: sent.Claims, Scopes: sent.Scopes,
	})
	if err != nil {
		return err
	}
	x.event.Token = made.ID
	x.Header("Location", x.base+x.Request.URL.Path+"/"+made.ID)
	return x.json(http.StatusCreated, viewOfPublisher(made))
}

// remove answers DELETE: its jobs get no further tokens.
func (p *publishers) remove(x *exchange) error {
	who, err := p.person(x, "")
	if err != nil {
		return err
	}
	audience, resource, id := x.Param("audience"), x.Param("resource"), x.Param("id")
	x.event.Audience, x.event.Resource, x.event.Token = cut(audience), cut(resource), cut(id)
	if err := p.service.Delete(x.Request.Context(), who, audience, resource, id); err != nil {
		return err
	}
	x.Status(http.StatusNoContent)
	return nil
}

// exchange trades a CI job's token for a short one of a resource. The resource is named by its id, or by its address in
// the API, which is a URI as RFC 8693 2.1 has it.
func (p *publishers) exchange(x *exchange, form url.Values) error {
	audience := form.Get("audience")
	resource := strings.TrimPrefix(form.Get("resource"), x.public+"/api/v1/resources/"+audience+"/")
	x.event.Action, x.event.Audience, x.event.Resource, x.event.Proof = audit.Mint, cut(audience), cut(resource), "trusted_publisher"
	if audience == "" || resource == "" {
		return &inputError{"audience and resource are needed: what the job's token is to be for"}
	}
	life, err := lifetime(form.Get("expires"))
	if err != nil {
		return err
	}
	if err := p.limits.take(x, mints, nil); err != nil {
		return err
	}
	done, err := p.service.Exchange(x.Request.Context(), publisher.Wanted{
		Token: form.Get("subject_token"), Audience: audience, Resource: resource, Scopes: strings.Fields(form.Get("scope")), Lifetime: life,
	})
	x.event.Actor = strings.TrimSpace(done.Publisher.ID + " " + cut(done.Subject))
	if err != nil {
		return err
	}
	return answerMinted(x, done.Token)
}
