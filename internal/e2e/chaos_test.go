//go:build e2e

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/fleettest"
)

// audit has PostgreSQL write down, beside every document, who wrote it and who held the lock then.
const audit = `create table if not exists public.audit (at timestamptz default clock_timestamp(), name text, writer inet, holder text);
create or replace function public.audit() returns trigger language plpgsql security definer as $$ begin
	insert into public.audit (name, writer, holder) values (new.name, inet_client_addr(), (select node from maascert.fence where lock = 'maas'));
	return new;
end $$;
drop trigger if exists audit on maascert.document;
create trigger audit after insert or update on maascert.document for each row execute function public.audit();`

// chaos is a fleet to which things happen.
type chaos struct {
	*testing.T
	fleet    *fleettest.Fleet
	random   *rand.Rand
	known    map[string]bool // serial numbers of versions that the store was seen to have
	kinds    []string        // of what happens, each as often as it stands there
	deck     []string        // what is yet to happen before all of it happens again
	happened map[string]int
	freed    time.Duration // the longest time after which the lock of a host that was cut off was free

	mu    sync.Mutex
	split time.Duration // the longest time in which regions served different certificates
	end   chan struct{}
	ended chan struct{}
}

// everything is what can happen.
var everything = []string{"kill", "kill", "kill", "cut from the store", "cut from the CA", "database restarted", "failed over"}

// Whatever happens to a host, to its way to the store or to the CA, and to the database, at whatever moment of a renewal: the fleet comes to
// serve one certificate everywhere, no key that the CA certified is lost, and who lost the lock writes nothing. MAASCERT_SOAK_ROUNDS and
// MAASCERT_SOAK_SEED choose how often and which.
func TestChaos(t *testing.T) {
	c := newChaos(t, fleettest.Options{Sync: true}, everything)
	if c == nil {
		return
	}
	c.run(number("MAASCERT_SOAK_ROUNDS", 25))
	require.Empty(t, c.lost())
}

// Where a follower does not have all that the database said it had written, a fail-over costs an order at most.
func TestFailOverWithoutSynchronousReplication(t *testing.T) {
	c := newChaos(t, fleettest.Options{}, []string{"failed over"})
	if c == nil {
		return
	}
	const rounds = 5
	c.run(rounds)
	t.Logf("%d keys were lost in %d fail-overs", len(c.lost()), rounds)
	require.LessOrEqual(t, len(c.lost()), rounds)
	require.LessOrEqual(t, c.fleet.CA.Orders(), 1+rounds+rounds)
}

// newChaos starts a fleet; nil where the test is over.
func newChaos(t *testing.T, options fleettest.Options, kinds []string) *chaos {
	t.Helper()
	options.Validity, options.More = 24*time.Hour, "listen: \"\"\nrehearse: never\n"
	f := fleet(t, options)
	if f == nil {
		return nil
	}
	c := &chaos{
		T: t, fleet: f, random: rand.New(rand.NewPCG(uint64(number("MAASCERT_SOAK_SEED", 1)), 0)), kinds: kinds, known: map[string]bool{}, happened: map[string]int{},
		end: make(chan struct{}), ended: make(chan struct{}),
	}
	for _, h := range f.Hosts {
		h.Edit("key_type: ec256", "key_type: ec256, keep: 10")
		h.Run()
	}
	converged(t, f, time.Minute)
	f.Primary.Exec("maascert", audit)
	return c
}

// run makes rounds and says what they came to.
func (c *chaos) run(rounds int) {
	c.Helper()
	go c.watch()
	var slowest time.Duration
	for n := range rounds {
		began := time.Now()
		c.round(n)
		slowest = max(slowest, time.Since(began))
	}
	close(c.end)
	<-c.ended
	f := c.fleet
	versions := f.Primary.CountIn("maascert", "select count(*) from public.audit where name like 'versions/%'")
	strangers := f.Primary.CountIn("maascert", "select count(*) from public.audit where name like 'versions/%' and holder is distinct from 'region' || (split_part(host(writer), '.', 4)::int - 10)")
	c.Logf("%d rounds, seed %d: %v; the slowest took %v", rounds, number("MAASCERT_SOAK_SEED", 1), c.happened, slowest.Round(time.Second))
	c.Logf("%d orders, %d certificates issued, of which the keys of %d are lost; regions served different ones for %v at most; %d calls of config-tls",
		f.CA.Orders(), len(f.CA.Issued()), len(c.lost()), c.split.Round(time.Millisecond), len(f.MAAS.Calls()))
	c.Logf("%d versions were written, %d of them by a host that did not hold the lock; that of a host that was cut off was free after %v at most", versions, strangers, c.freed.Round(100*time.Millisecond))
	require.NotZero(c, versions)
	require.Zero(c, strangers)
	require.LessOrEqual(c, c.split, 10*time.Second)
	searchForKeys(c.T, f)
}

// lost are the serial numbers of certificates whose keys the store was never seen to have.
func (c *chaos) lost() []string {
	return slices.DeleteFunc(c.fleet.CA.Issued(), func(serial string) bool { return c.known[serial] })
}

// watch measures for how long regions serve different certificates.
func (c *chaos) watch() {
	defer close(c.ended)
	var since time.Time
	for {
		select {
		case <-c.end:
			return
		case <-time.After(100 * time.Millisecond):
		}
		var seen []*x509.Certificate
		for _, region := range c.fleet.MAAS.Regions {
			if leaf := region.Serves(5443); leaf != nil && !slices.ContainsFunc(seen, leaf.Equal) {
				seen = append(seen, leaf)
			}
		}
		switch {
		case len(seen) < 2:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		default:
			c.mu.Lock()
			c.split = max(c.split, time.Since(since))
			c.mu.Unlock()
		}
	}
}

// moment is a random one within a renewal.
func (c *chaos) moment(most time.Duration) time.Duration {
	return time.Duration(c.random.Int64N(int64(most)))
}

// round has a host renew, and something happen meanwhile.
func (c *chaos) round(n int) {
	c.Helper()
	f := c.fleet
	renewing := f.Hosts[c.random.IntN(len(f.Hosts))]
	victim := renewing
	if c.random.IntN(3) == 0 {
		victim = f.Hosts[c.random.IntN(len(f.Hosts))]
	}
	if len(c.deck) == 0 {
		c.deck = slices.Clone(c.kinds)
		c.random.Shuffle(len(c.deck), func(i, j int) { c.deck[i], c.deck[j] = c.deck[j], c.deck[i] })
	}
	kind := c.deck[0]
	c.deck = c.deck[1:]
	after, lasts := c.moment(1200*time.Millisecond), c.moment(4*time.Second)
	c.happened[kind]++
	ctx, kill := context.WithCancel(c.Context())
	defer kill()
	done := make(chan string, 1)
	go func() {
		out, code := renewing.Maascert(ctx, "renew", "--force")
		done <- fmt.Sprintf("exit %d: %s", code, out)
	}()
	time.Sleep(after)
	switch kind {
	case "kill":
		if victim == renewing {
			kill()
		}
		victim.Kill()
		time.Sleep(lasts)
		victim.Run()
	case "cut from the store":
		victim.Cut(fleettest.Store)
		if c.happened[kind]%4 == 1 { // until the lock, if it has it, must be free
			lasts = c.waitForLock(victim) + time.Second
		}
		time.Sleep(lasts)
		victim.Mend(fleettest.Store)
	case "cut from the CA":
		victim.Cut(fleettest.CA)
		time.Sleep(lasts)
		victim.Mend(fleettest.CA)
	case "database restarted":
		f.Primary.Down()
		time.Sleep(lasts)
		f.Primary.Up()
	case "Vault sealed":
		f.Vault.Seal()
		time.Sleep(lasts)
		f.Vault.Unseal()
	case "Vault restarted":
		f.Vault.Restart()
		time.Sleep(lasts)
		f.Vault.Unseal()
	case "token revoked":
		f.Vault.RevokeTokens()
	case "failed over":
		f.FailOver()
		time.Sleep(lasts)
		f.Heal()
	}
	said := <-done
	if strings.HasPrefix(kind, "Vault ") && !strings.HasPrefix(said, "exit 0") {
		// What a person began while the daemons had nothing to do, the next pass goes on with, whoever makes it.
		out, code := renewing.Maascert(c.Context(), "renew", "--wait", "1m")
		said += fmt.Sprintf("\nand then exit %d: %s", code, out)
	}
	began := time.Now()
	what := fmt.Sprintf("round %d: %s renews, %s (%s) after %v for %v", n, renewing.Name, kind, victim.Name, after.Round(time.Millisecond), lasts.Round(time.Millisecond))
	c.settle(what, said)
	c.Logf("%s: settled after %v", what, time.Since(began).Round(10*time.Millisecond))
	if lost := c.lost(); len(lost) > 0 {
		c.Logf("keys that are lost by now: %v; the renewal said: %s", lost, said)
	}
}

// waitForLock waits until a host that is cut off from the store holds no lock there any more, as others see it.
func (c *chaos) waitForLock(h *fleettest.Host) time.Duration {
	c.Helper()
	const query = "select count(*) from pg_locks join pg_stat_activity using (pid) where locktype = 'advisory' and client_addr = '%s'"
	began := time.Now()
	held := false
	for c.fleet.Primary.CountIn("maascert", fmt.Sprintf(query, h.StoreAddress())) > 0 {
		held = true
		require.Less(c, time.Since(began), 30*time.Second, "the lock of a host that is cut off is not free")
		time.Sleep(100 * time.Millisecond)
	}
	if held {
		c.freed = max(c.freed, time.Since(began))
	}
	return time.Since(began)
}

// settle waits until the fleet is one again.
func (c *chaos) settle(what, said string) {
	c.Helper()
	for began := time.Now(); ; time.Sleep(250 * time.Millisecond) {
		unsettled := c.unsettled()
		if unsettled == "" {
			return
		}
		if time.Since(began) > 3*time.Minute {
			require.Fail(c, "it does not settle", "%s: %s\nthe renewal said: %s", what, unsettled, said)
		}
	}
}

// unsettled is why the fleet is not one yet; empty: it is.
func (c *chaos) unsettled() string {
	c.Helper()
	leaf := c.fleet.Converged()
	if leaf == nil {
		return "not everybody serves the same"
	}
	for _, h := range c.fleet.Hosts {
		if out, code := h.Maascert(c.Context(), "status"); code != 0 {
			return h.Name + ": " + out
		}
	}
	store := c.fleet.Store()
	defer store.(interface{ Close() }).Close()
	record, _, err := certstore.LoadRecord(c.Context(), store, "maas")
	require.NoError(c, err)
	if record.Order != nil || record.Attempt != nil || record.Versions[certstore.Fingerprint(leaf)].Number != record.Current {
		return fmt.Sprintf("order %v, attempt %v, current %d, served %s", record.Order != nil, record.Attempt, record.Current, certstore.Fingerprint(leaf))
	}
	for _, info := range record.Versions {
		version, err := certstore.LoadVersion(c.Context(), store, "maas", info.Number)
		require.NoError(c, err)
		require.NoError(c, version.Bundle.CheckKey(c.Context()))
		c.known[hex.EncodeToString(version.Bundle.Leaf().SerialNumber.Bytes())] = true
	}
	return ""
}

func number(variable string, usual int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	return usual
}
