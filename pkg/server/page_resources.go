package server

import (
	"cmp"
	"net/http"
	"strconv"

	"github.com/workspace-token-service/wts/pkg/apitoken"
	"github.com/workspace-token-service/wts/web"
)

// What a person maintains is said by the services that have the resources: there is nothing to add or to remove here.

// resources answers GET /resources: what a person maintains.
func (v *tokenPages) resources(x *exchange) error {
	all, err := v.service.ResourcesFor(x.Request.Context(), v.personAtHand(x), false)
	if err != nil {
		return err
	}
	var page web.Resources
	for _, info := range all {
		page.Resources = append(page.Resources, rowOfResource(info))
	}
	x.page(http.StatusOK, page)
	return nil
}

func rowOfResource(info apitoken.ResourceInfo) web.ResourceRow {
	row := web.ResourceRow{Audience: info.Audience, ID: info.ID, Name: info.Name}
	for _, one := range info.Maintainers {
		row.Maintainers = append(row.Maintainers, one.Username)
	}
	return row
}

// What a maintainer made goes on when they leave, which is what tokens of resources are for; and those who stay have to
// see it, since the one who left may still have the value.

// resource answers GET /resources/<audience>/<resource>: its tokens, of all its makers.
func (v *tokenPages) resource(x *exchange) error {
	who, err := v.person(x, "")
	if err != nil {
		return err
	}
	ctx, audience, resource := x.Request.Context(), x.Param("audience"), x.Param("resource")
	info, err := v.service.ResourceFor(ctx, who, audience, resource)
	if err != nil {
		return err
	}
	after, _ := x.param("after")
	tokens, err := v.service.List(ctx, who, apitoken.Filter{Audience: audience, Resource: resource, After: after, Limit: pageSize})
	if err != nil {
		return err
	}
	policy, _ := v.issuer.APITokens(audience)
	_, allowed := v.issuer.ScopesFor(audience, who)
	path := x.base + "/resources/" + audience + "/" + resource
	page := web.Resource{ResourceRow: rowOfResource(info), CanMake: policy.Resource && allowed, New: path + "/new", Made: takeNotice(x, true).Made}
	page.TokenLists = lists(tokens, path+"/tokens", page.Made, makers(x, info))
	page.More = older(tokens, path)
	left := 0
	for _, row := range page.Active.Rows {
		if row.Left {
			left++
		}
	}
	if left > 0 {
		page.Left = map[bool]string{true: "one", false: strconv.Itoa(left)}[left == 1]
	}
	x.page(http.StatusOK, page)
	return nil
}

// makers name who made a token of a resource, and tell who does not maintain it any more.
func makers(x *exchange, info apitoken.ResourceInfo) func(userID string) (string, bool) {
	return func(userID string) (string, bool) {
		for _, one := range info.Maintainers {
			if one.UserID == userID {
				return one.Username, false
			}
		}
		return cmp.Or(x.authn.NameOf(x.Request.Context(), userID), "a former maintainer"), true
	}
}
