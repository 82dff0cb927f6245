package maasconfig

import "net/netip"

// Region is a region controller as MAAS knows it (MAAS fact 4.2).
type Region struct {
	ID        string         // MAAS's own, for ever
	Name      string         // in MAAS's own DNS, which need not be the host's name
	Addresses []netip.Addr   // none: MAAS does not know them yet
	Subnets   []netip.Prefix // that it is in, as far as MAAS knows
}
