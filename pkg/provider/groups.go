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
// nothing, and empty where no claim is meant to have them.
func (c Config) groupsOf(claims map[string]any) []string {
	groups := []string{}
	if c.GroupsClaim == "" {
		return groups
	}
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

// About asks UserInfo what a person is called and which groups they are in now (OIDC Core 5.3). A groups claim that is
// not there any more means none. The errors are *Error and ErrNoUserInfo.
func (p *Provider) About(ctx context.Context, access secret.Text, subject string) (Identity, error) {
	ends, err := p.discover(ctx)
	if err != nil {
		return Identity{}, err
	}
	if ends.userInfo == "" {
		return Identity{}, ErrNoUserInfo
	}
	ctx, cancel := context.WithTimeout(ctx, p.Config.Timeout)
	defer cancel()
	if p.Config.Type == TypeGitHub {
		return github{p}.about(ctx, ends, access, subject)
	}
	claims, failure := p.userInfo(ctx, ends, access)
	switch {
	case failure != nil:
		return Identity{}, failure
	case claims["sub"] != subject: // OIDC Core 5.3.2
		return Identity{}, p.distrust("userinfo", "it is about another person")
	}
	said := Identity{Subject: subject, Groups: p.Config.groupsOf(claims)}
	said.Name, said.Email = p.Config.calledOf(claims)
	return said.orNoGroups(), nil
}

// orNoGroups says that a person is in no group where the provider, asked for them, says nothing of any.
func (i Identity) orNoGroups() Identity {
	if i.Groups == nil {
		i.Groups = []string{}
	}
	return i
}
