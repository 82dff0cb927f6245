package lifecycle

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/printable"
)

// warnings tell what is as it should be and may not stay so.
func warnings(s State, p Plan, cert Certificate) []string {
	return slices.Concat(trustChange(s, p, cert), revocations(s), rollover(s), watched(s), unsure(s), drift(s, p), issuerExpiry(s, cert.Trust.Roots), limits(s))
}

// unsure tells of endpoints that may be there and are not looked at.
func unsure(s State) []string {
	var found []string
	if doubt := s.lastingDoubt(); doubt != nil {
		found = append(found, withHint(doubt))
	}
	for _, t := range s.Targets {
		for _, e := range t.Endpoints {
			if e.Unlisted {
				found = append(found, fmt.Sprintf("MAAS does not list the region at %s any more; it is asked until that was seen twice", e.Address))
			}
		}
		for _, doubt := range []error{t.Unsure, t.Unlisted} {
			switch {
			case doubt == nil:
			case len(s.Targets) == 1:
				found = append(found, withHint(doubt))
			default:
				found = append(found, t.Name+": "+withHint(doubt))
			}
		}
	}
	return found
}

// rollover tells of an account whose key is between two.
func rollover(s State) []string {
	if !s.Rollover {
		return nil
	}
	return []string{"the ACME account's key is being replaced and that is not concluded: maascert account rollover goes on with it"}
}

// watched tells, from the moment on at which a CA would be asked for it, that another certificate is needed.
func watched(s State) []string {
	if !s.Watched || s.Current == nil || s.dueByLifetime().After(s.Now) {
		return nil
	}
	return []string{fmt.Sprintf("it ends at %s, and the configuration has no CA: bring in another one (maascert deploy)", printable.Time(s.leaf().NotAfter))}
}

// revocations tells what is not revoked yet.
func revocations(s State) []string {
	var found []string
	for _, r := range s.Record.Revocations {
		switch {
		case !r.Done.IsZero():
		case r.Refused != "":
			found = append(found, fmt.Sprintf("version %d is not revoked: the CA refuses: %s", r.Version, r.Refused))
		case s.Current != nil && r.Version == s.Current.Number:
			found = append(found, fmt.Sprintf("version %d is to be revoked when it has been replaced", r.Version))
		case slices.ContainsFunc(s.Targets, func(t TargetState) bool { return t.Unsure != nil }):
			found = append(found, fmt.Sprintf("version %d is not revoked yet: regions that cannot be found may serve it; maascert revoke --first revokes it at once", r.Version))
		default:
			found = append(found, fmt.Sprintf("version %d is not revoked yet: it is when every endpoint serves another", r.Version))
		}
	}
	return found
}

// issuerExpiry warns of CA certificates that expire before the certificate would that follows the one in use: it will be
// cut short, or there will be none.
func issuerExpiry(s State, roots *x509.CertPool) []string {
	if s.Current == nil {
		return nil
	}
	above := s.Current.Bundle.Chain()
	if roots != nil {
		if chains, err := certstore.Verify(s.leaf(), above, roots, s.Now); err == nil {
			above = chains[0][1:]
		}
	}
	var found []string
	follows := s.renewAt().Add(lifetime(s.leaf()))
	for _, ca := range above {
		if ca.NotAfter.Before(follows) {
			found = append(found, fmt.Sprintf("the CA certificate %q expires at %s, before the next certificate would: its operator has to renew it",
				printable.Line(ca.Subject.String(), printable.Word), printable.Time(ca.NotAfter)))
		}
	}
	return found
}

// Let's Encrypt's limits that one deployment can reach by itself: so many certificates for the same names a week, renewals
// by ARI not counted, and so many failed validations of a name an hour.
const (
	sameNamesAWeek = 5
	failuresAnHour = 5
)

// limits warns of the last order before a known limit of the CA, as far as the attempts that are remembered tell.
func limits(s State) []string {
	if s.Wish.Directory != acme.LetsEncrypt {
		return nil
	}
	issued, failed := 0, 0
	for _, a := range s.Record.Attempts {
		age := s.Now.Sub(a.At)
		switch {
		case a.Why == byDeploy, a.Why == byRollback:
		case a.Error == "" && a.Why != string(ARI) && age < 7*24*time.Hour:
			issued++
		// An order that never came to a validation costs nothing.
		case strings.Contains(a.Error, acme.FailedValidation) && a.Stage == string(StageObtain) && age < time.Hour:
			failed += max(1, a.Times)
		}
	}
	var found []string
	if issued >= sameNamesAWeek-1 {
		found = append(found, fmt.Sprintf("%d certificates were ordered within a week; Let's Encrypt issues %d for exactly the same names, and then refuses for days", issued, sameNamesAWeek))
	}
	if failed >= failuresAnHour-1 {
		found = append(found, fmt.Sprintf("%d orders failed within an hour; after %d failed validations of a name Let's Encrypt refuses for an hour: mend the cause first", failed, failuresAnHour))
	}
	return found
}
