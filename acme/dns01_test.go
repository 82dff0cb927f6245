package acme_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/world/worldtest"
)

// zone is a DNS provider whose zone is the CA's name server. Like the worst of the real ones it keeps one record per name.
type zone struct {
	dns  *acmetest.DNS
	late time.Duration // until a record is there
	fail error

	mu   sync.Mutex
	puts int
}

func (z *zone) Patience() time.Duration { return 20 * time.Second }

func (z *zone) Put(_ context.Context, r challenge.TXT) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.puts++
	if z.fail != nil {
		return z.fail
	}
	for _, there := range z.dns.TXT() {
		if name, value, _ := strings.Cut(there, " "); name == r.FQDN {
			z.dns.Remove(name, value)
		}
	}
	if z.late > 0 {
		time.AfterFunc(z.late, func() { z.dns.Put(r.FQDN, r.Value) })
		return nil
	}
	z.dns.Put(r.FQDN, r.Value)
	return nil
}

func (z *zone) Remove(_ context.Context, r challenge.TXT) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.fail != nil {
		return z.fail
	}
	z.dns.Remove(r.FQDN, r.Value)
	return nil
}

// dns01 proves names by records in a zone. Whoever asks port 53 of any host asks the CA's name server.
func dns01(z *zone) *challenge.DNS {
	return &challenge.DNS{
		Connect:   func(context.Context) (challenge.Records, error) { return z, nil },
		Resolvers: []string{z.dns.Address},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if _, port, err := net.SplitHostPort(address); err == nil && port == "53" {
				address = z.dns.Address
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
}

func withDNS(solver challenge.Solver) func(*acme.Config) {
	return func(c *acme.Config) { c.Solve = always(solver) }
}

func TestDNSProvesNamesAndWildcards(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca, withDNS(dns01(&zone{dns: ca.DNS})))
	asked := request("maas.example", "*.maas.example", "region1.maas.example")
	noted := new(notes)
	asked.Note = noted.note
	issued, err := c.Obtain(t.Context(), asked)
	require.NoError(t, err)
	require.Equal(t, []string{"*.maas.example", "maas.example", "region1.maas.example"}, certstore.CertificateNames(issued.Bundle.Leaf()))
	require.Empty(t, issued.Warnings)
	require.Empty(t, ca.DNS.TXT(), "no record is left")
	require.Len(t, ca.DNS.Puts(), 3)
	require.Len(t, noted.most(), 3, "all were written down before they were visible")
	require.Empty(t, noted.last(), "and none is left written down")
}

// notes remembers what was written down of answers.
type notes struct {
	mu  sync.Mutex
	all [][]certstore.Answer
}

func (n *notes) note(answers []certstore.Answer) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, answers)
	return nil
}

func (n *notes) last() []certstore.Answer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all[len(n.all)-1]
}

func (n *notes) most() []certstore.Answer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.MaxFunc(n.all, func(a, b []certstore.Answer) int { return len(a) - len(b) })
}

func TestDNSFollowsADelegation(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	// Two names lead to one place, where only one record can stand at a time.
	ca.DNS.Alias("_acme-challenge.a.example", "here.delegated.test")
	ca.DNS.Alias("_acme-challenge.b.example", "there.delegated.test")
	ca.DNS.Alias("there.delegated.test", "here.delegated.test")
	c := client(t, ca, withDNS(dns01(&zone{dns: ca.DNS})))
	_, err := c.Obtain(t.Context(), request("a.example", "b.example"))
	require.NoError(t, err)
	require.Empty(t, ca.DNS.TXT())
	for _, name := range ca.DNS.Puts() {
		require.Equal(t, "here.delegated.test.", name)
	}
}

func TestDNSWaitsUntilEveryServerHasTheRecord(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca, withDNS(dns01(&zone{dns: ca.DNS, late: 700 * time.Millisecond})))
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.Challenge) && len(ca.DNS.TXT()) < 2 {
			t.Error("the CA was told to look before the records were there")
		}
		next.ServeHTTP(w, r)
	})
	_, err := c.Obtain(t.Context(), request("a.example", "b.example"))
	require.NoError(t, err)
}

// One server of two has the record: the CA is not asked.
func TestDNSAsksEveryServer(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	second, err := acmetest.StartDNS(0)
	require.NoError(t, err)
	t.Cleanup(second.Stop)
	require.NoError(t, ca.DNS.Set("example. 1 IN NS ns1.example.", "example. 1 IN NS ns2.example.", "ns2.example. 1 IN A 127.0.0.9"))
	z := &impatient{zone{dns: ca.DNS}}
	solver := dns01(&z.zone)
	solver.Connect = func(context.Context) (challenge.Records, error) { return z, nil }
	dial := solver.Dial
	solver.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "127.0.0.9:53" {
			address = second.Address
		}
		return dial(ctx, network, address)
	}
	c := client(t, ca, withDNS(solver))
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "ns2.example: it does not have it yet")
	require.Zero(t, ca.Count(acmetest.Challenge))
	require.Empty(t, ca.DNS.TXT())

	ca.DNS.OnPut(second.Put)
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
}

// impatient gives up quickly.
type impatient struct{ zone }

func (*impatient) Patience() time.Duration { return 500 * time.Millisecond }

// A dead or lame server beside one that has the record holds nothing up for long; where none answers, as behind a
// firewall, the resolvers are asked.
func TestDNSGoesOnWithoutServersThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string][]string{
		"one of two": {"example. 1 IN NS ns1.example.", "example. 1 IN NS ns2.example.", "ns2.example. 1 IN A 127.0.0.9"},
		"all":        {"example. 1 IN NS ns2.example.", "ns2.example. 1 IN A 127.0.0.9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := acmetest.New(t, acmetest.Options{})
			require.NoError(t, ca.DNS.Set(lines...))
			z := &impatient{zone{dns: ca.DNS}}
			solver := dns01(&z.zone)
			solver.Connect = func(context.Context) (challenge.Records, error) { return z, nil }
			dial := solver.Dial
			solver.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if address == "127.0.0.9:53" {
					return nil, errors.New("refused")
				}
				return dial(ctx, network, address)
			}
			_, err := client(t, ca, withDNS(solver)).Obtain(t.Context(), request("a.example"))
			require.NoError(t, err)
		})
	}
}

func TestDNSFails(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	z := &zone{dns: ca.DNS, fail: errors.New("no such zone")}
	_, err := client(t, ca, withDNS(dns01(z))).Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "dns-01: a.example: no such zone")
	require.Zero(t, ca.Count(acmetest.Challenge))

	solver := dns01(z)
	solver.Connect = func(context.Context) (challenge.Records, error) { return nil, errors.New("credentials are missing") }
	_, err = client(t, ca, withDNS(solver)).Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "dns-01: credentials are missing")
	require.Equal(t, 1, ca.Orders(), "nothing is ordered without a provider")

	ca.DNS.Fail("_acme-challenge.b.example", dns.RcodeServerFailure)
	impatient := &impatient{zone{dns: ca.DNS}}
	solver.Connect = func(context.Context) (challenge.Records, error) { return impatient, nil }
	_, err = client(t, ca, withDNS(solver)).Obtain(t.Context(), request("b.example"))
	require.ErrorContains(t, err, "where _acme-challenge.b.example leads cannot be found out: ")
	require.Empty(t, ca.DNS.TXT())
}

// What a run that was killed left visible is taken away by the next one, and by Retract where there is no order to make.
func TestDNSTakesAwayWhatAKilledRunLeft(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca, withDNS(dns01(&zone{dns: ca.DNS})))
	asked := request("a.example", "*.a.example")
	killed, noted := new(saves), new(notes)
	asked.Save, asked.Note = killed.save, func(answers []certstore.Answer) error {
		if len(answers) == 0 {
			return nil
		}
		return noted.note(answers)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	ca.DNS.OnPut(func(string, string) { cancel(errors.New("killed")) })
	_, err := c.Obtain(ctx, asked)
	require.Error(t, err)
	ca.DNS.OnPut(nil)
	left := noted.all[0]
	require.Len(t, left, 2)
	require.Empty(t, ca.DNS.TXT(), "a cancel takes them away")

	// Killed for good: they are still there.
	ca.DNS.Put("_acme-challenge.gone.example", "other")
	ca.DNS.Put("_acme-challenge.gone.example", digest("t.p"))
	again := request("a.example", "*.a.example")
	again.Leftovers = append(left, certstore.Answer{Type: "dns-01", Name: "*.gone.example", Token: "t", Thumbprint: "p", At: time.Now()})
	again.Note, again.Resume = noted.note, &killed.orders[0]
	_, err = c.Obtain(t.Context(), again)
	require.NoError(t, err)
	require.Empty(t, noted.last())
	require.Equal(t, []string{"_acme-challenge.gone.example. other"}, ca.DNS.TXT(), "nobody else's record is touched")
	ca.DNS.Remove("_acme-challenge.gone.example", "other")

	ca.DNS.Put("_acme-challenge.c.example", digest("token.thumbprint"))
	before := ca.Orders()
	stays, err := c.Retract(t.Context(), []certstore.Answer{{Type: "dns-01", Name: "c.example", Token: "token", Thumbprint: "thumbprint", At: time.Now()}})
	require.NoError(t, err)
	require.Empty(t, stays)
	require.Equal(t, before, ca.Orders())
	require.Empty(t, ca.DNS.TXT())
}

// digest is a key authorization as a TXT record holds it.
func digest(keyAuthorization string) string {
	sum := sha256.Sum256([]byte(keyAuthorization))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func TestDNSKeepsInMindWhatItCannotTakeAway(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	z := &zone{dns: ca.DNS}
	c := client(t, ca, withDNS(dns01(z)))
	asked, noted := request("a.example"), new(notes)
	asked.Note = noted.note
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.Challenge) {
			z.mu.Lock()
			z.fail = errors.New("the API is down")
			z.mu.Unlock()
		}
		next.ServeHTTP(w, r)
	})
	issued, err := c.Obtain(t.Context(), asked)
	require.NoError(t, err, "the certificate is there all the same")
	require.Len(t, issued.Warnings, 1)
	require.Contains(t, issued.Warnings[0], "the API is down")
	require.Len(t, noted.last(), 1)

	stays, err := c.Retract(t.Context(), noted.last())
	require.ErrorContains(t, err, "the API is down")
	require.Len(t, stays, 1)
	z.fail = nil
	stays, err = c.Retract(t.Context(), stays)
	require.NoError(t, err)
	require.Empty(t, stays)
	require.Empty(t, ca.DNS.TXT())

	old := []certstore.Answer{{Type: "dns-01", Name: "a.example", Token: "t", Thumbprint: "p", At: time.Now().Add(-8 * 24 * time.Hour)}}
	z.fail = errors.New("still down")
	stays, err = c.Retract(t.Context(), old)
	require.ErrorContains(t, err, "is given up: the TXT record _acme-challenge.a.example.", "after a week")
	require.Empty(t, stays)
}

// What an earlier run left is for a name that is no longer ordered, or is proven in another way now.
func TestDNSAnswersOfNamesThatAreNoLongerOrdered(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	web := &challenge.Responder{Address: "127.0.0.1:" + strconv.Itoa(ca.HTTPPort)}
	z := &zone{dns: ca.DNS}
	solver := dns01(z)
	c := client(t, ca, func(c *acme.Config) {
		c.Solve = func(name string) challenge.Solver {
			if strings.HasSuffix(name, "b.example") {
				return solver
			}
			return web
		}
	})
	ca.DNS.Put("_acme-challenge.b.example", digest("t.p"))
	left := []certstore.Answer{
		{Type: "dns-01", Name: "*.b.example", Token: "t", Thumbprint: "p", At: time.Now()},
		{Type: "dns-01", Name: "c.example", Token: "t", Thumbprint: "p", At: time.Now()},
	}
	asked, noted := request("a.example"), new(notes)
	asked.Leftovers, asked.Note = left, noted.note
	issued, err := c.Obtain(t.Context(), asked)
	require.NoError(t, err)
	require.Empty(t, ca.DNS.TXT())
	require.Empty(t, noted.last())
	require.Len(t, issued.Warnings, 1)
	require.Contains(t, issued.Warnings[0], "c.example is not proven by dns-01 any more, so nothing takes away the TXT record _acme-challenge.c.example.")

	stays, err := c.Retract(t.Context(), left[1:])
	require.ErrorContains(t, err, "nothing takes away")
	require.Empty(t, stays)

	// The provider cannot be had now: the certificate is there all the same, and the answer stays written down.
	broken := dns01(z)
	broken.Connect = func(context.Context) (challenge.Records, error) { return nil, errors.New("no credentials") }
	solver = broken
	asked.Leftovers = left[:1]
	issued, err = c.Obtain(t.Context(), asked)
	require.NoError(t, err)
	require.Contains(t, issued.Warnings[0], "no credentials")
	stays, err = c.Retract(t.Context(), left[:1])
	require.ErrorContains(t, err, "no credentials")
	require.Len(t, stays, 1)
}

// Where a CNAME leads cannot be found out: nothing is done at the wrong place. What was written down says where.
func TestDNSWithoutAWordAboutTheCNAME(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca, withDNS(dns01(&zone{dns: ca.DNS})))
	ca.DNS.Put("there.delegated.test", digest("t.p"))
	ca.DNS.Fail("_acme-challenge.a.example", dns.RcodeServerFailure)
	left := certstore.Answer{Type: "dns-01", Name: "a.example", Token: "t", Thumbprint: "p", At: time.Now()}
	stays, err := c.Retract(t.Context(), []certstore.Answer{left})
	require.ErrorContains(t, err, "where _acme-challenge.a.example leads cannot be found out")
	require.Len(t, stays, 1)
	left.Place = "there.delegated.test."
	stays, err = c.Retract(t.Context(), []certstore.Answer{left})
	require.NoError(t, err)
	require.Empty(t, stays)
	require.Empty(t, ca.DNS.TXT())
}

// One name fails while two others take turns at one place: the order is over, and does not wait for their turn.
func TestDNSAnOrderThatFailedIsOver(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{Sleep: 5})
	z := &zone{dns: ca.DNS}
	solver := dns01(z)
	c := client(t, ca, withDNS(solver))
	ca.DNS.Fail("_acme-challenge.b.example", dns.RcodeServerFailure)
	ca.DNS.Alias("_acme-challenge.a.example", "here.test")
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.Challenge) {
			http.Error(w, "refused", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
	begun := time.Now()
	_, err := c.Obtain(t.Context(), request("a.example", "*.a.example", "b.example"))
	require.Error(t, err)
	require.Less(t, time.Since(begun), 20*time.Second)
	require.Empty(t, ca.DNS.TXT())
}

// A record that stays does not stop the next one at its place.
func TestDNSAWildcardAndItsBaseNameWhereNothingIsRemoved(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	z := &sticky{zone{dns: ca.DNS}}
	solver := dns01(&z.zone)
	solver.Connect = func(context.Context) (challenge.Records, error) { return z, nil }
	issued, err := client(t, ca, withDNS(solver)).Obtain(t.Context(), request("a.example", "*.a.example"))
	require.NoError(t, err)
	require.NotEmpty(t, issued.Warnings)
}

// sticky refuses to remove records.
type sticky struct{ zone }

func (*sticky) Remove(context.Context, challenge.TXT) error { return errors.New("not allowed") }

func TestDNSRehearsalLeavesNoRecord(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca, withDNS(dns01(&zone{dns: ca.DNS})))
	_, err := c.Rehearse(t.Context(), request("a.example", "*.a.example"), false)
	require.NoError(t, err)
	require.Empty(t, ca.DNS.TXT())
	require.Empty(t, ca.Issued())
}

// Interrupted at any request to the CA or change of the zone: the run is over within a second and no record is left.
func TestDNSInterruptedAnywhereLeavesNoRecord(t *testing.T) {
	t.Parallel()
	asked := request("a.example", "*.a.example", "b.example")
	whole := acmetest.New(t, acmetest.Options{})
	_, err := client(t, whole, withDNS(dns01(&zone{dns: whole.DNS}))).Obtain(t.Context(), asked)
	require.NoError(t, err)
	moments := len(whole.Requests()) + len(whole.DNS.Puts())
	for n := 1; n <= moments; n++ {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			ca := acmetest.New(t, acmetest.Options{})
			ctx, cancel := context.WithCancelCause(t.Context())
			var count atomic.Int32
			var begun atomic.Int64
			moment := func() {
				if count.Add(1) == int32(n) {
					begun.Store(time.Now().UnixNano())
					cancel(errors.New("interrupted"))
				}
			}
			ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				moment()
				next.ServeHTTP(w, r)
			})
			ca.DNS.OnPut(func(string, string) { moment() })
			// The last moments may come too late to interrupt anything.
			_, _ = client(t, ca, withDNS(dns01(&zone{dns: ca.DNS}))).Obtain(ctx, asked)
			if at := begun.Load(); at != 0 {
				require.Less(t, time.Since(time.Unix(0, at)), worldtest.AtOnce)
			}
			require.Empty(t, ca.DNS.TXT())
		})
	}
}

// A provider that hangs does not hold up an interrupted run.
func TestDNSInterruptedWhileTheProviderHangs(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	hanging := &hanging{zone: zone{dns: ca.DNS}, called: make(chan struct{})}
	solver := dns01(&hanging.zone)
	solver.Connect = func(context.Context) (challenge.Records, error) { return hanging, nil }
	ctx, cancel := context.WithCancelCause(t.Context())
	asked, noted := request("a.example"), new(notes)
	asked.Note = noted.note
	var begun time.Time
	go func() {
		<-hanging.called
		begun = time.Now()
		cancel(errors.New("interrupted"))
	}()
	_, err := client(t, ca, withDNS(solver)).Obtain(ctx, asked)
	require.ErrorContains(t, err, "interrupted")
	require.Less(t, time.Since(begun), worldtest.AtOnce)
	require.Len(t, noted.last(), 1, "it stays written down, because the record may still appear")
}

// hanging takes calls and never comes back before their context ends.
type hanging struct {
	zone
	called chan struct{}
}

func (h *hanging) Put(ctx context.Context, _ challenge.TXT) error {
	close(h.called)
	<-ctx.Done()
	return context.Cause(ctx)
}

func (*hanging) Remove(ctx context.Context, _ challenge.TXT) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// S7, S9: where a CNAME leads is no place for a record when it is a whole zone, or no name at all.
func TestS7ACNAMELeadsOnlyWhereARecordMayStand(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"victim.":                "which is a whole zone",
		"-rf.example.":           "a name that is none for a record",
		`a\;b.example.`:          "a name that is none for a record",
		`$\(reboot\).example.`:   "a name that is none for a record",
		`tab\009.example.`:       "a name that is none for a record",
		"_acme.other.example.":   "",
		"x-1.auth_2.example.":    "",
		"_acme-challenge.a.org.": "",
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			ca := acmetest.New(t, acmetest.Options{})
			ca.DNS.Alias("_acme-challenge.a.example.", target)
			z := &zone{dns: ca.DNS}
			_, err := client(t, ca, withDNS(dns01(z))).Obtain(t.Context(), request("a.example"))
			if want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, want)
			require.Zero(t, z.puts, "nothing was changed")
		})
	}
}

// S7: nor is one of the certificate's own names, whose TXT records may be an SPF policy.
func TestS7ACNAMELeadsToNoneOfTheCertificatesNames(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"a.example.", "mail.b.example.", "wild.example."} {
		ca := acmetest.New(t, acmetest.Options{})
		ca.DNS.Alias("_acme-challenge.a.example.", target)
		z := &zone{dns: ca.DNS}
		_, err := client(t, ca, withDNS(dns01(z))).Obtain(t.Context(), request("a.example", "mail.b.example", "*.wild.example"))
		require.ErrorContains(t, err, "a name of the certificate")
		require.Zero(t, z.puts, "nothing was changed")
	}
}

// S8: a zone that names hundreds of servers with hundreds of addresses has a few of them asked, and a few at a time.
func TestS8AZoneDoesNotChooseHowManySocketsAreOpened(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	for n := range 20 {
		require.NoError(t, ca.DNS.Set(fmt.Sprintf("example. 1 IN NS ns%d.example.", n)))
		for m := range 20 {
			require.NoError(t, ca.DNS.Set(fmt.Sprintf("ns%d.example. 1 IN A 127.9.%d.%d", n, n, m+1)))
		}
	}
	solver := dns01(&zone{dns: ca.DNS})
	dial := solver.Dial
	var mu sync.Mutex
	asked, open, most := map[string]bool{}, 0, 0
	solver.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(address, "127.9.") {
			asked[address] = true
		}
		packets, isUDP := conn.(*net.UDPConn)
		if err != nil || !isUDP {
			return conn, err
		}
		open++
		most = max(most, open)
		return &counted{UDPConn: packets, closed: sync.OnceFunc(func() {
			mu.Lock()
			defer mu.Unlock()
			open--
		})}, nil
	}
	_, err := client(t, ca, withDNS(solver)).Obtain(t.Context(), request("a.example"))
	require.NoError(t, err)
	require.LessOrEqual(t, len(asked), 16*8)
	require.LessOrEqual(t, most, 50)
}

type counted struct {
	*net.UDPConn
	closed func()
}

func (c *counted) Close() error {
	c.closed()
	return c.UDPConn.Close()
}
