// Package providers holds the DNS providers that prove names by dns-01, most of them lego's. It promises that a setting
// under a name that is not the provider's is refused; that what lego's providers take from the environment is there only
// while a provider is built; and that no error tells a secret.
//
// Start reading at [Provider]. To add one, add one of lego's as a row of the table there, with the prefixes of its settings, and a row of
// the tests' table; anything else gets a function that builds a challenge.Records.
package providers

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	legochallenge "github.com/go-acme/lego/v4/challenge"
	"github.com/go-acme/lego/v4/challenge/dns01"
	"github.com/go-acme/lego/v4/log"
	"github.com/go-acme/lego/v4/providers/dns/acmedns"
	"github.com/go-acme/lego/v4/providers/dns/bluecat"
	"github.com/go-acme/lego/v4/providers/dns/cloudflare"
	"github.com/go-acme/lego/v4/providers/dns/designate"
	"github.com/go-acme/lego/v4/providers/dns/digitalocean"
	"github.com/go-acme/lego/v4/providers/dns/httpreq"
	"github.com/go-acme/lego/v4/providers/dns/infoblox"
	"github.com/go-acme/lego/v4/providers/dns/pdns"
	"github.com/go-acme/lego/v4/providers/dns/route53"
	"github.com/miekg/dns"

	"maascert/acme/challenge"
	"maascert/internal/hint"
	"maascert/internal/world"
)

// Provider is a kind of DNS provider.
type Provider struct {
	Prefixes []string // of the names of its settings, such as "RFC2136_"
	// Calls is how many records may be put side by side; 0 stands for 1.
	Calls int
	// New builds the provider from settings that are in the environment while it runs. It may ask the network.
	New func() (legochallenge.Provider, error)

	build func(settings Settings, parts Parts) (challenge.Records, error) // instead of New
}

// Settings are a provider's, by the names that lego gives them.
type Settings map[string]string

// Parts give providers their access to the world.
type Parts struct {
	Runner    world.Runner
	Resolvers []string // that tell zones, as host:port; none: the system's
	Zone      Zone     // MAAS's DNS; nil: there is none
}

// lego makes the providers of its kind that need nothing special.
func lego[T legochallenge.Provider](calls int, build func() (T, error), prefixes ...string) Provider {
	return Provider{Prefixes: prefixes, Calls: calls, New: func() (legochallenge.Provider, error) { return build() }}
}

// A cloud's API takes so many calls at the same time without complaint; acme-dns writes its accounts into one file.
const cloudCalls = 8

var known = map[string]Provider{
	"acme-dns":     lego(1, acmedns.NewDNSProvider, "ACME_DNS_"),
	"bluecat":      lego(1, bluecat.NewDNSProvider, "BLUECAT_"),
	"cloudflare":   lego(cloudCalls, cloudflare.NewDNSProvider, "CLOUDFLARE_", "CF_"),
	"designate":    lego(cloudCalls, designate.NewDNSProvider, "DESIGNATE_", "OS_"),
	"digitalocean": lego(cloudCalls, digitalocean.NewDNSProvider, "DO_"),
	"exec":         {Prefixes: []string{"EXEC_"}, build: newProgram},
	"httpreq":      lego(cloudCalls, httpreq.NewDNSProvider, "HTTPREQ_"),
	"infoblox":     lego(cloudCalls, infoblox.NewDNSProvider, "INFOBLOX_"),
	MAAS:           {Prefixes: []string{"MAAS_"}, build: newMAAS},
	"pdns":         lego(1, pdns.NewDNSProvider, "PDNS_"),
	"rfc2136":      lego(16, newRFC2136, rfc2136Prefixes...),
	"route53":      lego(cloudCalls, route53.NewDNSProvider, "AWS_"),
}

// Add makes another provider known, for programs that are built with more of them. It must be called before any other
// function of this package.
func Add(name string, provider Provider) { known[name] = provider }

// Names are those of all known providers.
func Names() []string { return slices.Sorted(maps.Keys(known)) }

// CheckName tells whether there is a provider of a name.
func CheckName(name string) error {
	if _, ok := known[name]; !ok {
		return fmt.Errorf("%q is unknown; there are: %s", name, strings.Join(Names(), ", "))
	}
	return nil
}

// CheckSetting tells whether a setting's name can be one of a provider's.
func CheckSetting(provider, name string) error {
	prefixes := known[provider].Prefixes
	if !slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
		return fmt.Errorf("%q is no setting of %s: those begin with %s", name, provider, strings.Join(prefixes, " or "))
	}
	return nil
}

var secrets = regexp.MustCompile(`(TOKENS?|PASS|PASSWD|PASSWORD|PASSPHRASE|PWD|SECRET|KEY|HMAC|CREDENTIALS?)$`)

// IsSecret tells by a setting's name whether its value is a secret, which must not stand where it could be read. The TSIG
// key of RFC 2136 is a name.
func IsSecret(name string) bool {
	return secrets.MatchString(name) && !strings.HasSuffix(name, "TSIG_KEY")
}

// counts are settings that lego takes for absent when they are no number.
var counts = regexp.MustCompile(`_(PROPAGATION_TIMEOUT|POLLING_INTERVAL|SEQUENCE_INTERVAL|HTTP_TIMEOUT|DNS_TIMEOUT|TTL)$`)

// CheckValue tells whether a setting's value can be one.
func CheckValue(name, value string) error {
	if n, err := strconv.Atoi(value); counts.MatchString(name) && (err != nil || n < 0) {
		return fmt.Errorf("%s is a whole number of seconds, not %q", name, value)
	}
	return nil
}

// Connect builds a provider. The error tells no secret. A provider that asks the network and gets no answer is left to
// itself when the context ends.
func Connect(ctx context.Context, name string, settings Settings, secrets []string, parts Parts) (challenge.Records, error) {
	provider := known[name]
	hide := redactor(secrets)
	if provider.build != nil {
		records, err := provider.build(settings, parts)
		return records, hide(err)
	}
	type result struct {
		provider legochallenge.Provider
		err      error
	}
	built := make(chan result, 1)
	go func() {
		var r result
		r.err = withEnvironment(settings, parts.Resolvers, func() (err error) {
			r.provider, err = provider.New()
			return err
		})
		built <- r
	}()
	var r result
	select {
	case r = <-built:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := r.err; err != nil {
		return nil, hint.Add(hide(err), "%s takes settings that begin with %s; their names are those of lego's provider of that name",
			name, strings.Join(provider.Prefixes, " or "))
	}
	return &records{provider: r.provider, hide: hide, calls: make(chan struct{}, max(1, provider.Calls)), putting: map[string]chan struct{}{}}, nil
}

// redactor takes secrets out of errors, in each form in which a provider may tell what it sent.
func redactor(secrets []string) func(error) error {
	var forms []string
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		quoted := strconv.Quote(secret)
		forms = append(forms, secret, url.QueryEscape(secret), url.PathEscape(secret), quoted[1:len(quoted)-1],
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)))
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	return func(err error) error {
		if err == nil {
			return nil
		}
		text := err.Error()
		for _, form := range forms {
			text = strings.ReplaceAll(text, form, "…")
		}
		if h := hint.Of(err); h != "" {
			return hint.Add(errors.New(text), "%s", h)
		}
		return errors.New(text)
	}
}

// environment keeps two providers from being built with each other's settings.
var environment sync.Mutex

// withEnvironment runs build while settings are in the process's environment, which is the only way to tell them to
// lego's providers. No program is started meanwhile that would inherit them: world.Exec hands on a short list of names.
func withEnvironment(settings Settings, resolvers []string, build func() error) error {
	environment.Lock()
	defer environment.Unlock()
	if err := resolveBy(resolvers); err != nil {
		return err
	}
	restore, err := world.Setenv(settings)
	if err != nil {
		return err
	}
	defer restore()
	return build()
}

// resolving lists the resolvers that lego's providers ask for zones, process-wide: nil stands for this host's resolvers,
// which they read at the start.
var resolving []string

func resolveBy(resolvers []string) error {
	if slices.Equal(resolving, resolvers) {
		return nil
	}
	servers := resolvers
	if len(servers) == 0 {
		config, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return fmt.Errorf("this host's resolvers: %w", err)
		}
		servers = config.Servers
	}
	resolving = resolvers
	return dns01.AddRecursiveNameservers(servers)(nil)
}

// records are TXT records at a provider of lego's, which knows no context: a call that takes too long is left to itself.
type records struct {
	provider legochallenge.Provider
	hide     func(error) error
	calls    chan struct{}

	mu      sync.Mutex
	putting map[string]chan struct{} // by token: closed when a Put that was left to itself has ended
}

// Patience is the provider's own, which its …_PROPAGATION_TIMEOUT sets.
func (r *records) Patience() time.Duration {
	if p, ok := r.provider.(legochallenge.ProviderTimeout); ok {
		timeout, _ := p.Timeout()
		return timeout
	}
	return 0
}

// Put presents a record.
func (r *records) Put(ctx context.Context, txt challenge.TXT) error {
	done := make(chan struct{})
	r.mu.Lock()
	r.putting[txt.Token] = done
	r.mu.Unlock()
	return r.call(ctx, func() error {
		defer close(done)
		return r.present(txt)
	}, func() { close(done) })
}

// placing is a provider that changes a record where it is told to.
type placing interface {
	PresentAt(fqdn, value string) error
	CleanUpAt(fqdn, value string) error
}

// present puts a record where acme found, and checked, that its name leads. lego's providers look for that place once more
// by themselves, so a DNS answer that is another one by then stops them.
func (r *records) present(txt challenge.TXT) error {
	if p, ok := r.provider.(placing); ok {
		return p.PresentAt(txt.FQDN, txt.Value)
	}
	if at := dns01.GetChallengeInfo(txt.Name, txt.KeyAuthorization).EffectiveFQDN; dns.CanonicalName(at) != dns.CanonicalName(txt.FQDN) {
		return fmt.Errorf("_acme-challenge.%s leads to %s here, and a moment ago to %s", txt.Name, at, txt.FQDN)
	}
	return r.provider.Present(txt.Name, txt.Token, txt.KeyAuthorization)
}

func (r *records) cleanUp(txt challenge.TXT) error {
	if p, ok := r.provider.(placing); ok {
		return p.CleanUpAt(txt.FQDN, txt.Value)
	}
	return r.provider.CleanUp(txt.Name, txt.Token, txt.KeyAuthorization)
}

// Remove cleans a record up, after a Put of it that was left to itself has ended.
func (r *records) Remove(ctx context.Context, txt challenge.TXT) error {
	r.mu.Lock()
	putting := r.putting[txt.Token]
	r.mu.Unlock()
	if putting != nil {
		select {
		case <-putting:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return r.call(ctx, func() error { return r.cleanUp(txt) }, func() {})
}

// call makes one call of the provider's and waits for it no longer than the context lasts. never is called instead when
// there was no turn for it.
func (r *records) call(ctx context.Context, do func() error, never func()) error {
	select {
	case r.calls <- struct{}{}:
	case <-ctx.Done():
		never()
		return context.Cause(ctx)
	}
	result := make(chan error, 1)
	go func() {
		defer func() { <-r.calls }()
		result <- do()
	}()
	select {
	case err := <-result:
		return r.hide(err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func init() {
	// lego's providers talk to a logger of their own; what matters they return as an error.
	log.Logger = quiet{}
}

type quiet struct{}

func (quiet) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (quiet) Fatalln(args ...any)               { panic(fmt.Sprintln(args...)) }
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (quiet) Print(...any)                      {}
func (quiet) Println(...any)                    {}
func (quiet) Printf(string, ...any)             {}
