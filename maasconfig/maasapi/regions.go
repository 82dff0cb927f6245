package maasapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// User is who a key belongs to.
type User struct {
	Name    string
	IsAdmin bool
}

// User tells whose the key is.
func (c *Client) User(ctx context.Context) (User, error) {
	var answer struct {
		Name    string `json:"username"`
		IsAdmin bool   `json:"is_superuser"`
	}
	err := c.call(ctx, maxAnswer, func(a api) error {
		user, err := a.Users.Whoami()
		if err == nil {
			answer.Name, answer.IsAdmin = user.UserName, user.IsSuperUser
		}
		return err
	})
	return User{printable.Phrase(answer.Name), answer.IsAdmin}, c.named(err)
}

// What MAAS is believed of its regions.
const (
	mostRegions   = 50
	mostAddresses = 200
)

// Regions are all region controllers, running or not. MAAS shows an empty list to somebody who is no administrator, which is an error
// here: it never means that there are none (MAAS fact 4.2).
func (c *Client) Regions(ctx context.Context) ([]maasconfig.Region, error) {
	var controllers []controller
	err := c.call(ctx, maxRegions, func(a api) error {
		text, err := a.get("regioncontrollers/", nil)
		if err != nil {
			return err
		}
		return json.Unmarshal(text, &controllers)
	})
	switch {
	case err != nil:
		return nil, c.named(err)
	case len(controllers) == 0:
		return nil, c.named(hint.Add(errors.New("it lists no region controller, which is what it tells somebody who is no administrator"),
			"maas.api.key must be an administrator's: maas apikey --username ADMIN"))
	case len(controllers) > mostRegions:
		return nil, c.named(fmt.Errorf("it lists %d region controllers; more than %d are not believed", len(controllers), mostRegions))
	}
	regions := make([]maasconfig.Region, len(controllers))
	for i, one := range controllers {
		if regions[i], err = one.region(); err != nil {
			return nil, c.named(err)
		}
	}
	return regions, nil
}

// controller is a region controller as MAAS describes it, as far as that matters here.
type controller struct {
	SystemID   string   `json:"system_id"`
	FQDN       string   `json:"fqdn"`
	Addresses  []string `json:"ip_addresses"`
	Interfaces []struct {
		Links []struct {
			Subnet *struct {
				CIDR string `json:"cidr"`
			} `json:"subnet"`
		} `json:"links"`
	} `json:"interface_set"`
}

func (c controller) region() (maasconfig.Region, error) {
	if c.SystemID == "" || len(c.SystemID) > 64 || c.FQDN == "" {
		return maasconfig.Region{}, errNoJSON
	}
	region := maasconfig.Region{ID: printable.Phrase(c.SystemID), Name: printable.Phrase(c.FQDN)}
	for _, text := range c.Addresses[:min(len(c.Addresses), mostAddresses)] {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" || address.IsUnspecified() || address.IsMulticast() {
			return region, fmt.Errorf("region %s has an address that is none: %s", region.Name, printable.Line(text, 100))
		}
		if address = address.Unmap(); !slices.Contains(region.Addresses, address) {
			region.Addresses = append(region.Addresses, address)
		}
	}
	for _, one := range c.Interfaces[:min(len(c.Interfaces), mostAddresses)] {
		for _, link := range one.Links {
			if link.Subnet == nil || len(region.Subnets) >= mostAddresses {
				continue
			}
			if subnet, err := netip.ParsePrefix(link.Subnet.CIDR); err == nil {
				region.Subnets = append(region.Subnets, subnet)
			}
		}
	}
	return region, nil
}
