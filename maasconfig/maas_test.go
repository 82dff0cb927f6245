package maasconfig_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/hint"
	"maascert/internal/loopback"
	"maascert/internal/world"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

func TestMain(m *testing.M) {
	maastest.Main()
	os.Exit(m.Run())
}

// rooted is a file system below a folder, as a host of a test's making.
type rooted struct {
	world.OS
	dir string
}

func (r rooted) ReadFile(name string) ([]byte, error) {
	return r.OS.ReadFile(filepath.Join(r.dir, name))
}
func (r rooted) ReadDir(name string) ([]fs.DirEntry, error) {
	return r.OS.ReadDir(filepath.Join(r.dir, name))
}
func (r rooted) Stat(name string) (fs.FileInfo, error) { return r.OS.Stat(filepath.Join(r.dir, name)) }

func host(t *testing.T, files map[string]string) rooted {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return rooted{dir: dir}
}

// runner answers as the programs of a host do.
type runner struct {
	path   string
	dpkg   string
	noMaas bool
}

func (r runner) LookPath(name string) (string, error) {
	if r.noMaas {
		return "", errors.New("not found")
	}
	return r.path, nil
}

func (r runner) Run(_ context.Context, c world.Command) (world.Result, error) {
	if c.Path != "dpkg-query" {
		return world.Result{}, errors.New("unexpected " + c.Path)
	}
	return world.Result{Stdout: []byte(r.dpkg)}, nil
}

func TestDetect(t *testing.T) {
	t.Parallel()
	snap := map[string]string{
		"/snap/maas/current/meta/snap.yaml":   "name: maas\nversion: 3.7.3-17001-g.abcdef\n",
		"/var/snap/maas/common/snap_mode":     "region+rack\n",
		"/var/snap/maas/current/regiond.conf": "",
	}
	deb := map[string]string{"/var/lib/dpkg/info/maas-region-api.list": "", "/etc/maas/regiond.conf": ""}
	for name, row := range map[string]struct {
		files  map[string]string
		runner runner
		config maasconfig.InstallationConfig
		want   maasconfig.Installation
		err    string
	}{
		"the snap": {
			files: snap, runner: runner{path: "/snap/bin/maas"},
			want: maasconfig.Installation{
				Kind: "snap", Version: maasconfig.Version{Major: 3, Minor: 7, Patch: 3}, Mode: "region+rack", Command: "/snap/bin/maas",
				HTTPDir: "/var/snap/maas/current/http", StageDir: "/var/snap/maas/common/maascert",
			},
		},
		"the deb": {
			files: deb, runner: runner{path: "/usr/bin/maas", dpkg: "1:3.4.8-14400-g.abcdef-0ubuntu1~22.04.1"},
			want: maasconfig.Installation{
				Kind: "deb", Version: maasconfig.Version{Major: 3, Minor: 4, Patch: 8}, Command: "/usr/bin/maas",
				HTTPDir: "/var/lib/maas/http", StageDir: "/var/lib/maascert/stage",
			},
		},
		"what the configuration says wins": {
			files: snap, runner: runner{path: "/opt/maas"},
			config: maasconfig.InstallationConfig{Command: "/opt/maas", StageDir: "/s", HTTPDir: "/h", Version: "3.8.0~beta6"},
			want: maasconfig.Installation{
				Kind: "snap", Version: maasconfig.Version{Major: 3, Minor: 8}, Mode: "region+rack", Command: "/opt/maas", HTTPDir: "/h", StageDir: "/s",
			},
		},
		"a rack controller's snap is refused": {
			files:  map[string]string{"/snap/maas/current/meta/snap.yaml": "", "/var/snap/maas/common/snap_mode": "rack\n"},
			runner: runner{path: "/snap/bin/maas"}, err: `no region controller (MAAS snap in mode "rack")`,
		},
		"a rack controller's deb is refused": {
			files:  map[string]string{"/var/lib/dpkg/info/maas-region-api.list": ""},
			runner: runner{path: "/usr/bin/maas"}, err: "no region controller (no /etc/maas/regiond.conf)",
		},
		"a host without MAAS is refused": {runner: runner{noMaas: true}, err: `the maas command "maas" is not here`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			row.config.FS, row.config.Runner, row.config.StateDir = host(t, row.files), row.runner, "/var/lib/maascert"
			got, err := maasconfig.Detect(t.Context(), row.config)
			if row.err != "" {
				require.ErrorContains(t, err, row.err)
				require.NotEmpty(t, hint.Of(err))
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"3.7.3": "3.7.3", "3.8.0~beta6": "3.8.0", "1:3.7.3-17001-g.abcdef": "3.7.3", "3.6": "3.6.0", "3.7.3-17001-g.abcdef\n": "3.7.3",
	} {
		v, err := maasconfig.ParseVersion(text)
		require.NoError(t, err, text)
		require.Equal(t, want, v.String())
	}
	for _, text := range []string{"", "latest", "3", "3.7.3.1.2x", "v3.7"} {
		_, err := maasconfig.ParseVersion(text)
		require.Error(t, err, text)
	}
	require.Equal(t, "snap restart maas.supervisor", maasconfig.Installation{Kind: "snap", Version: maasconfig.Version{Major: 3, Minor: 4}}.Restart())
	require.Equal(t, "snap restart maas.pebble", maasconfig.Installation{Kind: "snap", Version: maasconfig.Version{Major: 3, Minor: 5}}.Restart())
	require.Equal(t, "systemctl restart maas-regiond", maasconfig.Installation{Kind: "deb"}.Restart())
}

// site is a deployment with a target for it.
type site struct {
	*maastest.Deployment
	authority    *certtest.Authority
	installation maasconfig.Installation
	missing      error // why there is no installation
	config       maasconfig.Config
}

func newSite(t *testing.T, options maastest.Options) *site {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	d := maastest.New(t, options)
	s := &site{Deployment: d, authority: authority}
	s.installation = maasconfig.Installation{
		Kind: "snap", Version: maasconfig.Version{Major: 3, Minor: 7, Patch: 3}, Command: d.Command,
		HTTPDir: d.Regions[0].HTTPDir, StageDir: filepath.Join(t.TempDir(), "stage"),
	}
	s.config = maasconfig.Config{
		Name: "maas", Endpoints: d.Endpoints(), ServerName: "maas.example", Trust: certstore.Trust{Roots: authority.Pool()},
		Detect:  func(context.Context) (maasconfig.Installation, error) { return s.installation, s.missing },
		Timeout: 20 * time.Second, VerifyTimeout: 5 * time.Second,
		Stages: []string{s.installation.StageDir}, FS: world.OS{}, Runner: world.Exec{}, Dial: new(net.Dialer).DialContext, UID: os.Geteuid(),
	}
	return s
}

func (s *site) issue(t *testing.T, age, lifetime time.Duration, names ...string) *certstore.Bundle {
	t.Helper()
	if len(names) == 0 {
		names = []string{"maas.example"}
	}
	bundle, err := s.authority.Issue(certstore.RSA2048, age, lifetime, names...)
	require.NoError(t, err)
	return bundle
}

func (s *site) enable(t *testing.T, port int) *certstore.Bundle {
	t.Helper()
	bundle := s.issue(t, 0, time.Hour)
	require.NoError(t, s.Enable(t.Context(), bundle, port))
	return bundle
}

func (s *site) deployment(b *certstore.Bundle) maasconfig.Deployment {
	return maasconfig.Deployment{
		Bundle: b, Trust: s.config.Trust, Tries: 2, BeforeTry: func() error { return nil }, Want: maasconfig.Want{Accept: maasconfig.Accept{}},
	}
}

var want = maasconfig.Want{Names: []string{"maas.example"}, KeyType: certstore.RSA3072, Accept: maasconfig.Accept{}}

func TestReadyRefuses(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		prepare func(t *testing.T, s *site)
		want    func(*maasconfig.Want)
		err     string
		code    string
	}{
		"a first enabling of TLS": {
			prepare: func(*testing.T, *site) {}, err: "MAAS does not serve TLS yet", code: maasconfig.FirstEnable,
		},
		"a first enabling where DHCP would break": {
			prepare: func(_ *testing.T, s *site) { s.installation.Version.Patch = 2 },
			want:    func(w *maasconfig.Want) { w.Accept = maasconfig.Accept{maasconfig.FirstEnable: true} }, err: "DHCP", code: maasconfig.DHCP37,
		},
		"a first enabling on a port that somebody has": {
			prepare: func(t *testing.T, s *site) {
				listener, err := net.Listen("tcp", net.JoinHostPort(s.Regions[1].Address.String(), "8443"))
				require.NoError(t, err)
				t.Cleanup(func() { listener.Close() })
				s.config.Port = 8443
			},
			want: func(w *maasconfig.Want) { w.Accept = maasconfig.Accept{maasconfig.FirstEnable: true} }, err: "something else listens on",
		},
		"a first enabling on a port of MAAS's own": {
			prepare: func(_ *testing.T, s *site) { s.config.Port = 5248 },
			want:    func(w *maasconfig.Want) { w.Accept = maasconfig.Accept{maasconfig.FirstEnable: true} }, err: "MAAS uses port 5248 itself",
		},
		"a first enabling on a port at which nobody would look": {
			prepare: func(_ *testing.T, s *site) {
				for i := range s.config.Endpoints {
					s.config.Endpoints[i] += ":8443"
				}
			},
			want: func(w *maasconfig.Want) { w.Accept = maasconfig.Accept{maasconfig.FirstEnable: true} }, err: "no endpoint is on port 5443, where MAAS would serve TLS",
		},
		"regions that disagree on the port": {
			prepare: func(t *testing.T, s *site) {
				first := s.enable(t, 5443)
				s.Regions[2].Break(maastest.Fault{Deaf: true})
				require.NoError(t, first.Leaf().VerifyHostname("maas.example"))
				s.Set(&maastest.Secret{Key: string(first.KeyPEM()), Cert: string(first.LeafPEM()), CACert: string(first.ChainPEM()), Port: 7443})
				require.Eventually(t, func() bool { return s.Regions[0].Serves(7443) != nil && s.Regions[1].Serves(7443) != nil }, 10*time.Second, time.Millisecond)
				s.installation.HTTPDir = ""
			},
			err: "the regions disagree on TLS",
		},
		"S3: redirects that nothing on this host confirms": {
			prepare: func(t *testing.T, s *site) {
				s.enable(t, 7443)
				s.installation.HTTPDir = ""
			},
			err: "which nothing on this host confirms", code: maasconfig.FirstEnable,
		},
		"M7: TLS on the port that is to be plain": {
			prepare: func(t *testing.T, s *site) { s.enable(t, 5240) }, err: "MAAS serves TLS on port 5240, which it uses itself",
		},
		"M8: TLS that somebody switched off": {
			prepare: func(*testing.T, *site) {}, want: func(w *maasconfig.Want) { w.Ours = true },
			err: "MAAS serves TLS no more", code: maasconfig.FirstEnable,
		},
		"another user than the installation's": {
			prepare: func(_ *testing.T, s *site) { s.config.UID++ }, err: "may configure this MAAS",
		},
		"a unit that Juju manages": {
			prepare: func(t *testing.T, s *site) {
				s.enable(t, 5443)
				s.config.FS = juju{world.OS{}}
			},
			err: "Juju manages this region (unit-maas-region-0)", code: maasconfig.Juju,
		},
		"an EC key for 3.8": {
			prepare: func(_ *testing.T, s *site) { s.installation.Version.Minor = 8 },
			want:    func(w *maasconfig.Want) { w.KeyType = certstore.EC256 }, err: "cannot load a key of type ec256",
		},
		"an EC key for an unknown version": {
			prepare: func(_ *testing.T, s *site) { s.installation.Version = maasconfig.Version{} },
			want:    func(w *maasconfig.Want) { w.KeyType = certstore.EC384 }, err: "version is unknown",
		},
		"the loss of a name": {
			prepare: func(t *testing.T, s *site) {
				require.NoError(t, s.Enable(t.Context(), s.issue(t, 0, time.Hour, "maas.example", "old.example", "gone.example"), 5443))
			},
			want: func(w *maasconfig.Want) { w.Earlier = []string{"gone.example"} }, err: "would be lost: old.example", code: maasconfig.NamesLost,
		},
		"regions of which none answers": {
			prepare: func(t *testing.T, s *site) {
				s.config.Endpoints, s.installation.HTTPDir = []string{"127.255.255.254"}, ""
			},
			err: "this host's own files do not either: maas.http_dir is unknown",
		},
		"A23: a wrong http_dir while no region answers": {
			prepare: func(t *testing.T, s *site) {
				s.config.Endpoints, s.installation.HTTPDir = []string{"127.255.255.254"}, filepath.Join(t.TempDir(), "elsewhere")
			},
			err: "elsewhere: no such file or directory",
		},
		"an installation that was not found": {
			prepare: func(_ *testing.T, s *site) { s.missing = errors.New("not here") }, err: "not here",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, maastest.Options{})
			row.prepare(t, s)
			w := want
			if row.want != nil {
				row.want(&w)
			}
			err := maasconfig.Ready(t.Context(), maasconfig.New(s.config), w)
			require.ErrorContains(t, err, row.err)
			var refusal *maasconfig.Refusal
			require.Equal(t, row.code != "", errors.As(err, &refusal))
			if row.code == "" {
				return
			}
			require.Equal(t, row.code, refusal.Code)
			accept := maasconfig.Accept{row.code: true}
			for code := range w.Accept {
				accept[code] = true
			}
			w.Accept = accept
			require.NoError(t, maasconfig.Ready(t.Context(), maasconfig.New(s.config), w), "a guard with a code can be overridden")
		})
	}
}

// juju is a host that Juju manages.
type juju struct{ world.OS }

func (j juju) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == "/var/lib/juju/agents" {
		return []fs.DirEntry{fs.FileInfoToDirEntry(unit{})}, nil
	}
	return j.OS.ReadDir(name)
}

type unit struct{ fs.FileInfo }

func (unit) Name() string      { return "unit-maas-region-0" }
func (unit) IsDir() bool       { return true }
func (unit) Mode() fs.FileMode { return fs.ModeDir }

// A region that missed the enabling of TLS must not stop the renewals of the others; but where most say that TLS is off,
// somebody switched it off.
func TestARegionThatMissedTheEnablingDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.Regions[2].Break(maastest.Fault{Deaf: true})
	bundle := s.issue(t, 0, time.Hour)
	s.Set(&maastest.Secret{Key: string(bundle.KeyPEM()), Cert: string(bundle.LeafPEM()), CACert: string(bundle.ChainPEM()), Port: 5443})
	require.Eventually(t, func() bool { return s.Regions[0].Serves(5443) != nil && s.Regions[1].Serves(5443) != nil }, 10*time.Second, time.Millisecond)
	require.NoError(t, maasconfig.Ready(t.Context(), maasconfig.New(s.config), want))

	off := newSite(t, maastest.Options{})
	off.enable(t, 5443)
	off.Regions[2].Break(maastest.Fault{Deaf: true})
	off.Set(nil)
	require.Eventually(t, func() bool { return off.Regions[0].Serves(5443) == nil && off.Regions[1].Serves(5443) == nil }, 10*time.Second, time.Millisecond)
	require.ErrorContains(t, maasconfig.Ready(t.Context(), maasconfig.New(off.config), want), "MAAS does not serve TLS yet")

	// The region of this host is the one that missed it, and the port on which all were verified before speaks for the
	// others.
	here := newSite(t, maastest.Options{})
	here.Regions[0].Break(maastest.Fault{Deaf: true})
	here.Set(&maastest.Secret{Key: string(bundle.KeyPEM()), Cert: string(bundle.LeafPEM()), CACert: string(bundle.ChainPEM()), Port: 5443})
	require.Eventually(t, func() bool { return here.Regions[2].Serves(5443) != nil && here.Regions[1].Serves(5443) != nil }, 10*time.Second, time.Millisecond)
	verified := want
	verified.Port, verified.Ours = 5443, true
	require.NoError(t, maasconfig.Ready(t.Context(), maasconfig.New(here.config), verified))
}

// forged answers port 5240 of a host as somebody who stands before a region.
func forged(t *testing.T, location string) string {
	t.Helper()
	hosts, err := loopback.Hosts(1, 5240)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", net.JoinHostPort(hosts[0].String(), "5240"))
	require.NoError(t, err)
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.ReplaceAll(location, "HOST", hosts[0].String()), http.StatusMovedPermanently)
	})}
	go proxy.Serve(listener)
	t.Cleanup(func() { proxy.Close() })
	return hosts[0].String()
}

// S3: forged redirects at most of the regions do not enable TLS, on the forger's port or any other.
func TestS3ForgedRedirectsDoNotOutvoteTheLocalFile(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	for range 3 {
		s.config.Endpoints = append(s.config.Endpoints, forged(t, "https://HOST:9443/MAAS/"))
	}
	target := maasconfig.New(s.config)
	require.ErrorContains(t, maasconfig.Ready(t.Context(), target, want), "MAAS does not serve TLS yet")
	_, err := maasconfig.Deploy(t.Context(), target, s.deployment(s.issue(t, 0, time.Hour)))
	require.ErrorContains(t, err, "MAAS does not serve TLS yet")
	require.Empty(t, s.Calls())
	guards := target.Guards(want)
	advice := guards[len(guards)-1]
	require.True(t, advice.Advice)
	_, err = advice.Ask(t.Context())
	require.ErrorContains(t, err, "TLS on port 9443", "M6: who says otherwise is named")
}

// S4: a forged redirect at one region stops no renewal, and moves no port.
func TestS4AForgedRedirectStopsNoRenewal(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 6443)
	s.config.Endpoints = append(s.config.Endpoints, forged(t, "https://HOST:9443/MAAS/"))
	s.config.VerifyTimeout = 3 * time.Second
	require.NoError(t, maasconfig.Ready(t.Context(), maasconfig.New(s.config), want))
	_, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), s.deployment(s.issue(t, 0, time.Hour)))
	require.NoError(t, err)
	require.Equal(t, 6443, s.Stored().Port)

	s.installation.HTTPDir = "" // the record speaks where no file does
	verified := want
	verified.Port = 6443
	s.config.Endpoints = s.Endpoints()
	require.NoError(t, maasconfig.Ready(t.Context(), maasconfig.New(s.config), verified))
}

// S6: MAAS's own user cannot have another service's key put into MAAS's database.
func TestS6BackupFollowsNoLinks(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	s.enable(t, 5443)
	_, err := maasconfig.New(s.config).Backup(t.Context())
	require.NoError(t, err)
	key := filepath.Join(s.installation.HTTPDir, "certs", "regiond-proxy-key.pem")
	elsewhere := filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.Rename(key, elsewhere))
	require.NoError(t, os.Symlink(elsewhere, key))
	_, err = maasconfig.New(s.config).Backup(t.Context())
	require.ErrorContains(t, err, "escapes")
}

// M5: regions whose regiond is stopped refuse nothing: they read the certificate at their next start.
func TestM5AStoppedRegiondIsNoRefusal(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	before := s.enable(t, 5443)
	for _, region := range s.Regions {
		region.StopRegiond()
	}
	s.config.VerifyTimeout = 3 * time.Second
	d := s.deployment(s.issue(t, 0, time.Hour))
	d.Previous = before
	outcome, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), d)
	require.NoError(t, err)
	require.False(t, outcome.RolledBack)
	for _, e := range outcome.Endpoints {
		require.Equal(t, maasconfig.Unknown, e.State)
		require.Equal(t, maasconfig.StoppedAnswer, e.Observed())
		require.Contains(t, e.String(), "regiond is stopped there")
	}
	for _, region := range s.Regions {
		require.NoError(t, region.Restart())
	}
	require.True(t, maasconfig.Serving(maasconfig.Judged(maasconfig.New(s.config).Probe(t.Context()), d.Bundle, s.config.Trust)))
}

// M11: when nothing changes anywhere it is not this certificate, and that is said.
func TestM11RegionsThatAreAllDeafAreNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 5443)
	for _, region := range s.Regions {
		region.Break(maastest.Fault{Deaf: true})
	}
	s.config.VerifyTimeout = 3 * time.Second
	outcome, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), s.deployment(s.issue(t, 0, time.Hour)))
	require.ErrorContains(t, err, "no region changed anything")
	require.Contains(t, hint.Of(err), "Unhandled error in Deferred")
	require.Equal(t, maasconfig.Told, outcome.Telling)
}

// M2: what MAAS did not take is not said to be told, and what nobody knows is not said to be known.
func TestM2OnlyWhatMAASTookIsTold(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 5443)
	s.Reach(false)
	outcome, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), s.deployment(s.issue(t, 0, time.Hour)))
	require.ErrorContains(t, err, "MAAS was not told: config-tls: connection to server")
	require.Equal(t, maasconfig.NotTold, outcome.Telling)
	require.Nil(t, outcome.Endpoints)
	s.Reach(true)
	s.Hang(true)
	s.config.Timeout = 200 * time.Millisecond
	outcome, err = maasconfig.Deploy(t.Context(), maasconfig.New(s.config), s.deployment(s.issue(t, 0, time.Hour)))
	require.ErrorContains(t, err, "timed out")
	require.Equal(t, maasconfig.Unsure, outcome.Telling)
}

// M4: a region that takes its time is waited for, and not told again meanwhile.
func TestM4ASlowRegionIsNotToldTwice(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 5443)
	s.Regions[1].Break(maastest.Fault{Slow: 2 * time.Second})
	s.config.VerifyTimeout = 20 * time.Second
	outcome, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), s.deployment(s.issue(t, 0, time.Hour)))
	require.NoError(t, err)
	require.True(t, maasconfig.Serving(outcome.Endpoints))
	require.Equal(t, 1, outcome.Tries)
}

// A secret that was stored while nobody was notified is brought to the regions by the next call, and a proxy that was
// stopped is started by it.
func TestWhatWasStoredInSilenceIsTold(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 5443)
	s.Mute(true)
	s.config.VerifyTimeout = 3 * time.Second
	d := s.deployment(s.issue(t, 0, time.Hour))
	outcome, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), d)
	require.Error(t, err)
	require.False(t, maasconfig.Serving(outcome.Endpoints))
	s.Mute(false)
	s.Regions[2].StopProxy()
	s.config.VerifyTimeout = 10 * time.Second
	outcome, err = maasconfig.Deploy(t.Context(), maasconfig.New(s.config), d)
	require.NoError(t, err)
	require.True(t, maasconfig.Serving(outcome.Endpoints))
}

// S12: the stage of a killed run is wiped also while no MAAS is found here.
func TestS12AStageIsWipedWithoutAnInstallation(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	s.missing = errors.New("not here")
	dead := filepath.Join(s.installation.StageDir, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	require.NoError(t, os.MkdirAll(dead, 0o700))
	require.NoError(t, maasconfig.New(s.config).Tidy(t.Context()))
	require.NoDirExists(t, dead)
	require.Equal(t, []string{"/var/snap/maas/common/maascert", "/state/stage"}, maasconfig.Stages(maasconfig.InstallationConfig{StateDir: "/state"}))
}

func TestReadyDoesNotNeedEveryRegion(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 6443)
	s.config.Endpoints = append(s.config.Endpoints, "127.255.255.254")
	require.NoError(t, maasconfig.Ready(t.Context(), maasconfig.New(s.config), want))
	s.config.Endpoints = []string{"127.255.255.254"}
	require.NoError(t, maasconfig.Ready(t.Context(), maasconfig.New(s.config), want), "the local file says that TLS is on")
}

func TestDeployKeepsChainAndPort(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 7443)
	bundle := s.issue(t, 0, time.Hour)
	outcome, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), s.deployment(bundle))
	require.NoError(t, err)
	require.True(t, maasconfig.Serving(outcome.Endpoints))
	require.Equal(t, 1, outcome.Tries)
	require.Equal(t, 7443, s.Stored().Port)
	require.Equal(t, string(bundle.ChainPEM()), s.Stored().CACert)
	for _, e := range outcome.Endpoints {
		require.Equal(t, maasconfig.Complete, e.Chain)
	}
	entries, err := os.ReadDir(s.installation.StageDir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// While nginx reloads, old workers answer beside new ones: one look that finds the new certificate proves nothing yet.
func TestADeploymentIsVerifiedOnlyWhenOldWorkersHaveGone(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 5443)
	for _, region := range s.Regions {
		region.Break(maastest.Fault{Linger: 1})
	}
	bundle := s.issue(t, 0, time.Hour)
	target := maasconfig.New(s.config)
	outcome, err := maasconfig.Deploy(t.Context(), target, s.deployment(bundle))
	require.NoError(t, err)
	require.True(t, maasconfig.Serving(outcome.Endpoints))
	require.Equal(t, 1, outcome.Tries)
	require.True(t, maasconfig.Serving(maasconfig.Judged(target.Probe(t.Context()), bundle, s.config.Trust)), "and it stays so")
}

func TestDeployRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	s.enable(t, 5443)
	stranger, err := certtest.NewAuthority()
	require.NoError(t, err)
	untrusted, err := stranger.Issue(certstore.RSA2048, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	for name, row := range map[string]struct {
		bundle *certstore.Bundle
		err    string
	}{
		"an expired certificate":                {s.issue(t, 2*time.Hour, time.Hour), "expired at"},
		"one that nobody trusts":                {untrusted, "clients would not trust the certificate"},
		"one without a name that is served now": {s.issue(t, 0, time.Hour, "other.example"), "would be lost: maas.example"},
	} {
		_, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), s.deployment(row.bundle))
		require.ErrorContains(t, err, row.err, name)
	}
	require.Empty(t, s.Calls())
}

func TestARegionThatCannotBeAskedIsNoReasonToGoBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	before := s.enable(t, 5443)
	for _, region := range s.Regions {
		region.Break(maastest.Fault{Deaf: true})
	}
	s.config.Endpoints = append(s.config.Endpoints, "127.255.255.254:5443")
	s.config.VerifyTimeout = 3 * time.Second
	s.config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "127.255") {
			return nil, context.DeadlineExceeded
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	d := s.deployment(s.issue(t, 0, time.Hour))
	d.Previous = before
	outcome, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), d)
	require.NoError(t, err)
	require.False(t, outcome.RolledBack)
	require.Equal(t, 2, outcome.Tries)

	s.config.Endpoints = s.Endpoints()
	outcome, err = maasconfig.Deploy(t.Context(), maasconfig.New(s.config), d)
	require.ErrorContains(t, err, "no region changed anything", "M11")
	require.ErrorContains(t, err, "the one before it was put back")
	require.True(t, outcome.RolledBack, "all were seen to serve the old one")
	require.Equal(t, string(before.LeafPEM()), s.Stored().Cert)

	d.Previous = s.issue(t, 2*time.Hour, time.Hour)
	outcome, err = maasconfig.Deploy(t.Context(), maasconfig.New(s.config), d)
	require.ErrorContains(t, err, "no region changed anything")
	require.False(t, outcome.RolledBack, "never to an expired pair")
}

func TestTidyWipesOnlyWhatNobodyHolds(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	target := maasconfig.New(s.config)
	require.NoError(t, target.Tidy(t.Context()))
	require.NoDirExists(t, s.installation.StageDir, "nothing is made where there is nothing to do")
	in := func(name string) string { return filepath.Join(s.installation.StageDir, name) }
	dead, alive := in("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), in("ZYXWVUTSRQPONMLKJIHGFEDCBA")
	others := []string{in("boot-resources"), in("store")}
	for _, dir := range append([]string{dead, alive}, others...) {
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"), []byte("key"), 0o600))
	}
	unlock, err := world.OS{}.TryLock(alive)
	require.NoError(t, err)
	require.NoError(t, target.Tidy(t.Context()))
	require.NoDirExists(t, dead)
	require.DirExists(t, alive)
	require.NoError(t, unlock())
	require.NoError(t, target.Tidy(t.Context()))
	require.NoDirExists(t, alive)
	for _, dir := range others {
		require.DirExists(t, dir, "what is no stage of ours is left alone, whoever pointed stage_dir there")
	}
}

func TestAStageThatOthersCanEnterIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	before := s.enable(t, 5443)
	require.NoError(t, os.MkdirAll(s.installation.StageDir, 0o755))
	require.ErrorContains(t, maasconfig.Ready(t.Context(), maasconfig.New(s.config), want), "can be entered by others")
	_, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), s.deployment(s.issue(t, 0, time.Hour)))
	require.ErrorContains(t, err, "can be entered by others")
	require.True(t, s.Regions[0].Serves(5443).Equal(before.Leaf()))
}

// A proxy before a region may answer port 5240 with a redirect of its own; regiond's file knows better, and MAAS must not
// be moved to the proxy's port.
func TestAProxysRedirectDoesNotMoveMAASsPort(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	s.enable(t, 5443)
	s.config.Endpoints = []string{forged(t, "https://HOST/MAAS/")}
	require.NoError(t, maasconfig.Ready(t.Context(), maasconfig.New(s.config), want))
	s.config.VerifyTimeout = 3 * time.Second
	// What the proxy serves is not asked here.
	_, _ = maasconfig.Deploy(t.Context(), maasconfig.New(s.config), s.deployment(s.issue(t, 0, time.Hour)))
	require.Len(t, s.Calls(), 2)
	require.Equal(t, 5443, s.Stored().Port)
}

// Once ours was served, a certificate that nobody trusts cannot stop renewals by the names it claims.
func TestAnUntrustedCertificateDoesNotClaimNames(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 5443)
	stranger, err := certtest.NewAuthority()
	require.NoError(t, err)
	prank, err := stranger.Issue(certstore.EC256, 0, time.Hour, "maas.example", "attacker.example")
	require.NoError(t, err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{prank.Leaf().Raw}, PrivateKey: prank.Key()}}})
	require.NoError(t, err)
	server := &http.Server{}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	s.config.Endpoints = append(s.config.Endpoints, listener.Addr().String())
	target, w := maasconfig.New(s.config), want
	require.ErrorContains(t, maasconfig.Ready(t.Context(), target, w), "would be lost: attacker.example", "the first time every name counts")
	w.Ours = true
	require.NoError(t, maasconfig.Ready(t.Context(), target, w))
}

// A backup of what hooks left behind: the leaf twice, the root before the intermediate.
func TestABackupPutsTheChainRight(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	bundle := s.enable(t, 5443)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.authority.Root.Raw})
	s.Set(&maastest.Secret{
		Key: string(bundle.KeyPEM()), Cert: string(bundle.LeafPEM()), Port: 5443,
		CACert: string(bundle.LeafPEM()) + string(root) + string(bundle.ChainPEM()),
	})
	path := filepath.Join(s.installation.HTTPDir, "certs", "regiond-proxy.pem")
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(path)
		return err == nil && strings.Count(string(text), "BEGIN") == 4
	}, 10*time.Second, time.Millisecond)
	// MAAS writes its files one after another, as does the simulated one: the key may come last.
	var backup *certstore.Bundle
	require.Eventually(t, func() bool {
		var err error
		backup, err = maasconfig.New(s.config).Backup(t.Context())
		return err == nil
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, string(bundle.FullChainPEM()), string(backup.FullChainPEM()))
}

// The pair that was served before need not be trusted by our roots to be put back: it was served.
func TestAPairOfAnotherCAIsPutBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	stranger, err := certtest.NewAuthority()
	require.NoError(t, err)
	before, err := stranger.Issue(certstore.RSA2048, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	require.NoError(t, s.Enable(t.Context(), before, 5443))
	for _, region := range s.Regions {
		region.Break(maastest.Fault{Deaf: true})
	}
	s.config.VerifyTimeout = 3 * time.Second
	d := s.deployment(s.issue(t, 0, time.Hour))
	d.Previous = before
	outcome, err := maasconfig.Deploy(t.Context(), maasconfig.New(s.config), d)
	require.ErrorContains(t, err, "the one before it was put back")
	require.True(t, outcome.RolledBack)
	require.Equal(t, string(before.LeafPEM()), s.Stored().Cert)
}

// MAAS may come, go and change while the daemon runs.
func TestTheInstallationIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	s.enable(t, 5443)
	now := time.Now()
	s.config.Trust.Now = func() time.Time { return now }
	target, w := maasconfig.New(s.config), want
	w.KeyType = certstore.EC256
	s.missing = errors.New("the snap is not mounted yet")
	require.ErrorContains(t, maasconfig.Ready(t.Context(), target, w), "not mounted yet")
	s.missing = nil
	require.NoError(t, maasconfig.Ready(t.Context(), target, w))
	s.installation.Version.Minor = 8
	now = now.Add(time.Minute)
	require.ErrorContains(t, maasconfig.Ready(t.Context(), target, w), "MAAS 3.8.3 cannot load")
}

func TestBackupIsThePairThatIsServed(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	bundle := s.enable(t, 5443)
	backup, err := maasconfig.New(s.config).Backup(t.Context())
	require.NoError(t, err)
	require.Equal(t, bundle.Fingerprint(), backup.Fingerprint())
	require.Equal(t, bundle.KeyPEM(), backup.KeyPEM())
}

// S4: whoever answers at one region with a certificate of a trusted CA for names of his own stops no renewal.
func TestS4ATrustedCertificateOfSomebodyElseStopsNoRenewal(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{})
	s.enable(t, 5443)
	pair := s.issue(t, 0, time.Hour, "attacker.example")
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{
		Certificate: [][]byte{pair.Leaf().Raw, pair.Chain()[0].Raw}, PrivateKey: pair.Key(),
	}}})
	require.NoError(t, err)
	server := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	s.config.Endpoints = append(s.config.Endpoints, listener.Addr().String())
	verified := want
	verified.Ours = true
	require.NoError(t, maasconfig.Ready(t.Context(), maasconfig.New(s.config), verified))
}
