package acme

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/printable"
)

// CheckCAA finds CAA records (RFC 8659) that forbid this CA to issue for some names, for this account, or by the way in
// which they are proven (RFC 8657): the reasons by name. A CA that names no identity of its own looks at none.
func (c *Client) CheckCAA(ctx context.Context, names []string) (map[string]string, error) {
	requirements, err := c.Requirements(ctx)
	if err != nil || len(requirements.CAAIdentities) == 0 {
		return nil, err
	}
	account, err := c.accountURL(ctx)
	if err != nil {
		return nil, err
	}
	view := challenge.NewView(c.config.Resolvers, nil)
	reasons := make([]string, len(names))
	var group errgroup.Group
	group.SetLimit(sideBySide)
	for i, name := range names {
		if certstore.IsAddress(name) {
			continue // which CAA says nothing about
		}
		group.Go(func() error {
			set, at, err := caaOf(ctx, view, name)
			if err != nil {
				reasons[i] = fmt.Sprintf("%s: its CAA records cannot be had, which the CA takes for a refusal: %s", name, printable.Phrase(err.Error()))
				return nil
			}
			if why := forbids(set, strings.HasPrefix(name, "*."), requirements.CAAIdentities, account, c.config.Solve(name).Type()); why != "" {
				reasons[i] = fmt.Sprintf("%s: CAA at %s %s", name, at, why)
			}
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	found := map[string]string{}
	for i, name := range names {
		if reasons[i] != "" {
			found[name] = reasons[i]
		}
	}
	return found, nil
}

// caaOf is the set of records that counts for a name: its own, or those of the nearest name above that has any.
func caaOf(ctx context.Context, view *challenge.View, name string) (set []*dns.CAA, at string, err error) {
	name = dns.Fqdn(strings.TrimPrefix(name, "*."))
	for _, index := range dns.Split(name) {
		at = name[index:]
		answer, err := view.Resolve(ctx, at, dns.TypeCAA)
		if err != nil {
			return nil, at, err
		}
		for _, rr := range answer.Answer {
			if record, ok := rr.(*dns.CAA); ok {
				set = append(set, record)
			}
		}
		if len(set) > 0 {
			return set, strings.TrimSuffix(at, "."), nil
		}
	}
	return nil, "", nil
}

// forbids explains why a set of records forbids an issuance; empty when it does not.
func forbids(set []*dns.CAA, wildcard bool, identities []string, account, method string) string {
	tag := "issue"
	if wildcard && slices.ContainsFunc(set, func(r *dns.CAA) bool { return strings.EqualFold(r.Tag, "issuewild") }) {
		tag = "issuewild"
	}
	for _, record := range set {
		if record.Flag&128 != 0 && !slices.Contains([]string{"issue", "issuewild", "iodef"}, strings.ToLower(record.Tag)) {
			return fmt.Sprintf("has a critical property %q that CAs may not know", printable.Phrase(record.Tag))
		}
	}
	why, relevant := "", false
	for _, record := range set {
		if !strings.EqualFold(record.Tag, tag) {
			continue
		}
		relevant = true
		issuer, rest, _ := strings.Cut(record.Value, ";")
		issuer = strings.TrimSpace(issuer)
		if !slices.ContainsFunc(identities, func(identity string) bool { return strings.EqualFold(identity, issuer) }) {
			continue
		}
		one := ""
		for parameter := range strings.SplitSeq(rest, ";") {
			key, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
			switch strings.ToLower(strings.TrimSpace(key)) {
			case "accounturi":
				if strings.TrimSpace(value) != account {
					one = fmt.Sprintf("allows only the account %s", printable.Phrase(value))
				}
			case "validationmethods":
				if !slices.Contains(strings.Split(strings.ReplaceAll(value, " ", ""), ","), method) {
					one = fmt.Sprintf("allows only %s, not %s", printable.Phrase(value), method)
				}
			}
		}
		if one == "" {
			return ""
		}
		why = one
	}
	if why == "" && relevant {
		why = "allows other CAs only; this one is " + strings.Join(identities, " or ")
	}
	return why
}
