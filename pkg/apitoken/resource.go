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
	admins []string
}

// maintains wants a maintainer of the resource, or an admin.
func (o *owners) maintains(ctx context.Context, who issuer.Person, audience, id string) error {
	resource, err := o.resources.Resource(ctx, audience, id)
	switch {
	case errors.Is(err, ErrUnknown):
		return ErrUnknown
	case err != nil:
		return err
	case o.IsAdmin(who), slices.ContainsFunc(resource.Maintainers, func(one Maintainer) bool { return one.UserID == who.ID && who.ID != "" }):
		return nil
	}
	return ErrForbidden
}

// IsAdmin tells an operator of tokens.
func (o *owners) IsAdmin(who issuer.Person) bool {
	return who.ID != "" && slices.Contains(o.admins, who.Username)
}

// PutResource makes or replaces a resource, as the resource service says it. It may have no maintainers: an admin then
// finds it.
func (o *owners) PutResource(ctx context.Context, audience, id, name string, maintainers []string) (ResourceInfo, error) {
	info := ResourceInfo{Audience: audience, ID: id, Name: name}
	if err := checkText("name", name, maxName, true); err != nil {
		return info, err
	}
	return o.putResource(ctx, info, maintainers)
}

// putResource stores a resource and reads it again, since names become the users who have logged in by them.
func (o *owners) putResource(ctx context.Context, info ResourceInfo, usernames []string) (ResourceInfo, error) {
	if len(usernames) > maxMaintainers {
		return info, fmt.Errorf("%w: more than %d maintainers", ErrInput, maxMaintainers)
	}
	info.Maintainers = nil
	for _, username := range usernames {
		if err := checkText("maintainers", username, 256, true); err != nil {
			return info, err
		}
		info.Maintainers = append(info.Maintainers, Maintainer{Username: username})
	}
	if err := o.resources.PutResource(ctx, info); err != nil {
		return info, err
	}
	return o.resources.Resource(ctx, info.Audience, info.ID)
}

// EditResource changes a resource's name or its maintainers; nil leaves them as they are. Whoever maintains it may pass
// it on, and does not leave it to nobody.
func (o *owners) EditResource(ctx context.Context, who issuer.Person, audience, id string, name *string, maintainers []string) (ResourceInfo, error) {
	info, err := o.ResourceFor(ctx, who, audience, id)
	if err != nil {
		return info, err
	}
	if name != nil {
		info.Name = *name
		if err := checkText("name", info.Name, maxName, true); err != nil {
			return info, err
		}
	}
	if maintainers == nil {
		for _, one := range info.Maintainers {
			maintainers = append(maintainers, one.Username)
		}
	} else if len(maintainers) == 0 && !o.IsAdmin(who) {
		return info, fmt.Errorf("%w: a resource keeps at least one maintainer", ErrInput)
	}
	return o.putResource(ctx, info, slices.Compact(slices.Sorted(slices.Values(maintainers))))
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
