package provider

import (
	"context"
	"errors"
	"slices"

	"github.com/workspace-token-service/wts/pkg/secret"
)

// ErrNoUserInfo: the provider has no UserInfo endpoint, so that it says who a person is at a login alone.
var ErrNoUserInfo = errors.New("the provider has no UserInfo endpoint")

// maxGroups bounds what is kept of a person's groups.
const maxGroups = 500

// groupsOf reads the groups claim: an array of names, or one name. It is nil where the claim is missing, which says
// nothing.
func (c Config) groupsOf(claims map[string]any) []string {
	if c.GroupsClaim == "" {
		return nil
	}
	groups := []string{}
	switch value := valueAt(claims, c.GroupsClaim).(type) {
	case nil:
		return nil
	case string:
		groups = append(groups, value)
	case []any:
		for _, member := range value {
			if name, ok := member.(string); ok {
				groups = append(groups, name)
			}
		}
	}
	groups = slices.DeleteFunc(groups, func(name string) bool { return name == "" || textFlaw(name) != "" })
	return groups[:min(len(groups), maxGroups)]
}

// Groups asks UserInfo which groups a person is in now (OIDC Core 5.3). A claim that is not there any more means none.
// The errors are *Error and ErrNoUserInfo.
func (p *Provider) Groups(ctx context.Context, access secret.Text, subject string) ([]string, error) {
	ends, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	if ends.userInfo == "" {
		return nil, ErrNoUserInfo
	}
	ctx, cancel := context.WithTimeout(ctx, p.Config.Timeout)
	defer cancel()
	if p.Config.Type == TypeGitHub {
		return github{p}.groupsOf(ctx, ends, access, subject)
	}
	claims, failure := p.userInfo(ctx, ends, access)
	switch {
	case failure != nil:
		return nil, failure
	case claims["sub"] != subject: // OIDC Core 5.3.2
		return nil, p.distrust("userinfo", "it is about another person")
	}
	if groups := p.Config.groupsOf(claims); groups != nil {
		return groups, nil
	}
	return []string{}, nil
}
