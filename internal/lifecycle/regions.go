package lifecycle

import (
	"maps"
	"net"
	"time"

	"maascert/certstore"
	"maascert/maasconfig"
)

// remembersRegions tells whether a deployment remembers a target's regions as they were found.
func (t TargetState) remembersRegions(d certstore.Deployment, began time.Time) bool {
	now := t.rememberRegions(d, began)
	return maps.Equal(now.Regions, d.Regions) && sameMoments(now.Unlisted, d.Unlisted)
}

// rememberRegions has a deployment remember, for when MAAS cannot be asked, at which addresses its regions answer, or did before. One that
// MAAS does not list any more is forgotten when it was not listed in an earlier pass either.
func (t TargetState) rememberRegions(d certstore.Deployment, began time.Time) certstore.Deployment {
	regions, unlisted := map[string]string{}, map[string]time.Time{}
	for _, e := range t.Endpoints {
		host, _, err := net.SplitHostPort(e.Address)
		if e.Region == "" || err != nil || e.State == maasconfig.Unknown && d.Regions[e.Region] != host {
			continue
		}
		since, known := d.Unlisted[e.Region]
		switch {
		case e.Unlisted && known && since.Before(began):
			continue
		case e.Unlisted && known:
			unlisted[e.Region] = since
		case e.Unlisted:
			unlisted[e.Region] = began.UTC()
		}
		regions[e.Region] = host
	}
	if len(regions) == 0 {
		return d // MAAS did not tell of any
	}
	d.Regions, d.Unlisted = regions, unlisted
	if len(unlisted) == 0 {
		d.Unlisted = nil
	}
	return d
}
