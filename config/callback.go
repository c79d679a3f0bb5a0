package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// callbackPath is the default provider's callback, below which are those of the others.
const callbackPath = "/oauth2/authorize"

// CallbackURL is where a provider sends browsers back to us (rule A3).
func (c Config) CallbackURL(id string) string {
	if id == c.Broker.DefaultProvider || !c.Providers[id].OwnCallback() {
		return c.Server.URL + callbackPath
	}
	return c.Server.URL + callbackPath + "/" + url.PathEscape(id)
}

// CheckCallbacks names the providers that share a callback: a code of one of them can be made to come
// back as if it were another's, and is sent to that one's token endpoint unless the callback says by iss
// whose it is (RFC 9700 4.4).
func (c Config) CheckCallbacks() (warnings []string) {
	sharing := map[string][]string{}
	for _, id := range slices.Sorted(maps.Keys(c.Providers)) {
		sharing[c.CallbackURL(id)] = append(sharing[c.CallbackURL(id)], id)
	}
	for _, at := range slices.Sorted(maps.Keys(sharing)) {
		if ids := sharing[at]; len(ids) > 1 {
			warnings = append(warnings, fmt.Sprintf("providers %s share the callback %s: any of them that is hostile can have itself sent codes of the others that put no iss into their callbacks (RFC 9700 4.4), and take over their accounts; register %s%s/<id> at each but the default one, and set callback: own",
				strings.Join(ids, ", "), at, c.Server.URL, callbackPath))
		}
	}
	return warnings
}
