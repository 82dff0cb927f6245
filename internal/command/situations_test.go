package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// situation is a deployment as somebody on call may find it.
type situation struct {
	*testing.T
	*site
	fsys      world.FS
	authority *certtest.Authority // whom clients trust beside the CA
	before    string              // a text that was changed
}

func (s *situation) store() certstore.Store {
	return certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "state", "store"))
}

func (s *situation) update(change func(*certstore.Record)) {
	s.Helper()
	ledger, err := certstore.OpenLedger(s.Context(), s.store(), "maas")
	require.NoError(s, err)
	require.NoError(s, ledger.Update(s.Context(), change))
}

// aged has the version in use be one of an age, served everywhere.
func (s *situation) aged(age, lifetime time.Duration) {
	s.Helper()
	bundle, err := s.authority.Issue(certstore.EC256, age, lifetime, "maas.example.internal", "region1.example.internal")
	require.NoError(s, err)
	ledger, err := certstore.OpenLedger(s.Context(), s.store(), "maas")
	require.NoError(s, err)
	version, err := ledger.Add(s.Context(), certstore.Version{Origin: certstore.FromACME, Created: time.Now().Add(-age), Directory: s.ca.Directory, Bundle: bundle})
	require.NoError(s, err)
	s.update(func(r *certstore.Record) {
		d := r.Deployments["maas"]
		d.Version, d.Verified = version.Number, version.Number
		r.Current, r.Deployments["maas"] = version.Number, d
	})
	s.serves(bundle)
}

func (s *situation) serves(bundle *certstore.Bundle) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), runTime)
	defer cancel()
	require.NoError(s, s.maas.Enable(ctx, bundle, 5443))
}

func (s *situation) run(args ...string) (code int, said string) {
	code, stdout, stderr := inSite(s.T, s.site, s.fsys, args...)
	return code, stdout + stderr
}

// off switches TLS off, as somebody does by hand.
func (s *situation) off() {
	s.maas.Set(nil)
	require.Eventually(s, func() bool { return s.maas.Regions[0].Serves(5443) == nil && s.maas.Regions[2].Serves(5443) == nil }, runTime, time.Millisecond)
}

const years = 90 * 24 * time.Hour

// situations are what may be found, each made of a deployment that is as it should be, but for those that begin with nothing.
var situations = []struct {
	name    string
	nothing bool // no certificate was ever obtained
	make    func(s *situation)
}{
	{name: "fresh", make: func(*situation) {}},
	{name: "due", make: func(s *situation) { s.aged(60*24*time.Hour+time.Hour, years) }},
	{name: "overdue", make: func(s *situation) { s.aged(75*24*time.Hour, years) }},
	{name: "last tenth", make: func(s *situation) { s.aged(85*24*time.Hour, years) }},
	{name: "expired", make: func(s *situation) { s.aged(92*24*time.Hour, years) }},
	{name: "not yet valid", make: func(s *situation) { s.aged(-3*time.Hour, years) }},
	{name: "region down", make: func(s *situation) { s.maas.Regions[1].StopProxy() }},
	{name: "region deaf", make: func(s *situation) {
		s.maas.Regions[1].Break(maastest.Fault{Deaf: true})
		s.run("renew", "--force")
	}},
	{name: "region slow", make: func(s *situation) {
		s.maas.Regions[1].Break(maastest.Fault{Slow: time.Hour})
		s.run("renew", "--force")
	}},
	{name: "foreign", make: func(s *situation) {
		bundle, err := s.authority.Issue(certstore.EC256, 0, years, "maas.example.internal", "region1.example.internal")
		require.NoError(s, err)
		s.serves(bundle)
	}},
	{name: "our older version", make: func(s *situation) {
		ledger, err := certstore.OpenLedger(s.Context(), s.store(), "maas")
		require.NoError(s, err)
		first, err := ledger.Version(s.Context(), 1)
		require.NoError(s, err)
		s.run("renew", "--force")
		s.serves(first.Bundle)
	}},
	{name: "incomplete chain", make: func(s *situation) {
		ledger, err := certstore.OpenLedger(s.Context(), s.store(), "maas")
		require.NoError(s, err)
		first, err := ledger.Version(s.Context(), 1)
		require.NoError(s, err)
		alone, err := certstore.Parse(first.Bundle.KeyPEM(), first.Bundle.LeafPEM())
		require.NoError(s, err)
		s.serves(alone)
		require.Eventually(s, func() bool { // the leaf is the one that was served before
			return !slices.ContainsFunc(s.maas.Endpoints(), func(endpoint string) bool {
				address := net.JoinHostPort(strings.Split(endpoint, ":")[0], "5443")
				return len(maasconfig.Handshake(s.Context(), new(net.Dialer).DialContext, address, "maas.example.internal").Certs) != 1
			})
		}, runTime, time.Millisecond)
	}},
	{name: "untrusted", make: func(s *situation) {
		require.NoError(s, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), s.authority.RootPEM(), 0o644))
	}},
	{name: "TLS was never on", nothing: true, make: func(*situation) {}},
	{name: "TLS off after it was on", make: func(s *situation) { s.off() }},
	{name: "CA down", make: func(s *situation) {
		s.aged(75*24*time.Hour, years)
		s.ca.Stop()
		s.down = true
	}},
	{name: "CA asks to wait", make: func(s *situation) {
		s.aged(75*24*time.Hour, years)
		instead(acmetest.NewOrder, func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "7200")
			return problem(w, http.StatusTooManyRequests, "rateLimited", "too many certificates")
		})(s.T, s.site)
		s.run("renew")
	}},
	{name: "guard refuses", nothing: true, make: func(s *situation) {
		bundle, err := s.authority.Issue(certstore.EC256, 0, years, "maas.example.internal", "old.example.internal")
		require.NoError(s, err)
		s.serves(bundle)
	}},
	{name: "held", make: func(s *situation) {
		s.run("renew", "--force")
		s.run("rollback")
	}},
	{name: "rolled back twice", make: func(s *situation) {
		for _, region := range s.maas.Regions {
			region.Break(maastest.Fault{Refuse: true})
		}
		s.run("renew", "--force")
		s.run("renew")
	}},
	{name: "interrupted", make: func(s *situation) {
		s.aged(75*24*time.Hour, years)
		s.update(func(r *certstore.Record) {
			r.Attempt = &certstore.Attempt{At: time.Now().UTC(), Node: "region1", Why: "lifetime"}
		})
	}},
	{name: "damaged record", make: func(s *situation) {
		require.NoError(s, os.WriteFile(filepath.Join(s.dir, "state", "store", "state", "maas"), []byte("{"), 0o600))
	}},
	{name: "damaged account", make: func(s *situation) {
		require.NoError(s, os.WriteFile(filepath.Join(s.dir, "state", "store", "account"), []byte("{"), 0o600))
	}},
	{name: "rollover cut off", make: func(s *situation) {
		account, revision, err := certstore.LoadAccount(s.Context(), s.store())
		require.NoError(s, err)
		account.NextKey = account.Key
		_, err = certstore.SaveAccount(s.Context(), s.store(), account, revision)
		require.NoError(s, err)
	}},
	{name: "names added", make: func(s *situation) {
		s.edit(s.T, "region1.example.internal]", "region1.example.internal, region2.example.internal]")
	}},
	{name: "names removed", make: func(s *situation) {
		s.edit(s.T, ", region1.example.internal]", "]")
	}},
	{name: "no daemon for two days", make: func(s *situation) {
		require.NoError(s, certstore.UpdateNode(s.Context(), s.store(), "region1", func(n *certstore.Node) {
			n.LastPass, n.LastRun = time.Now().Add(-48*time.Hour), time.Now().Add(-48*time.Hour)
		}))
		path := filepath.Join(s.dir, "state", "public", "status.json")
		text, err := os.ReadFile(path)
		require.NoError(s, err)
		stale := regexp.MustCompile(`"(at|stale_after)": "[^"]+"`).ReplaceAllString(string(text), fmt.Sprintf(`"$1": %q`, time.Now().Add(-36*time.Hour).UTC().Format(time.RFC3339)))
		require.NoError(s, os.WriteFile(path, []byte(stale), 0o644))
	}},
	{name: "clock wrong by two days", make: func(s *situation) {
		s.aged(75*24*time.Hour, years)
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Date", time.Now().Add(48*time.Hour).UTC().Format(http.TimeFormat))
			next.ServeHTTP(w, r)
		})
	}},
	{name: "disk full", make: func(s *situation) {
		s.aged(75*24*time.Hour, years)
		s.fsys = worldtest.FS{FS: world.OS{}, Fail: func(op, name string) error {
			if op == "Writable" && filepath.Base(name) == "store" {
				return fmt.Errorf("write %s: %w", name, syscall.ENOSPC)
			}
			return nil
		}}
	}},
	{name: "one of two targets refuses", make: func(s *situation) {
		require.NoError(s, os.Mkdir(filepath.Join(s.dir, "open"), 0o700))
		require.NoError(s, os.Chmod(filepath.Join(s.dir, "open"), 0o777))
		s.edit(s.T, "key_type: ec256}", "key_type: ec256, targets: [maas, front]}", "targets:\n", "targets:\n  front: {type: files, pem: open/front.pem, reload: [\"true\"], endpoints: [\"127.0.0.1:1\"]}\n")
		s.aged(75*24*time.Hour, years)
	}},
}

// unlike are parts of what is said that differ from run to run.
var unlike = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`20\d\d-\d\d-\d\d \d\d:\d\d UTC`), "TIME"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "FINGERPRINT"},
	{regexp.MustCompile(`sha256:[0-9a-f]{12}`), "FINGERPRINT"},
	{regexp.MustCompile(`Pebble (Intermediate|Root) CA [0-9a-f]{6}`), "Pebble $1 CA"},
	{regexp.MustCompile(`https://127\.0\.0\.1:\d+`), "https://ca.example"},
	{regexp.MustCompile(`127\.0\.0\.1:\d{4,5}`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`renewal TIME \(in \d+ days\)`), "renewal TIME (in N days)"}, // the CA's window is a wide one
	{regexp.MustCompile(`(clock is )\S+`), "${1}48h0m0s"},
	{regexp.MustCompile(`\(\d+ minutes ago\)`), "(N minutes ago)"},
	{regexp.MustCompile(`\d+ requests to the CA`), "N requests to the CA"},
	{regexp.MustCompile(`process \d+`), "process N"},
	{regexp.MustCompile(`('[a-z_]+(age|left)')=\S+`), "$1=N"},
	{regexp.MustCompile(`\bRANDOM\b|stage/[A-Z0-9]{26}`), "stage/RANDOM"},
	{regexp.MustCompile(`(current time |is before |is after )20\S+`), "${1}TIME"},
}

func (s *situation) alike(text string) string {
	text = strings.ReplaceAll(text, s.dir, "DIR")
	for i, region := range s.maas.Regions {
		text = regexp.MustCompile(regexp.QuoteMeta(region.Address.String())+`\b`).ReplaceAllString(text, fmt.Sprintf("10.0.0.1%d", i+1))
	}
	for _, one := range unlike {
		text = one.pattern.ReplaceAllString(text, one.instead)
	}
	return text
}

// What each command says of each situation, and its exit code. Read them as if it were three in the morning: status alone has to say what
// to do. UPDATE_GOLDEN=1 writes them anew.
func TestSituations(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(situations), 30)
	for _, row := range situations {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := &situation{T: t, site: startSite(t), fsys: world.OS{}}
			var err error
			s.authority, err = certtest.NewAuthority()
			require.NoError(t, err)
			roots := append(s.ca.Root(0), s.authority.RootPEM()...)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), roots, 0o644))
			s.edit(t, "verify_timeout: 20s", "verify_timeout: 2s")
			if !row.nothing {
				code, said := s.run("renew", "--enable-tls")
				require.Zero(t, code, said)
				now := time.Now()
				require.NoError(t, certstore.UpdateNode(t.Context(), s.store(), "region1", func(n *certstore.Node) { n.LastRun = now }))
			}
			row.make(s)
			monitor := []string{"monitor", "--status", filepath.Join(s.dir, "state", "public", "status.json")}
			var all strings.Builder
			for _, args := range [][]string{{"status"}, {"verify"}, {"check"}, monitor, {"renew"}, monitor} {
				code, said := s.run(args...)
				fmt.Fprintf(&all, "-- maascert %s: exit %d\n%s", strings.Join(args[:1], " "), code, said)
			}
			text := s.alike(all.String())
			isGolden(t, filepath.Join("testdata", "situations", strings.ReplaceAll(row.name, " ", "-")+".txt"), text)
			for _, code := range []string{"names_changed", "(missing)", "(fresh)", "(ari)", "(lifetime)", "map["} {
				require.NotContains(t, text, code, "codes are for machines")
			}
		})
	}
}

// A26: ours is put back in the place of somebody's good certificate without an order.
func TestOursIsPutBackWithoutAnOrder(t *testing.T) {
	t.Parallel()
	s := &situation{T: t, site: startSite(t), fsys: world.OS{}}
	var err error
	s.authority, err = certtest.NewAuthority()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), append(s.ca.Root(0), s.authority.RootPEM()...), 0o644))
	code, said := s.run("renew", "--enable-tls")
	require.Zero(t, code, said)
	ours, orders := s.maas.Regions[0].Serves(5443), s.ca.Orders()
	bundle, err := s.authority.Issue(certstore.EC256, 0, years, "maas.example.internal", "region1.example.internal")
	require.NoError(t, err)
	s.serves(bundle)
	code, said = s.run("renew")
	require.Equal(t, exitAttention, code, said)
	require.Contains(t, said, "without an order: maascert renew --accept foreign")
	require.Equal(t, bundle.Leaf(), s.maas.Regions[0].Serves(5443))
	code, said = s.run("renew", "--accept", "foreign")
	require.Zero(t, code, said)
	require.Equal(t, ours, s.maas.Regions[0].Serves(5443))
	require.Equal(t, orders, s.ca.Orders())
}

// monitor runs the program as nobody, where this is root, with a configuration that nobody may read.
func (s *situation) monitor() (code int, line string) {
	s.Helper()
	path := lookUp(s.T, "maascert")
	cmd := exec.CommandContext(s.Context(), path, "monitor", "--status", filepath.Join(s.dir, "state", "public", "status.json"))
	cmd.Env = []string{"MAASCERT_CONFIG=" + filepath.Join(s.dir, "maascert.yaml"), "PATH=/nowhere"}
	if os.Geteuid() == 0 {
		asNobody(s.T, cmd, s.dir)
	}
	out, err := cmd.Output()
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		require.NoError(s, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// asNobody has root run a program as nobody, who may come to some folder and to the program.
func asNobody(t *testing.T, cmd *exec.Cmd, folder string) {
	t.Helper()
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true}}
	for _, leaf := range []string{folder, filepath.Dir(cmd.Path)} {
		for dir := leaf; dir != "/"; dir = filepath.Dir(dir) { // the tests' own folders
			if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
				require.NoError(t, os.Chmod(dir, info.Mode().Perm()|0o711))
			}
		}
	}
}

// Whoever watches needs no privileges and no configuration, and sees what is wrong all the same.
func TestTheMonitorIsNobody(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		code int
		says string
		make func(s *situation)
	}{
		{"fresh", 0, `^MAASCERT OK - maas: 3 of 3 endpoints serve version 1, until `, func(*situation) {}},
		{"overdue", 1, `^MAASCERT WARNING - .*maas: the last pass left it overdue`, func(s *situation) {
			s.aged(75*24*time.Hour, years)
			s.fsys = worldtest.FS{FS: world.OS{}, Fail: func(op, name string) error {
				if op == "Writable" && filepath.Base(name) == "store" {
					return fmt.Errorf("write %s: %w", name, syscall.ENOSPC)
				}
				return nil
			}}
			s.run("renew")
		}},
		{"expired", 2, `^MAASCERT CRITICAL - .*a certificate that ended`, func(s *situation) {
			s.aged(92*24*time.Hour, years)
		}},
		{"a region that lags", 1, `^MAASCERT WARNING - maas: the last pass left it degraded; .*10.0.0.12:5443 serves another certificate`, func(s *situation) {
			s.maas.Regions[1].Break(maastest.Fault{Deaf: true})
			s.run("renew", "--force")
		}},
		{"a dead daemon", 2, `^MAASCERT CRITICAL - the last pass was .* another should have been made since`, func(s *situation) {
			path := filepath.Join(s.dir, "state", "public", "status.json")
			text, err := os.ReadFile(path)
			require.NoError(s, err)
			stale := regexp.MustCompile(`"stale_after": "[^"]+"`).ReplaceAllString(string(text), fmt.Sprintf(`"stale_after": %q`, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)))
			require.NoError(s, os.WriteFile(path, []byte(stale), 0o644))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := &situation{T: t, site: startSite(t), fsys: world.OS{}}
			var err error
			s.authority, err = certtest.NewAuthority()
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), append(s.ca.Root(0), s.authority.RootPEM()...), 0o644))
			s.edit(t, "verify_timeout: 20s", "verify_timeout: 2s")
			code, said := s.run("renew", "--enable-tls")
			require.Zero(t, code, said)
			row.make(s)
			require.NoError(t, os.Chmod(filepath.Join(s.dir, "maascert.yaml"), 0o000))
			code, line := s.monitor()
			require.Regexp(t, row.says, s.alike(line))
			require.Equal(t, row.code, code)
			require.Equal(t, 1, strings.Count(line, "\n"), "one line")
			require.Equal(t, 1, strings.Count(line, "|"), "one begin of performance data")
		})
	}
}
