//go:build faults

package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/postgres"
	"maascert/certstore/postgres/postgrestest"
	"maascert/certstore/sealed"
	"maascert/certstore/vaultkeys/vaulttest"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
)

// walked is a site whose every touch of the world can be made to go wrong: a CA, a MAAS of three regions, a proxy, two notifiers, and a store.
type walked struct {
	*site
	front *tlsService
	hook  *httptest.Server
	walk  *worldtest.Walk
	mu    sync.Mutex // guards walk
	store func() certstore.Store

	isApart bool // keys are kept apart from the store
}

// A walk with keys in Vault knows a request by its path without what is another one each time.
var (
	folderOfKeys = regexp.MustCompile(`/[A-Z2-7]{26}`)
	nameOfKey    = regexp.MustCompile(`(/versions/maas)/\d+|/[0-9a-f]{64}`)
)

func startWalked(t *testing.T, url string, vault *vaulttest.Server) *walked {
	t.Helper()
	w := &walked{site: startSite(t), isApart: vault != nil} // whose store is files, unless there is a database
	w.front = startService(t, w.site, "files")
	w.hook = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.serve("webhook", rw, r, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(http.StatusNoContent) }))
	}))
	t.Cleanup(w.hook.Close)
	path := filepath.Join(w.dir, "maascert.yaml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	config := strings.Replace(string(text), "verify_timeout: 20s", "verify_timeout: 2s", 1) + "notify:\n  - {name: hook, type: webhook, url: \"file:hook.url\", retries: 0}\n  - {name: script, type: exec, command: [\"true\"]}\n"
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "hook.url"), []byte(w.hook.URL), 0o600))
	w.store = func() certstore.Store {
		return certstore.NewFileStore(world.OS{}, filepath.Join(w.dir, "state", "store"))
	}
	if url != "" {
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, "store.url"), []byte(url), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, "store.seal"), []byte(strings.Repeat("seal", 10)), 0o600))
		plain, err := openDatabase(postgres.Config{URL: url, Node: "region1"})
		require.NoError(t, err)
		t.Cleanup(func() { closeStore(plain) })
		w.store = func() certstore.Store { return plain }
		if vault == nil {
			config += "store: {type: postgres, url: \"file:store.url\", seal: \"file:store.seal\"}\n"
			opened, err := sealed.New(plain, strings.Repeat("seal", 10))
			require.NoError(t, err)
			w.store = func() certstore.Store { return opened }
		}
	}
	if vault != nil {
		address := vault.Intercept(t, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			at := nameOfKey.ReplaceAllString(folderOfKeys.ReplaceAllString(r.URL.Path, "/FOLDER"), "$1/KEY")
			w.serve("Vault "+r.Method+" "+at, rw, r, next)
		})
		begins := "{type: file, "
		if url != "" {
			begins = "{type: postgres, url: \"file:store.url\", "
		}
		config += keysInVault(t, w.site, vault, address, begins)
		keys, base := openVault(t, vault), w.store
		w.store = func() certstore.Store { return certstore.NewKeysApart(base(), keys) }
	}
	require.NoError(t, os.WriteFile(path, []byte(config), 0o640))
	w.ca.Intercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		w.serve("CA "+r.Method+" "+r.URL.Path, rw, r, next)
	})
	return w
}

// serve answers a request at a point of the walk.
func (w *walked) serve(what string, rw http.ResponseWriter, r *http.Request, next http.Handler) {
	w.mu.Lock()
	walk := w.walk
	w.mu.Unlock()
	answer := httptest.NewRecorder()
	if err := walk.Do(what, worldtest.Acts, func() error {
		next.ServeHTTP(answer, r)
		return nil
	}); err != nil {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(rw.Header(), answer.Header())
	rw.WriteHeader(answer.Code)
	_, _ = io.Copy(rw, answer.Body)
}

// run runs the program in the world of a walk.
func (w *walked) run(t *testing.T, walk *worldtest.Walk, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	words := []string{w.dir, "DIR", w.front.address, "FRONT"}
	for n, region := range w.maas.Regions {
		words = append(words, region.Address.String()+":", fmt.Sprintf("REGION%d:", n+1))
	}
	walk.Alike = strings.NewReplacer(words...)
	w.mu.Lock()
	w.walk = walk
	w.mu.Unlock()
	var out, errs bytes.Buffer
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	walk.Cancel = cancel
	a := testApp(w.hostOf(walk.FS(world.OS{})))
	a.stdin, a.stdout, a.stderr, a.reach, a.listening = null, &out, &errs, walk.Dial(port80(strconv.Itoa(w.ca.HTTPPort))), nil
	a.programs, a.dial = walk.Runner(world.Exec{}), walk.Dial(a.dial)
	a.database = func(c postgres.Config) (certstore.Store, error) {
		store, err := openDatabase(c)
		if err != nil {
			return nil, err
		}
		return walk.Store(store), nil
	}
	code = a.run(ctx, append([]string{"maascert", "--config", filepath.Join(w.dir, "maascert.yaml")}, args...))
	return code, out.String(), errs.String()
}

// served are the fingerprints that every endpoint serves, by its address; empty for none.
func (w *walked) served() map[string]string {
	all := map[string]string{w.front.address: w.front.serves()}
	for _, region := range w.maas.Regions {
		all[region.Address.String()+":5443"] = ""
		if leaf := region.Serves(5443); leaf != nil {
			all[region.Address.String()+":5443"] = certstore.Fingerprint(leaf)
		}
	}
	return all
}

// renewedAs is what renew --json says of the one certificate.
type renewedAs struct {
	Certificates []struct {
		Obtained    bool            `json:"obtained"`
		Version     int             `json:"version"`
		Fingerprint string          `json:"fingerprint"`
		Deployed    map[string]bool `json:"deployed"`
		Endpoints   []servedAs      `json:"endpoints"`
	} `json:"certificates"`
}

type servedAs struct {
	Address string `json:"address"`
	State   string `json:"state"`
}

// isTrue checks that nothing was said that is not so.
func (w *walked) isTrue(t *testing.T, code int, stdout string) {
	t.Helper()
	var doc renewedAs
	require.NoError(t, json.Unmarshal([]byte(stdout), &doc), stdout)
	served := w.served()
	if code == exitOK {
		require.Len(t, doc.Certificates, 1, stdout)
	}
	for _, c := range doc.Certificates {
		for _, e := range c.Endpoints {
			if e.State == "match" {
				require.Equal(t, c.Fingerprint, served[e.Address], "%s is said to serve it", e.Address)
			}
		}
		for target, is := range c.Deployed {
			for address, fingerprint := range served {
				if isFront := address == w.front.address; is && isFront == (target == "front") {
					require.Equal(t, c.Fingerprint, fingerprint, "%s is said to have it deployed: %s", target, address)
				}
			}
		}
		if c.Obtained {
			version, err := certstore.LoadVersion(t.Context(), w.store(), "maas", c.Version)
			require.NoError(t, err, "it is said to be there")
			require.Equal(t, c.Fingerprint, version.Bundle.Fingerprint())
		}
		if code == exitOK {
			for address, fingerprint := range served {
				require.Equal(t, c.Fingerprint, fingerprint, "all is said to be well: %s", address)
			}
		}
	}
}

// isSafe checks what holds at any moment, also after a crash: an endpoint that served a certificate serves one, the store can be read, and no
// key lies where none belongs.
func (w *walked) isSafe(t *testing.T) {
	t.Helper()
	ledger, err := certstore.OpenLedger(t.Context(), w.store(), "maas")
	require.NoError(t, err)
	for address, fingerprint := range w.served() {
		require.Contains(t, ledger.Versions(), fingerprint, "%s serves neither the old nor the new certificate", address)
	}
	current, err := ledger.Version(t.Context(), ledger.Record().Current)
	require.NoError(t, err)
	require.NoError(t, current.Bundle.CheckKey(t.Context()), "its key is there")
	_, err = ledger.Order(t.Context())
	require.NoError(t, err)
	_, err = certstore.LoadNodes(t.Context(), w.store(), time.Now())
	require.NoError(t, err)
	require.NoError(t, filepath.WalkDir(w.dir, func(path string, entry fs.DirEntry, err error) error {
		relative := strings.TrimPrefix(path, w.dir+"/")
		if err != nil || entry.IsDir() {
			places := []string{"stage", "front", "region1", "region2", "region3"}
			if !w.isApart {
				places = append(places, "state/store")
			}
			if os.IsNotExist(err) || slices.Contains(places, relative) {
				return fs.SkipDir
			}
			return err
		}
		text, err := os.ReadFile(path)
		require.NotContains(t, string(text), "PRIVATE KEY", path)
		return err
	}))
}

// isConverged checks that a run without faults left everything as it should be.
func (w *walked) isConverged(t *testing.T, orders int) {
	t.Helper()
	record, _, err := certstore.LoadRecord(t.Context(), w.store(), "maas")
	require.NoError(t, err)
	require.Nil(t, record.Order)
	require.Nil(t, record.Attempt)
	version, err := certstore.LoadVersion(t.Context(), w.store(), "maas", record.Current)
	require.NoError(t, err)
	for address, fingerprint := range w.served() {
		require.Equal(t, version.Bundle.Fingerprint(), fingerprint, address)
	}
	require.LessOrEqual(t, w.ca.Orders(), orders, "one extra order at the most")
	entries, err := os.ReadDir(filepath.Join(w.dir, "stage"))
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	require.Empty(t, entries, "no stage is left")
	require.NotContains(t, w.front.files(t), "maascert-")
}

// faulty is a point and what goes wrong there.
type faulty struct {
	worldtest.Point
	fault worldtest.Fault
}

// aroundKeys are the points at which a key in Vault may get lost: where it is asked, where the CA issues, and where the documents are written that
// name the key.
var aroundKeys = regexp.MustCompile(`^Vault |finalize|certZ|state/maas|versions/maas`)

// chosenFaults are those of a walk. Of what is done over and over, such as looking whether a folder is there, the first and the last time stand
// for all, unless everything is wanted. times is how often each is done in every renewal.
func chosenFaults(seen []worldtest.Seen, times map[string]int, kind string, hasVault, all bool) (points int, faults []faulty) {
	for _, s := range seen {
		last := times[s.What]
		isElsewhere := hasVault && !aroundKeys.MatchString(s.What) // it is walked with keys in the store
		if s.Nth > last || !all && (isElsewhere || s.Nth > 1 && s.Nth < last) {
			continue
		}
		points++
		for _, fault := range s.Kind.Faults() {
			if fault != worldtest.LockLost || kind == "postgres" { // a lock of files is lost with the process alone
				faults = append(faults, faulty{s.Point, fault})
			}
		}
	}
	return points, faults
}

// databases gives out empty databases, of which a test has one for itself.
func databases(server *postgrestest.Server) func(t *testing.T) (url string) {
	var mu sync.Mutex
	urls, idle := map[string]string{}, []string{}
	return func(t *testing.T) string {
		mu.Lock()
		defer mu.Unlock()
		if len(idle) == 0 {
			name := fmt.Sprintf("walk%d", len(urls))
			urls[name], idle = server.Database(name), append(idle, name)
		}
		name := idle[0]
		idle = idle[1:]
		server.Exec(name, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public AUTHORIZATION maascert")
		t.Cleanup(func() {
			mu.Lock()
			defer mu.Unlock()
			idle = append(idle, name)
		})
		return urls[name]
	}
}

// Whatever goes wrong at whatever point of a renewal, with each kind of store: what was served stays served or the new certificate is, nothing is
// said that was not seen, no key gets out, and the next run leaves everything as it should be with one extra order at the most; where a back-off
// holds that one back, it is one that a person forces.
func TestFaultsAtEveryPoint(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"files", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			walkFaults(t, kind, nil)
		})
	}
}

// walkFaults walks with a kind of store, and with its keys in a Vault or in it.
func walkFaults(t *testing.T, kind string, vault *vaulttest.Server) {
	free := func(*testing.T) string { return "" }
	if kind == "postgres" {
		free = databases(postgrestest.Start(t))
	}
	whole := startWalked(t, free(t), vault)
	code, _, stderr := whole.run(t, &worldtest.Walk{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	var seen []worldtest.Seen
	times := map[string]int{} // that something is done in each of some renewals: one may look at an order once more than another
	for round := range 4 {
		walk := &worldtest.Walk{}
		code, stdout, stderr := whole.run(t, walk, "renew", "--force", "--json")
		require.Zero(t, code, stderr)
		whole.isTrue(t, code, stdout)
		whole.isConverged(t, 2+round)
		seen = walk.Seen()
		this := map[string]int{}
		for _, s := range seen {
			this[s.What] = max(this[s.What], s.Nth)
		}
		for what, n := range this {
			if least, isKnown := times[what]; !isKnown && round == 0 || isKnown && n < least {
				times[what] = n
			}
		}
		for what := range times {
			if this[what] == 0 {
				delete(times, what)
			}
		}
	}
	points, faults := chosenFaults(seen, times, kind, vault != nil, os.Getenv("FAULTS") == "all")
	var walked, missed atomic.Int32
	t.Run("walk", func(t *testing.T) {
		for _, f := range faults {
			t.Run(fmt.Sprintf("%s: %s", f.fault, f.Point), func(t *testing.T) {
				t.Parallel()
				w := startWalked(t, free(t), vault)
				code, _, stderr := w.run(t, &worldtest.Walk{}, "renew", "--enable-tls")
				require.Zero(t, code, stderr)
				walk := &worldtest.Walk{At: f.Point, Fault: f.fault}
				code, stdout, stderr := w.run(t, walk, "renew", "--force", "--json")
				if !walk.IsDone() { // the CA was asked less often, or endpoints in another order
					missed.Add(1)
				} else {
					walked.Add(1)
				}
				w.isSafe(t)
				if !walk.IsDead() {
					w.isTrue(t, code, stdout)
				}
				if strings.Contains(stderr, certstore.ErrLockLost.Error()) { // which tells nobody what to do
					require.Contains(t, stderr, "hint: ")
				}
				then := fmt.Sprintf("with the fault: exit %d\n%s", code, stderr)
				if code, stdout, stderr = w.run(t, &worldtest.Walk{}, "renew", "--json"); code == exitNotNow {
					code, stdout, stderr = w.run(t, &worldtest.Walk{}, "renew", "--force", "--json")
				}
				require.Zero(t, code, "%s\nafter it: %s\n%s", then, stderr, stdout)
				w.isTrue(t, code, stdout)
				w.isSafe(t)
				w.isConverged(t, 3)
			})
		}
	})
	with := kind
	if vault != nil {
		with += " with keys in Vault"
	}
	t.Logf("%s: %d of the %d points of a renewal, %d faults; %d were not reached", with, points, len(seen), walked.Load(), missed.Load())
	require.EqualValues(t, len(faults), walked.Load()+missed.Load())
	require.Less(t, int(missed.Load()), len(faults)/10)
}
