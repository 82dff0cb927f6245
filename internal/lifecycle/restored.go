package lifecycle

import (
	"fmt"
	"slices"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// A store that was restored from an older copy does not know what was obtained since, key and all. What of that is served is kept in
// service until its own renewal is due: replacing it by what the store has would take people back to an older certificate.

// newest is the newest certificate of ours that any host ever saw.
func newest(cert string, own certstore.Seen, nodes []certstore.Node) certstore.Seen {
	for _, node := range nodes {
		own = own.Newest(node.Latest[cert])
	}
	return own
}

// isLost tells whether an endpoint serves a version of ours that is newer than the one in use, and that the store does not have.
func (s State) isLost(e maasconfig.Endpoint) bool {
	fingerprint := e.Fingerprint()
	_, known := s.Known[fingerprint]
	return !known && s.Current != nil && fingerprint != "" && fingerprint == s.Latest.Fingerprint && s.Latest.NotBefore.After(s.leaf().NotBefore) && e.Distrust == nil && !s.isPinned() && s.Record.Revocation(s.Current.Number) == nil
}

// keepsLost tells whether a target is left to serve a version that the store has lost.
func (s State) keepsLost(t TargetState) bool {
	return s.isRestored() && slices.ContainsFunc(t.Endpoints, s.isLost)
}

// isRestored tells whether the store has lost a version that is served and not due. Where another one of ours is served as well that is about to
// end, another one is needed whatever was lost; what strangers serve is no reason.
func (s State) isRestored() bool {
	isServed := false
	for _, t := range s.Targets {
		for _, e := range t.Endpoints {
			if _, ours := s.Known[e.Fingerprint()]; ours && !emergency(e.Certs[0]).After(s.Now) {
				return false
			}
			isServed = isServed || s.isLost(e)
		}
	}
	return isServed && s.Timing.dueAt(s.Latest.NotBefore, s.Latest.NotAfter).After(s.Now)
}

// isUnpublished tells whether the version in use is to be published. One that is served instead stays published: it is what people see, and
// what this host knows it by.
func (s State) isUnpublished() bool { return s.Unpublished && s.Current != nil && !s.isRestored() }

// restored says so.
func (s State) restored() error {
	return hint.Add(fmt.Errorf("version %d is served, which the store has lost: was it restored from an older copy? It is left until its renewal is due, %s", s.Latest.Version, printable.Time(s.Timing.dueAt(s.Latest.NotBefore, s.Latest.NotAfter))),
		"to replace it now: maascert renew --force")
}
