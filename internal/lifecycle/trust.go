package lifecycle

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// A certificate under another root is good for whoever trusts that root, and locks out whoever was told to trust the former one alone.
// That cannot be seen in what is served, so the roots are remembered: for as long as a certificate lives after the change both are
// published, and it is said who has to be told.

const (
	// maxRoots bounds the roots that are remembered.
	maxRoots = 5
	// briefly is for how long a root is there that nobody was given meanwhile.
	briefly = 6 * time.Hour
)

// rootOf is the root that clients verify a version with: the one that they did before where that still leads there.
func rootOf(version certstore.Version, trust certstore.Trust, before []certstore.Root) *x509.Certificate {
	leaf, chain := version.Bundle.Leaf(), version.Bundle.Chain()
	chains, err := certstore.Verify(leaf, chain, trust.Roots, trust.Time())
	if err != nil {
		return nil
	}
	ends := func(chain []*x509.Certificate) *x509.Certificate { return chain[len(chain)-1] }
	for _, chain := range chains {
		if len(before) > 0 && certstore.Fingerprint(ends(chain)) == before[len(before)-1].Fingerprint {
			return ends(chain)
		}
	}
	return ends(chains[0])
}

// roots are those to be remembered: the present one last, and before it those that were replaced within a lifetime. Hosts may trust
// different roots of one certificate, so what one of them found of it stays.
func (s State) roots() []certstore.Root {
	before := s.Record.Roots
	if s.Root == nil || s.Current == nil {
		return before
	}
	kept := slices.DeleteFunc(slices.Clone(before), func(r certstore.Root) bool { return !r.Until.IsZero() && !r.Until.After(s.Now) })
	last := len(kept) - 1
	if last >= 0 && kept[last].Version == s.Current.Number {
		return kept
	}
	fingerprint := certstore.Fingerprint(s.Root)
	if last >= 0 && kept[last].Fingerprint == fingerprint {
		kept[last].Version = s.Current.Number
		return kept
	}
	if last > 0 && kept[last-1].Fingerprint == fingerprint && s.Now.Sub(kept[last].Since) < briefly {
		kept = kept[:last] // somebody went back from one that was hardly there
	}
	for i := range kept {
		if kept[i].Until.IsZero() {
			kept[i].Until = s.Now.Add(lifetime(s.leaf())).UTC()
		}
	}
	kept = slices.DeleteFunc(kept, func(r certstore.Root) bool { return r.Fingerprint == fingerprint })
	kept = append(kept, certstore.Root{
		Fingerprint: fingerprint, Subject: printable.Phrase(s.Root.Subject.String()), Version: s.Current.Number, Since: s.Now.UTC(),
		PEM: string(certstore.EncodeCertificates([]*x509.Certificate{s.Root})),
	})
	return kept[max(0, len(kept)-maxRoots):]
}

func sameRoots(a, b []certstore.Root) bool {
	return slices.EqualFunc(a, b, func(a, b certstore.Root) bool {
		return a.Fingerprint == b.Fingerprint && a.Version == b.Version && a.Until.Equal(b.Until)
	})
}

// FormerRoots are those that were replaced within a lifetime.
func (v View) FormerRoots() []*x509.Certificate {
	return rootsOf(v.Plan.Roots, func(r certstore.Root) bool { return !r.Until.IsZero() })
}

// rootsOf are the certificates of some roots.
func rootsOf(roots []certstore.Root, isMeant func(certstore.Root) bool) []*x509.Certificate {
	var meant []*x509.Certificate
	for _, r := range roots {
		if certs, err := certstore.ParseCertificates([]byte(r.PEM)); err == nil && isMeant(r) {
			meant = append(meant, certs...)
		}
	}
	return meant
}

// RootsPEM are what clients are to trust as one file: the configured roots, none for the system's; with them those that were replaced
// within a lifetime, and the one under which the certificate was issued that is in use, although the configuration trusts another now.
func (v View) RootsPEM(configured []byte) []byte {
	isPresent := func(r certstore.Root) bool {
		return v.State.Root != nil && r.Fingerprint == certstore.Fingerprint(v.State.Root)
	}
	others := rootsOf(v.Plan.Roots, func(r certstore.Root) bool { return !isPresent(r) })
	if len(others) == 0 {
		return configured
	}
	var all []*x509.Certificate
	add := func(certs []*x509.Certificate) {
		for _, cert := range certs {
			if !slices.ContainsFunc(all, cert.Equal) {
				all = append(all, cert)
			}
		}
	}
	if certs, err := certstore.ParseCertificates(configured); err == nil {
		add(certs)
	} else if v.State.Root != nil {
		add([]*x509.Certificate{v.State.Root})
	}
	add(others)
	return certstore.EncodeCertificates(all)
}

// trustChange says loudly that clients have to be told of another root, or will have to be, and which are known to refuse it.
func trustChange(s State, p Plan, cert Certificate) []string {
	n := len(p.Roots)
	if n > 0 && p.Why == IssuerChanged {
		return []string{fmt.Sprintf("THE NEXT CERTIFICATE COMES FROM ANOTHER CA: clients that pin the root %q (profiles of the maas command, Terraform's provider, Juju's clouds, scripts) have to be given that CA's root first", p.Roots[n-1].Subject)}
	}
	if n < 2 || s.Root == nil {
		return nil
	}
	now, former := p.Roots[n-1], p.Roots[n-2]
	found := []string{fmt.Sprintf(
		"CLIENTS MUST TRUST ANOTHER ROOT since %s: %q instead of %q. Who pins the former one refuses the certificate: profiles of the maas command (maas login --cacerts), Terraform's provider, Juju's clouds, scripts. %s holds both until %s; give it to them",
		printable.Time(now.Since), now.Subject, former.Subject, cert.RootsFile, printable.Time(former.Until))}
	if len(s.Broken) > 0 {
		var names []string
		for _, profile := range s.Broken[:min(len(s.Broken), 10)] {
			names = append(names, profile.String())
		}
		found = append(found, fmt.Sprintf("profiles of the maas command on this host that refuse the certificate now: %s; as its user, for each: maas logout PROFILE; maas login --cacerts FILE PROFILE URL, with a copy of %s that the command can read (the snap: in a home)",
			strings.Join(names, ", "), cert.RootsFile))
	}
	return found
}

// lookAtRoots finds out which root the version in use leads to, and, for a lifetime after a change, who refuses it.
func (e *Engine) lookAtRoots(cert Certificate, state *State) {
	if state.Current == nil {
		return
	}
	state.Root = rootOf(*state.Current, cert.Trust, state.Record.Roots)
	if former := (View{State: *state, Plan: Plan{Roots: state.roots()}}).FormerRoots(); len(former) > 0 && e.Broken != nil {
		state.Broken = e.Broken(former, state.Current.Bundle, cert.Trust)
	}
}

// Pinned finds the profiles of the maas command on this host that trust former roots alone and refuse a bundle.
type Pinned func(former []*x509.Certificate, served *certstore.Bundle, trust certstore.Trust) []maasconfig.Profile
