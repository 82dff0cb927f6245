package maastest

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// domain is one of MAAS's DNS domains.
type domain struct {
	Authoritative bool   `json:"authoritative"`
	TTL           *int   `json:"ttl"`
	Count         int    `json:"resource_record_count"`
	IsDefault     bool   `json:"is_default"`
	Name          string `json:"name"`
	ID            int    `json:"id"`
	ResourceURI   string `json:"resource_uri"`
}

// record is one of MAAS's DNS records (MAAS fact 4.5).
type record struct {
	TTL         *int   `json:"ttl"`
	RRType      string `json:"rrtype"`
	RRData      string `json:"rrdata"`
	FQDN        string `json:"fqdn"`
	ID          int    `json:"id"`
	ResourceURI string `json:"resource_uri"`

	name   string
	domain int
}

// resource is a name with addresses.
type resource struct {
	ID          int              `json:"id"`
	FQDN        string           `json:"fqdn"`
	AddressTTL  *int             `json:"address_ttl"`
	Addresses   []map[string]any `json:"ip_addresses"`
	ResourceURI string           `json:"resource_uri"`

	name   string
	domain int
}

// AddDomain gives MAAS a domain, which it is authoritative for or not.
func (d *Database) AddDomain(name string, isAuthoritative bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rest.addDomain(name, isAuthoritative)
	d.changeZones(zoneChange{kind: domainChanged})
}

func (r *rest) addDomain(name string, isAuthoritative bool) *domain {
	r.lastDomain++
	id := r.lastDomain
	one := &domain{ID: id, Name: name, Authoritative: isAuthoritative, ResourceURI: fmt.Sprintf("/MAAS/api/2.0/domains/%d/", id)}
	r.domains = append(r.domains, one)
	return one
}

// Records are all DNS records that MAAS's database holds, as "FQDN TYPE DATA".
func (d *Database) Records() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, r := range d.rest.records {
		all = append(all, r.FQDN+" "+r.RRType+" "+r.RRData)
	}
	return all
}

func (r *rest) domain(nameOrID string) *domain {
	for _, one := range r.domains {
		if one.Name == nameOrID || strconv.Itoa(one.ID) == nameOrID {
			return one
		}
	}
	return nil
}

// count brings the domains' numbers of records up to date.
func (r *rest) count() {
	for _, one := range r.domains {
		one.Count = 0
		for _, record := range r.records {
			if record.domain == one.ID {
				one.Count++
			}
		}
	}
}

func (d *Database) handleDomains(r request) reply {
	d.rest.count()
	if r.op != "None" {
		return r.unrecognised()
	}
	if len(r.path) == 2 {
		return d.handleDomain(r)
	}
	switch {
	case r.method == http.MethodGet:
		return object(d.rest.domains)
	case r.method != http.MethodPost:
		return notAllowed("GET, POST")
	case !r.user.isAdmin:
		return forAdmins()
	}
	name := r.text("name")
	switch {
	case d.rest.domain(name) != nil:
		return invalid("name", "Domain with this Name already exists.")
	case !isHostName(name):
		return invalid("name", "Domain name contains invalid characters.")
	}
	one := d.rest.addDomain(name, true)
	d.changeZones(zoneChange{kind: domainChanged})
	return object(one)
}

func isHostName(name string) bool {
	return name != "" && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

func (d *Database) handleDomain(r request) reply {
	one := d.rest.domain(r.path[1])
	switch {
	case one == nil:
		return noSuch("Domain")
	case r.method == http.MethodGet:
		return object(one)
	case !r.user.isAdmin:
		return forAdmins()
	case r.method == http.MethodPut:
		if text := r.text("ttl"); text != "" {
			ttl, refusal := parseTTL(text)
			if refusal != nil {
				return *refusal
			}
			one.TTL = ttl
		}
		d.changeZones(zoneChange{kind: domainChanged})
		return object(one)
	case r.method == http.MethodDelete && one.IsDefault:
		return badRequest("This domain is the default domain, it cannot be deleted.")
	case r.method == http.MethodDelete && one.Count > 0:
		return exception("(\"Cannot delete some instances of model 'Domain' because they are referenced through a protected foreign key: 'DNSResource.domain'\")")
	case r.method == http.MethodDelete:
		d.rest.domains = slices.DeleteFunc(d.rest.domains, func(other *domain) bool { return other == one })
		d.changeZones(zoneChange{kind: domainChanged})
		return deleted()
	default:
		return notAllowed("GET, PUT, DELETE")
	}
}

func parseTTL(text string) (*int, *reply) {
	ttl, err := strconv.Atoi(text)
	var refusal reply
	switch {
	case err != nil:
		refusal = invalid("ttl", "Enter a whole number.")
	case ttl < 0:
		refusal = invalid("ttl", "Ensure this value is greater than or equal to 0.")
	default:
		return &ttl, nil
	}
	return nil, &refusal
}

// separate takes a name apart into that of a record and its domain. MAAS's own way knows no leading underscore, and takes what it then
// has for two values (MAAS fact 4.5).
func (d *Database) separate(fqdn string) (name string, in *domain, refusal *reply) {
	fail := func(r reply) (string, *domain, *reply) { return "", nil, &r }
	if strings.HasPrefix(fqdn, "_") {
		return fail(exception("cannot unpack non-iterable NoneType object"))
	}
	name, rest, _ := strings.Cut(fqdn, ".")
	if in = d.rest.domain(rest); in == nil {
		return fail(noSuch("Domain"))
	}
	return name, in, nil
}

// place finds which name in which domain parameters speak of.
func (d *Database) place(given interface{ Get(string) string }) (name string, in *domain, refusal *reply) {
	if fqdn := given.Get("fqdn"); fqdn != "" {
		return d.separate(fqdn)
	}
	name = given.Get("name")
	if name == "" || given.Get("domain") == "" {
		r := badRequest("Either name and domain (or fqdn) must be specified")
		return "", nil, &r
	}
	if in = d.rest.domain(given.Get("domain")); in == nil {
		r := noSuch("Domain")
		return "", nil, &r
	}
	return name, in, nil
}

func fqdnOf(name string, in *domain) string {
	if name == "@" {
		return in.Name
	}
	return name + "." + in.Name
}

func (d *Database) handleResources(r request) reply {
	if r.op != "None" {
		return r.unrecognised()
	}
	switch {
	case len(r.path) == 2:
		return noSuch("DNSResource")
	case r.method == http.MethodGet:
		wanted := r.query.Get("fqdn")
		if wanted != "" {
			if _, _, refusal := d.separate(wanted); refusal != nil {
				return *refusal
			}
		}
		shown := []*resource{}
		for _, one := range slices.Concat(d.rest.resources, d.rest.impliedResources()) {
			if wanted == "" || one.FQDN == wanted {
				shown = append(shown, one)
			}
		}
		return object(shown)
	case r.method != http.MethodPost:
		return notAllowed("GET, POST")
	case !r.user.isAdmin:
		return forAdmins()
	}
	name, in, refusal := d.place(r.body)
	if refusal != nil {
		return *refusal
	}
	if strings.HasPrefix(name, "_") {
		return invalid("name", "Invalid dnsresource name: "+name+".")
	}
	d.rest.lastID++
	one := &resource{ID: d.rest.lastID, FQDN: fqdnOf(name, in), name: name, domain: in.ID, Addresses: []map[string]any{}, ResourceURI: fmt.Sprintf("/MAAS/api/2.0/dnsresources/%d/", d.rest.lastID)}
	for text := range strings.FieldsSeq(r.text("ip_addresses")) {
		if _, err := netip.ParseAddr(text); err != nil {
			return invalid("ip_addresses", "Enter a valid IPv4 or IPv6 address.")
		}
		one.Addresses = append(one.Addresses, map[string]any{"ip": text})
	}
	d.rest.resources = append(d.rest.resources, one)
	d.changeZones(zoneChange{kind: domainChanged})
	return object(one)
}

// impliedResources are the names that have records and no addresses: each is there as long as its last record.
func (r *rest) impliedResources() []*resource {
	var implied []*resource
	for _, record := range r.records {
		isThere := func(one *resource) bool { return one.FQDN == record.FQDN }
		if !slices.ContainsFunc(r.resources, isThere) && !slices.ContainsFunc(implied, isThere) {
			implied = append(implied, &resource{ID: 1000 + record.ID, FQDN: record.FQDN, name: record.name, domain: record.domain, Addresses: []map[string]any{}, ResourceURI: fmt.Sprintf("/MAAS/api/2.0/dnsresources/%d/", 1000+record.ID)})
		}
	}
	return implied
}

func (d *Database) handleRecords(r request) reply {
	if r.op != "None" {
		return r.unrecognised()
	}
	if len(r.path) == 2 {
		return d.handleRecord(r)
	}
	switch {
	case r.method == http.MethodGet:
		return d.listRecords(r)
	case r.method != http.MethodPost:
		return notAllowed("GET, POST")
	case !r.user.isAdmin:
		return forAdmins()
	}
	name, in, refusal := d.place(r.body)
	switch {
	case refusal != nil:
		return *refusal
	case !r.has("rrtype"):
		return badRequest("rrtype must be provided.")
	case !r.has("rrdata"):
		return badRequest("rrdata must be provided.")
	}
	one := &record{name: name, domain: in.ID, FQDN: fqdnOf(name, in)}
	if refusal := d.fillRecord(one, r); refusal != nil {
		return *refusal
	}
	d.rest.lastID++
	one.ID, one.ResourceURI = d.rest.lastID, fmt.Sprintf("/MAAS/api/2.0/dnsresourcerecords/%d/", d.rest.lastID)
	d.rest.records = append(d.rest.records, one)
	d.changeZones(zoneChange{recordAdded, one.FQDN, one.RRType, one.RRData})
	return object(one)
}

func (d *Database) listRecords(r request) reply {
	if fqdn := r.query.Get("fqdn"); fqdn != "" {
		if _, _, refusal := d.separate(fqdn); refusal != nil {
			return *refusal
		}
	}
	var in *domain
	if text := r.query.Get("domain"); text != "" {
		if in = d.rest.domain(text); in == nil {
			return noSuch("Domain")
		}
	}
	matches := func(name, value string) bool { return r.query.Get(name) == "" || r.query.Get(name) == value }
	shown := []*record{}
	for _, one := range d.rest.records {
		if matches("fqdn", one.FQDN) && matches("name", one.name) && matches("rrtype", one.RRType) && (in == nil || in.ID == one.domain) {
			shown = append(shown, one)
		}
	}
	return object(shown)
}

func (d *Database) handleRecord(r request) reply {
	at := slices.IndexFunc(d.rest.records, func(one *record) bool { return one.ID == r.id() })
	if at < 0 {
		return noSuch("DNSData")
	}
	one := d.rest.records[at]
	switch {
	case r.method == http.MethodGet:
		return object(one)
	case r.method != http.MethodPut && r.method != http.MethodDelete:
		return notAllowed("GET, PUT, DELETE")
	case !r.user.isAdmin:
		return forbiddenObject()
	case r.method == http.MethodPut:
		changed := *one
		if refusal := d.fillRecord(&changed, r); refusal != nil {
			return *refusal
		}
		*one = changed
		d.changeZones(zoneChange{recordChanged, one.FQDN, one.RRType, one.RRData})
		return object(one)
	default:
		d.rest.records = slices.Delete(d.rest.records, at, at+1)
		d.changeZones(zoneChange{recordRemoved, one.FQDN, one.RRType, one.RRData})
		return deleted()
	}
}

var recordTypes = []string{"MX", "CNAME", "NS", "TXT", "SSHFP", "SRV"}

// fillRecord fills a record with what a form holds, and checks it beside the others of its name.
func (d *Database) fillRecord(one *record, r request) *reply {
	fail := func(r reply) *reply { return &r }
	if r.has("rrtype") {
		one.RRType = strings.ToUpper(r.text("rrtype"))
	}
	if r.has("rrdata") {
		one.RRData = r.text("rrdata")
	}
	switch length := utf8.RuneCountInString(one.name); {
	case length > 191:
		return fail(invalid("name", fmt.Sprintf("Ensure this value has at most 191 characters (it has %d).", length)))
	case !slices.Contains(recordTypes, one.RRType):
		return fail(invalid("rrtype", one.RRType+" is not one of "+strings.Join(recordTypes, " ")+"."))
	case one.RRData == "":
		return fail(invalid("rrdata", "This field is required."))
	}
	if text := r.text("ttl"); text != "" {
		ttl, refusal := parseTTL(text)
		if refusal != nil {
			return refusal
		}
		one.TTL = ttl
	}
	for _, other := range d.rest.records {
		if other.ID == one.ID && one.ID != 0 || other.name != one.name || other.domain != one.domain {
			continue
		}
		switch {
		case one.RRType == "CNAME" && other.RRType == "CNAME":
			return fail(invalid("__all__", "Only one CNAME can be associated with a name."))
		case one.RRType == "CNAME" || other.RRType == "CNAME":
			return fail(invalid("__all__", "CNAME records for a name cannot coexist with non-CNAME records."))
		case one.RRType == other.RRType && (one.TTL == nil) != (other.TTL == nil):
			return fail(exception("%d format: a real number is required, not NoneType"))
		}
	}
	return nil
}

// AddRecord gives a name in one of MAAS's domains a record with a TTL in seconds.
func (d *Database) AddRecord(name, domain, rrtype, data string, ttl int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	in := d.rest.domain(domain)
	d.rest.lastID++
	d.rest.records = append(d.rest.records, &record{ID: d.rest.lastID, name: name, domain: in.ID, FQDN: fqdnOf(name, in), RRType: rrtype, RRData: data, TTL: &ttl})
}
