package command

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"path/filepath"
	"sync"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
	"maascert/internal/world"
)

// sightings are the newest version of each certificate that this host saw, for the day on which the store is restored from an older copy. It
// begins with what lies in the public folder since the last pass.
type sightings struct {
	fsys world.FS
	dir  string // the public folder

	mu   sync.Mutex
	seen map[string]certstore.Seen
}

// latest is the newest version of a certificate.
func (m *sightings) latest(cert string) certstore.Seen {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recall(cert)
}

func (m *sightings) recall(cert string) certstore.Seen {
	if _, known := m.seen[cert]; !known {
		if m.seen == nil {
			m.seen = map[string]certstore.Seen{}
		}
		m.seen[cert] = m.published(cert)
	}
	return m.seen[cert]
}

// published is the version whose chain lies in the public folder; what cannot be read there is not remembered.
func (m *sightings) published(cert string) (seen certstore.Seen) {
	var status report.Public
	named := "" // fingerprint of the version that the status names
	if text, err := m.fsys.ReadFile(filepath.Join(m.dir, "status.json")); err == nil && json.Unmarshal(text, &status) == nil {
		for _, one := range status.Certificates {
			if one.Name == cert {
				seen.Highest, named = one.Version, one.Fingerprint
			}
		}
	}
	text, err := m.fsys.ReadFile(filepath.Join(m.dir, cert+".pem"))
	if err != nil {
		return seen
	}
	if block, _ := pem.Decode(text); block != nil {
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil {
			seen.Fingerprint, seen.NotBefore, seen.NotAfter = certstore.Fingerprint(leaf), leaf.NotBefore.UTC(), leaf.NotAfter.UTC()
			if seen.Fingerprint == named {
				seen.Version = seen.Highest
			}
		}
	}
	return seen
}

// saw remembers what a pass left.
func (m *sightings) saw(cert string, view lifecycle.View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := m.recall(cert)
	for fingerprint, version := range view.State.Known {
		one := certstore.Seen{Highest: version.Number}
		if version.Number == view.Version() {
			one = certstore.Seen{Version: version.Number, Fingerprint: fingerprint, NotBefore: version.NotBefore, NotAfter: version.NotAfter}
		}
		seen = seen.Newest(one)
	}
	m.seen[cert] = seen
}
