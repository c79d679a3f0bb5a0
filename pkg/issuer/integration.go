package issuer

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Integration is a dataset of a ProteinPaint server that portals embed, as the operator writes it.
type Integration struct {
	// Dataset is its label at ProteinPaint (dslabel), and Cohorts are the ids that a token has to name there (dsnames).
	// Without one the dataset itself is.
	Dataset string   `config:"dataset"`
	Cohorts []Cohort `config:"cohorts"`
	// Embedders are the hosts of the portals, as location.hostname says them: without scheme and port.
	Embedders []string `config:"embedders"`
	// Route is which of ProteinPaint's routes want the token. Default termdb.
	Route string `config:"route"`
	// HeaderKey is the header in which ProteinPaint expects it. Default x-ds-access-token. Across origins ProteinPaint
	// allows a fixed list of headers alone.
	HeaderKey string `config:"header_key"`
	// IP is how ProteinPaint compares the address: loose (the default), strict, in which tokens name it, or none.
	IP string `config:"ip"`
	// InstanceURL is the base URL of the ProteinPaint server, for the self-test.
	InstanceURL string `config:"instance_url"`
	// Origins are those whose scripts may ask for a token. Default https:// and each embedder.
	Origins []string `config:"origins"`
	// Roles say what ProteinPaint is told of a person (clientAuthResult): the first that matches counts.
	Roles []Role `config:"roles"`
}

// Cohort is an entry of ProteinPaint's dsnames.
type Cohort struct {
	ID    string `config:"id"    json:"id"`
	Label string `config:"label" json:"label"`
}

// Role is who is told of how.
type Role struct {
	Everyone bool     `config:"everyone"`
	Users    []string `config:"users"`
	Groups   []string `config:"groups"`
	// Result is the clientAuthResult of a token.
	Result map[string]any `config:"result"`
}

// How ProteinPaint compares the address that a token names with the one that a request comes from.
const (
	IPLoose  = "loose"
	IPStrict = "strict"
	IPNone   = "none"
)

// HeaderKey is the header of ProteinPaint's own choice.
const HeaderKey = "x-ds-access-token"

// corsHeaders are those that ProteinPaint lets a page of another origin send. The list is fixed there.
var corsHeaders = []string{"authorization", "x-auth-token", HeaderKey, "x-sjppds-sessionid"}

// withDefaults fills in what the operator left out; nil stays nil.
func (i *Integration) withDefaults() *Integration {
	if i == nil {
		return nil
	}
	filled := *i
	if len(filled.Cohorts) == 0 {
		filled.Cohorts = []Cohort{{ID: i.Dataset}}
	}
	filled.Cohorts = slices.Clone(filled.Cohorts)
	for at := range filled.Cohorts {
		if filled.Cohorts[at].Label == "" {
			filled.Cohorts[at].Label = filled.Cohorts[at].ID
		}
	}
	if filled.Route == "" {
		filled.Route = "termdb"
	}
	if filled.HeaderKey == "" {
		filled.HeaderKey = HeaderKey
	}
	if filled.IP == "" {
		filled.IP = IPLoose
	}
	filled.InstanceURL = strings.TrimRight(filled.InstanceURL, "/")
	if len(filled.Origins) == 0 {
		for _, host := range filled.Embedders {
			filled.Origins = append(filled.Origins, "https://"+host)
		}
	}
	filled.Origins = slices.Clone(filled.Origins)
	for at, origin := range filled.Origins {
		filled.Origins[at] = originOf(origin)
	}
	return &filled
}

// validate reports every fault at once, each with the name of its field.
func (i *Integration) validate(id string) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("audiences."+id+".integration."+format, args...))
	}
	if !isName(i.Dataset) {
		fault("dataset: is %q, want the dslabel of ProteinPaint's configuration", i.Dataset)
	}
	seen := map[string]bool{}
	for at, cohort := range i.Cohorts {
		if !isName(cohort.ID) || seen[cohort.ID] {
			fault("cohorts[%d].id: is %q, want an id of its own", at, cohort.ID)
		}
		seen[cohort.ID] = true
	}
	if len(i.Embedders) == 0 {
		fault("embedders: is empty; want the hosts of the portals that embed the dataset, like portal.example.org")
	}
	for at, host := range i.Embedders {
		if !isHost(host) {
			fault("embedders[%d]: is %q, want a host in lower case, without scheme, port and pattern, like portal.example.org", at, host)
		}
	}
	if i.IP != "" && !slices.Contains([]string{IPLoose, IPStrict, IPNone}, i.IP) {
		fault("ip: is %q, want %s, %s or %s", i.IP, IPLoose, IPStrict, IPNone)
	}
	if i.Route != "" && !isName(i.Route) {
		fault("route: is %q, want a route of ProteinPaint like termdb, burden or *", i.Route)
	}
	if i.InstanceURL != "" && !isBase(i.InstanceURL) {
		fault("instance_url: is %q, want the base URL of the ProteinPaint server, like https://proteinpaint.example.org", i.InstanceURL)
	}
	i.validateOrigins(fault)
	return errors.Join(append(faults, i.validateRoles(id))...)
}

// validateOrigins wants origins of the embedders, and a header that their pages may send.
func (i *Integration) validateOrigins(fault func(string, ...any)) {
	for at, origin := range i.Origins {
		parsed, err := url.Parse(origin)
		switch {
		case err != nil || parsed.Host == "" || parsed.Scheme != "https" && parsed.Scheme != "http" || parsed.Scheme+"://"+parsed.Host != origin:
			fault("origins[%d]: is %q, want a scheme and a host, with the port where it is not the scheme's own, like https://portal.example.org", at, origin)
		case parsed.Scheme == "http" && !isHere(parsed.Hostname()):
			fault("origins[%d]: %q is not encrypted, so that one who is between could ask for the tokens of its people; want https", at, origin)
		case !slices.Contains(i.Embedders, parsed.Hostname()):
			fault("origins[%d]: the host of %q is none of the embedders, so that ProteinPaint would refuse its token", at, origin)
		}
	}
	header := strings.ToLower(i.HeaderKey)
	if header == "" || slices.Contains(corsHeaders, header) {
		return
	}
	if !isHeader(header) {
		fault("header_key: is %q, want the name of a header", i.HeaderKey)
		return
	}
	for _, origin := range i.withDefaults().Origins {
		if origin != originOf(i.InstanceURL) {
			fault("header_key: is %q, and pages of %s may send ProteinPaint none but %s: its list of headers across origins is fixed; leave it out, or serve the portal and ProteinPaint (instance_url) from one origin",
				i.HeaderKey, origin, strings.Join(corsHeaders, ", "))
			return
		}
	}
}

// validateRoles wants of each role whom it matches and what it tells.
func (i *Integration) validateRoles(id string) error {
	var faults []error
	for at, role := range i.Roles {
		name := fmt.Sprintf("audiences.%s.integration.roles[%d]", id, at)
		if !role.Everyone && len(role.Users) == 0 && len(role.Groups) == 0 {
			faults = append(faults, fmt.Errorf("%s: matches no user; want everyone, users or groups", name))
		}
		if len(role.Result) == 0 {
			faults = append(faults, fmt.Errorf("%s.result: is missing; want what ProteinPaint is told of such a person, like {role: admin}", name))
		}
		if role.Everyone && at < len(i.Roles)-1 {
			faults = append(faults, fmt.Errorf("%s: matches everyone, so that the roles behind it never count; put it last", name))
		}
	}
	return errors.Join(faults...)
}

// isName tells what may be an id at ProteinPaint: printable ASCII without what ends a string or a list.
func isName(text string) bool {
	return isScope(text) && !strings.ContainsAny(text, ",'`<>") && len(text) <= 200
}

// isHost tells the name or the IPv4 address of a host, as a browser says it.
func isHost(text string) bool {
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return len(text) <= 253
}

// isHere tells a name or an address of this machine, on the way to which nobody is.
func isHere(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// isHeader tells the name of a header (RFC 9110 5.6.2), in lower case.
func isHeader(text string) bool {
	return strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// isBase tells a URL to which paths can be appended.
func isBase(text string) bool {
	parsed, err := url.Parse(text)
	return err == nil && (parsed.Scheme == "https" || parsed.Scheme == "http") && parsed.Host != "" && parsed.User == nil && parsed.RawQuery == "" && parsed.Fragment == ""
}

// originOf is the origin of a URL (RFC 6454 4), without a port that is the scheme's own.
func originOf(address string) string {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" {
		return ""
	}
	host := parsed.Host
	if name, port, err := net.SplitHostPort(host); err == nil && (parsed.Scheme == "https" && port == "443" || parsed.Scheme == "http" && port == "80") {
		host = name
	}
	return parsed.Scheme + "://" + host
}
