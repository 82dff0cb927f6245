package certstore

import (
	"fmt"
	"net/netip"
	"strings"
)

// whyNoName says what is wrong with a text that is neither a DNS name (RFC 1123 section 2.1) nor an IP address, and what to write instead
// where that can be told.
func whyNoName(text string) error {
	bare := strings.TrimSuffix(strings.TrimPrefix(text, "*."), ".")
	_, isNetwork := netip.ParsePrefix(text)
	host, _, hasPort := strings.Cut(text, ":")
	switch {
	case strings.Contains(text, "://"):
		return fmt.Errorf("%s: this is a URL; write the name alone", text)
	case isNetwork == nil:
		return fmt.Errorf("%s: this is a network; write each address", text)
	case strings.ContainsAny(text, " \t\n"):
		return fmt.Errorf("%q: a name has no spaces; each name is an entry of its own", text)
	case strings.Contains(text, "@"):
		return fmt.Errorf("%s: this is a mail address; write the name alone", text)
	case hasPort && strings.Count(text, ":") == 1:
		return fmt.Errorf("%s: a certificate knows no ports; write %s", text, host)
	case strings.Contains(text, "/"):
		return fmt.Errorf("%s: a name has no slash", text)
	case strings.Contains(bare, "*"):
		return fmt.Errorf("%s: an asterisk stands for the first part of a name alone: *.example.com", text)
	case strings.Contains(text, ".."), strings.HasPrefix(bare, "."):
		return fmt.Errorf("%s: there is nothing between two dots, or before the first", text)
	case strings.Contains(text, "_"):
		return fmt.Errorf("%s: no name in a certificate has an underscore; letters, digits and hyphens may be in one", text)
	case strings.Trim(bare, "0123456789.") == "":
		return fmt.Errorf("%s: this is no IPv4 address, which has four numbers from 0 to 255, and no name ends in a number", text)
	case len(bare) > 253:
		return fmt.Errorf("%.40s…: a name has 253 characters at most, not %d", text, len(bare))
	}
	for label := range strings.SplitSeq(bare, ".") {
		switch {
		case strings.HasPrefix(label, "-"), strings.HasSuffix(label, "-"):
			return fmt.Errorf("%s: no part of a name begins or ends with a hyphen", text)
		case len(label) > 63:
			return fmt.Errorf("%s: a part of a name has 63 characters at most, not %d", text, len(label))
		}
	}
	return fmt.Errorf("%s: this is no DNS name or IP address; letters, digits and hyphens may be in a name, and it does not end in a number", text)
}
