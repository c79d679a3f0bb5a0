package apitoken

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/workspace-token-service/wts/pkg/issuer"
)

// maxMaintainers bounds those of one resource.
const maxMaintainers = 50

// owners says who may manage the tokens of a resource.
type owners struct {
	resources Resources
	// admins may manage those of every resource, and see the resources that no user maintains who can log in.
	admins []string // usernames
	// adminGroups are groups whose members are admins too, by the default provider's claim.
	adminGroups []string
}

// maintains wants a maintainer of the resource, or an admin.
func (o *owners) maintains(ctx context.Context, who issuer.Person, audience, id string) error {
	resource, err := o.resources.Resource(ctx, audience, id)
	switch {
	case errors.Is(err, ErrUnknown):
		return ErrUnknown
	case err != nil:
		return err
	case o.maintainedBy(resource, who):
		return nil
	}
	return ErrForbidden
}

// maintainedBy tells a maintainer by the user that a name was bound to, never by the name itself.
func (o *owners) maintainedBy(resource ResourceInfo, who issuer.Person) bool {
	isWho := func(one Maintainer) bool { return one.UserID == who.ID && who.ID != "" }
	return o.IsAdmin(who) || slices.ContainsFunc(resource.Maintainers, isWho)
}

// IsAdmin tells an operator of tokens: by name, or by a group where their groups are known.
func (o *owners) IsAdmin(who issuer.Person) bool {
	in := func(group string) bool { return slices.Contains(o.adminGroups, group) }
	return who.ID != "" && (slices.Contains(o.admins, who.Username) || slices.ContainsFunc(who.Groups, in))
}

// AdminsByGroup tells that who is an admin depends on their groups.
func (o *owners) AdminsByGroup() bool { return len(o.adminGroups) > 0 }

// PutResource makes or replaces a resource, as the resource service says it. It may have no maintainers: an admin then
// finds it.
func (o *owners) PutResource(ctx context.Context, audience, id, name string, usernames []string) (ResourceInfo, error) {
	info := ResourceInfo{Audience: audience, ID: id, Name: name}
	if err := checkText("name", name, maxName, true); err != nil {
		return info, err
	}
	var err error
	if info.Maintainers, err = maintainers(usernames); err != nil {
		return info, err
	}
	if err := o.resources.PutResource(ctx, info); err != nil {
		return info, err
	}
	return o.resources.Resource(ctx, audience, id)
}

// maintainers are the maintainers of these names, each once.
func maintainers(usernames []string) (all []Maintainer, err error) {
	if len(usernames) > maxMaintainers {
		return nil, fmt.Errorf("%w: more than %d maintainers", ErrInput, maxMaintainers)
	}
	for _, username := range slices.Compact(slices.Sorted(slices.Values(usernames))) {
		if err := checkText("maintainers", username, 256, true); err != nil {
			return nil, err
		}
		all = append(all, Maintainer{Username: username})
	}
	return all, nil
}

// EditResource changes a resource's name or its maintainers; nil leaves them as they are. A maintainer may pass it on,
// and has to name another one then.
func (o *owners) EditResource(ctx context.Context, who issuer.Person, audience, id string, name *string, usernames []string) (ResourceInfo, error) {
	info, err := o.ResourceFor(ctx, who, audience, id)
	if err != nil {
		return info, err
	}
	named, err := maintainers(usernames)
	switch {
	case err != nil:
		return info, err
	case usernames != nil && len(named) == 0 && !o.IsAdmin(who):
		return info, fmt.Errorf("%w: a resource keeps at least one maintainer", ErrInput)
	case name != nil:
		if err := checkText("name", *name, maxName, true); err != nil {
			return info, err
		}
	}
	return o.resources.EditResource(ctx, audience, id, func(info ResourceInfo) (ResourceInfo, error) {
		if !o.maintainedBy(info, who) { // another edit was quicker
			return info, ErrUnknown
		}
		if name != nil {
			info.Name = *name
		}
		if usernames != nil {
			info.Maintainers = named
		}
		return info, nil
	})
}

// Manages returns nil to who may manage the tokens of a resource; ErrUnknown to any other.
func (o *owners) Manages(ctx context.Context, who issuer.Person, audience, id string) error {
	_, err := o.ResourceFor(ctx, who, audience, id)
	return err
}

// ResourceFor returns a resource to who maintains it; ErrUnknown to any other.
func (o *owners) ResourceFor(ctx context.Context, who issuer.Person, audience, id string) (ResourceInfo, error) {
	if err := o.maintains(ctx, who, audience, id); errors.Is(err, ErrForbidden) {
		return ResourceInfo{}, ErrUnknown // whether it is there is no other user's business
	} else if err != nil {
		return ResourceInfo{}, err
	}
	return o.resources.Resource(ctx, audience, id)
}

// ResourcesFor are those that a user maintains; for admins, where they ask for it, those that no user does who can log
// in.
func (o *owners) ResourcesFor(ctx context.Context, who issuer.Person, unmaintained bool) ([]ResourceInfo, error) {
	switch {
	case !unmaintained:
		return o.resources.ResourcesOf(ctx, who.ID)
	case o.IsAdmin(who):
		return o.resources.ResourcesOf(ctx, "")
	}
	return nil, ErrForbidden
}
