package maastest

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
)

// Controller is a region controller as MAAS's database has it.
type Controller struct {
	SystemID  string
	Hostname  string
	Domain    string         // of its name; empty: maas, the default
	Addresses []netip.Prefix // with their subnets; none until it has commissioned itself
}

// Name is the region's, as MAAS gives it: its host name in MAAS's own domain (MAAS fact 4.2).
func (c Controller) Name() string {
	if c.Domain == "" {
		return c.Hostname + ".maas"
	}
	return c.Hostname + "." + c.Domain
}

// Controllers are the region controllers in MAAS's database.
func (d *Database) Controllers() []Controller {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.rest.controllers)
}

// SetControllers sets the region controllers in MAAS's database, which are there whether they run or not.
func (d *Database) SetControllers(controllers ...Controller) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rest.controllers = slices.Clone(controllers)
}

func (d *Database) handleControllers(r request) reply {
	switch {
	case r.op != "None":
		return r.unrecognised()
	case r.method != http.MethodGet:
		return notAllowed("GET")
	}
	shown := []map[string]any{}
	for _, c := range d.rest.controllers {
		isAsked := len(r.path) == 1 && (r.query.Get("hostname") == "" || r.query.Get("hostname") == c.Hostname) || len(r.path) == 2 && r.path[1] == c.SystemID
		if r.user.isAdmin && isAsked { // others are shown none, with 200
			shown = append(shown, c.document(d.faults.Version.String()))
		}
	}
	switch {
	case len(r.path) == 1:
		return object(shown)
	case len(shown) == 0:
		return noSuch("RegionController")
	default:
		return object(shown[0])
	}
}

// document is a region controller as the API shows it. One that has not commissioned itself has neither addresses nor interfaces.
func (c Controller) document(version string) map[string]any {
	addresses, interfaces := []string{}, []map[string]any{}
	for i, prefix := range c.Addresses {
		addresses = append(addresses, prefix.Addr().String())
		interfaces = append(interfaces, map[string]any{
			"id": i + 1, "name": fmt.Sprintf("eth%d", i), "type": "physical", "mac_address": fmt.Sprintf("52:54:00:00:00:%02x", i), "enabled": true,
			"vlan": map[string]any{"id": 5001, "vid": 0, "mtu": 1500, "fabric": "fabric-0", "fabric_id": 0},
			"links": []map[string]any{{
				"id": i + 1, "mode": "static", "ip_address": prefix.Addr().String(),
				"subnet": map[string]any{"id": i + 1, "name": prefix.Masked().String(), "cidr": prefix.Masked().String(), "vlan": map[string]any{"vid": 0}},
			}},
			"discovered": nil, "effective_mtu": 1500, "tags": []string{}, "parents": []string{}, "children": []string{},
		})
	}
	document := map[string]any{
		"system_id": c.SystemID, "hostname": c.Hostname, "description": "", "hardware_uuid": nil, "fqdn": c.Name(),
		"domain":       map[string]any{"authoritative": true, "ttl": nil, "resource_record_count": 0, "is_default": true, "name": "maas", "id": 0, "resource_uri": "/MAAS/api/2.0/domains/0/"},
		"architecture": "amd64/generic", "cpu_count": 2, "cpu_speed": 0, "memory": 4096, "swap_size": nil, "osystem": "ubuntu", "distro_series": "jammy",
		"power_type": "", "power_state": "unknown", "ip_addresses": addresses, "interface_set": interfaces, "zone": map[string]any{"id": 1, "name": "default"},
		"status_action": "", "node_type": 3, "node_type_name": "Region controller", "version": version + "-16340-g.a5ea770be",
		"hardware_info": map[string]any{}, "tag_names": []string{}, "resource_uri": "/MAAS/api/2.0/regioncontrollers/" + c.SystemID + "/",
	}
	for _, kind := range []string{"commissioning", "testing", "installation"} {
		document["current_"+kind+"_result_id"] = nil
	}
	for _, kind := range []string{"commissioning", "testing", "cpu_test", "memory_test", "network_test", "storage_test", "other_test", "interface_test"} {
		document[kind+"_status"], document[kind+"_status_name"] = -1, "Unknown"
	}
	return document
}
