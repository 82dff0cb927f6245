package maasconfig

import (
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"maascert/certstore"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Profile is a profile of the maas command on this host that trusts only what it was once given (MAAS fact 4.7).
type Profile struct {
	Name string
	Home string // of whose it is
}

// String says whose profile it is.
func (p Profile) String() string { return fmt.Sprintf("%s (in %s)", p.Name, p.Home) }

const (
	// profileCerts is where the command keeps, below a home, what each of its profiles trusts; with the snap the home is another one.
	profileCerts = ".maascli.certs"
	snapHome     = "snap/maas/current"
	// A host has so many homes and profiles that are looked at.
	mostHomes    = 100
	mostProfiles = 20
	// mostPinned is how many bytes of certificates a profile may have.
	mostPinned = 32 << 10
)

// BrokenProfiles are the profiles of the maas command on this host that pin a former root and refuse what is served now.
func BrokenProfiles(fsys world.FS, former []*x509.Certificate, served *certstore.Bundle, trust certstore.Trust) []Profile {
	homes := []string{"/root"}
	// A host without /home has no homes there.
	entries, _ := fsys.ReadDir("/home")
	for _, entry := range entries[:min(len(entries), mostHomes)] {
		homes = append(homes, filepath.Join("/home", entry.Name()))
	}
	var broken []Profile
	for _, home := range homes {
		broken = append(broken, brokenBelow(fsys, home, former, served, trust)...)
	}
	return broken
}

// brokenBelow looks below one home, whose owner may have fewer rights than we: nothing is followed out of it.
func brokenBelow(fsys world.FS, home string, former []*x509.Certificate, served *certstore.Bundle, trust certstore.Trust) []Profile {
	root, err := fsys.OpenRoot(home)
	if err != nil {
		return nil
	}
	defer root.Close()
	var broken []Profile
	for _, below := range []string{profileCerts, filepath.Join(snapHome, profileCerts)} {
		// Most homes have none.
		files, _ := root.ReadDir(below, mostProfiles)
		slices.Sort(files)
		for _, file := range files {
			path := filepath.Join(below, file)
			name, isPEM := strings.CutSuffix(file, ".pem")
			if info, err := root.Stat(path); !isPEM || err != nil || info.Size() > mostPinned {
				continue
			}
			text, err := root.ReadFile(path)
			if err == nil && refuses(text, former, served, trust) {
				broken = append(broken, Profile{printable.Line(name, 100), home})
			}
		}
	}
	return broken
}

// refuses tells whether who pins some certificates trusted a former root, and does not trust what is served now.
func refuses(text []byte, former []*x509.Certificate, served *certstore.Bundle, trust certstore.Trust) bool {
	pinned, err := certstore.ParseCertificates(text)
	if err != nil {
		return false
	}
	pool := x509.NewCertPool()
	for _, cert := range pinned {
		pool.AddCert(cert)
	}
	if _, err := certstore.Verify(served.Leaf(), served.Chain(), pool, trust.Time()); err == nil {
		return false
	}
	return slices.ContainsFunc(pinned, func(cert *x509.Certificate) bool {
		return slices.ContainsFunc(former, func(root *x509.Certificate) bool {
			return cert.Equal(root) || cert.CheckSignatureFrom(root) == nil
		})
	})
}
