package maasconfig_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/hint"
	"maascert/internal/secret"
	"maascert/internal/section"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// faults are what is said of a section.
type faults struct {
	at  string
	all *[]string
}

func (f faults) Path() string                           { return "targets.front" }
func (f faults) Hide(string)                            {}
func (f faults) Read(string, string) []byte             { return nil }
func (f faults) Secret(string, secret.Reference) string { return "" }
func (f faults) Again(secret.Reference) (string, error) { return "", nil }
func (f faults) Under(key string) section.Place         { return faults{f.at + key + ".", f.all} }
func (f faults) Fault(key, format string, args ...any) {
	*f.all = append(*f.all, f.at+key+": "+fmt.Sprintf(format, args...))
}

func filesSection(kind string, change func(*maasconfig.FilesSection)) (*maasconfig.FilesSection, []string) {
	s := maasconfig.KnownTypes()[kind]().(*maasconfig.FilesSection)
	s.Key, s.Fullchain, s.Endpoints = "/etc/x/key.pem", "/etc/x/cert.pem", []string{"10.0.0.10"}
	if change != nil {
		change(s)
	}
	all := []string{}
	s.Check(faults{all: &all})
	return s, all
}

func TestFilesSectionCheck(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*maasconfig.FilesSection)
		want   string // empty: it is right
	}{
		"key and fullchain": {},
		"one file":          {change: func(s *maasconfig.FilesSection) { s.Key, s.Fullchain, s.PEM = "", "", "/etc/x/all.pem" }},
		"all of them":       {change: func(s *maasconfig.FilesSection) { s.Cert, s.Chain, s.PEM = "/a", "/b", "/c" }},
		"owner by number":   {change: func(s *maasconfig.FilesSection) { s.Owner = "0:113" }},
		"only a group":      {change: func(s *maasconfig.FilesSection) { s.Owner, s.Mode = ":ssl-cert", "0440" }},
		"no commands":       {change: func(s *maasconfig.FilesSection) { s.Test, s.Reload = []string{}, []string{} }},
		"no key":            {change: func(s *maasconfig.FilesSection) { s.Key = "" }, want: ": key and fullchain is missing: the files from which the service reads its key and certificate"},
		"no certificate":    {change: func(s *maasconfig.FilesSection) { s.Fullchain = "" }, want: ": key and fullchain is missing: the files from which the service reads its key and certificate"},
		"one path twice":    {change: func(s *maasconfig.FilesSection) { s.Fullchain = s.Key }, want: "fullchain: two keys name /etc/x/key.pem"},
		"everybody's key":   {change: func(s *maasconfig.FilesSection) { s.Mode = "0644" }, want: `mode: "0644" is no mode for a private key; write "0600", "0640" or less`},
		"set-user-ID":       {change: func(s *maasconfig.FilesSection) { s.Mode = "4600" }, want: `mode: "4600" is no mode for a private key; write "0600", "0640" or less`},
		"no mode":           {change: func(s *maasconfig.FilesSection) { s.Mode = "rw" }, want: `mode: "rw" is no mode for a private key; write "0600", "0640" or less`},
		"no owner":          {change: func(s *maasconfig.FilesSection) { s.Owner = "a:b:c" }, want: `owner: "a:b:c" is no owner; write user, user:group or :group`},
		"no program":        {change: func(s *maasconfig.FilesSection) { s.Reload = []string{""} }, want: "reload: a program is missing; [] is none"},
		"no endpoint":       {change: func(s *maasconfig.FilesSection) { s.Endpoints = nil }, want: ": endpoints is missing: where the service can be asked for its certificate, as host or host:port"},
		"a bad endpoint":    {change: func(s *maasconfig.FilesSection) { s.Endpoints = []string{"a b"} }, want: `endpoints[0]: "a b" is no host or host:port`},
		"a long time":       {change: func(s *maasconfig.FilesSection) { s.Timeout = 2 * time.Hour }, want: "timeout: 2h0m0s is out of range: 1s to 1h"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := []string{}
			if row.want != "" {
				want = append(want, row.want)
			}
			_, all := filesSection("nginx", row.change)
			require.Equal(t, want, all)
		})
	}
}

func TestFilesEntrusted(t *testing.T) {
	t.Parallel()
	s, _ := filesSection("haproxy", func(s *maasconfig.FilesSection) { s.Reload = []string{"sh", "/usr/local/bin/reload", "now"} })
	require.Equal(t, []string{"/etc/x/.key.pem.maascert-free", "/etc/x/.cert.pem.maascert-free", "haproxy", "/etc/haproxy/haproxy.cfg", "sh", "/usr/local/bin/reload"}, s.Entrusted())
}

// programs answers as the programs of a host do, by their command line.
type programs map[string]world.Result

func (p programs) LookPath(name string) (string, error) {
	for line := range p {
		if strings.HasPrefix(line, name+" ") {
			return "/usr/sbin/" + name, nil
		}
	}
	return "", errors.New("not found")
}

func (p programs) Run(_ context.Context, c world.Command) (world.Result, error) {
	result, ok := p[c.String()]
	if !ok {
		return result, fmt.Errorf("%s: unexpected", c)
	}
	return result, nil
}

// guard asks one guard of a target.
func guard(t *testing.T, target maasconfig.Target, code string) error {
	t.Helper()
	for _, guard := range target.Guards(maasconfig.Want{}) {
		if guard.Code == code {
			_, err := guard.Ask(t.Context())
			return err
		}
	}
	require.Fail(t, "no guard "+code)
	return nil
}

// What other files of the host say of a service's files is told, and refuses nothing.
func TestFilesAdvice(t *testing.T) {
	t.Parallel()
	haproxy := "frontend maas\n  bind :443 ssl %s\nbackend regions\n  # server old 10.0.0.9:5240\n  server region1 127.0.0.1:5240 check\n"
	for name, row := range map[string]struct {
		kind  string
		files map[string]string
		tls   bool // MAAS serves TLS itself
		guard string
		want  string // empty: nothing is told
	}{
		"HAProxy names the file":                         {kind: "haproxy", files: map[string]string{"/etc/haproxy/haproxy.cfg": fmt.Sprintf(haproxy, "crt /etc/x/all.pem")}, guard: "named"},
		"HAProxy takes the folder":                       {kind: "haproxy", files: map[string]string{"/etc/haproxy/haproxy.cfg": fmt.Sprintf(haproxy, "crt /etc/x/")}, guard: "named"},
		"HAProxy has a base":                             {kind: "haproxy", files: map[string]string{"/etc/haproxy/haproxy.cfg": "global\n  crt-base /etc/x\n" + fmt.Sprintf(haproxy, "crt all.pem")}, guard: "named"},
		"HAProxy has a list":                             {kind: "haproxy", files: map[string]string{"/etc/haproxy/haproxy.cfg": fmt.Sprintf(haproxy, "crt-list /etc/haproxy/list"), "/etc/haproxy/list": "/etc/x/all.pem *.example\n"}, guard: "named"},
		"HAProxy names another":                          {kind: "haproxy", files: map[string]string{"/etc/haproxy/haproxy.cfg": fmt.Sprintf(haproxy, "crt /etc/y/all.pem")}, guard: "named", want: "/etc/haproxy/haproxy.cfg does not name /etc/x/all.pem"},
		"a comment names nothing":                        {kind: "haproxy", files: map[string]string{"/etc/haproxy/haproxy.cfg": fmt.Sprintf(haproxy, "# crt /etc/x/all.pem")}, guard: "named", want: "/etc/haproxy/haproxy.cfg does not name /etc/x/all.pem"},
		"no configuration is known":                      {kind: "haproxy", guard: "named"},
		"nginx includes it":                              {kind: "nginx", files: map[string]string{"/etc/nginx/nginx.conf": "http {\n include conf.d/*.conf;\n}\n", "/etc/nginx/conf.d/maas.conf": "ssl_certificate /etc/x/cert.pem; # ours\nssl_certificate_key \"/etc/x/key.pem\";\n"}, guard: "named"},
		"nginx includes another":                         {kind: "nginx", files: map[string]string{"/etc/nginx/nginx.conf": "include conf.d/*.conf;\n", "/etc/nginx/conf.d/maas.conf": "ssl_certificate /etc/x/cert.pem;\nssl_certificate_key /etc/y/key.pem;\n"}, guard: "named", want: "/etc/nginx/nginx.conf does not name /etc/x/key.pem"},
		"Apache includes it":                             {kind: "apache", files: map[string]string{"/etc/apache2/apache2.conf": "IncludeOptional sites-enabled/*.conf\n", "/etc/apache2/sites-enabled/maas.conf": "SSLCertificateFile /etc/x/cert.pem\nSSLCertificateKeyFile /etc/x/key.pem\n"}, guard: "named"},
		"files have no configuration that we know":       {kind: "files", guard: "named"},
		"certbot writes them":                            {kind: "nginx", files: map[string]string{"/etc/letsencrypt/renewal-hooks/deploy/nginx": "cp fullchain.pem /etc/x/cert.pem\n"}, guard: "writers", want: "/etc/letsencrypt/renewal-hooks/deploy/nginx names /etc/x/cert.pem too"},
		"acme.sh writes them":                            {kind: "nginx", files: map[string]string{"/root/.acme.sh/maas/maas.conf": "Le_RealKeyPath='/etc/x/key.pem'\n"}, guard: "writers", want: "/root/.acme.sh/maas/maas.conf names /etc/x/key.pem too"},
		"nobody writes them":                             {kind: "nginx", files: map[string]string{"/etc/cron.d/x": "0 0 * * * root true\n"}, guard: "writers"},
		"a backend redirects since MAAS serves TLS":      {kind: "haproxy", files: map[string]string{"/etc/haproxy/haproxy.cfg": fmt.Sprintf(haproxy, "crt /etc/x/all.pem")}, tls: true, guard: "backends", want: "a backend leads to 127.0.0.1:5240, which redirects to https since MAAS serves TLS itself"},
		"a backend answers while MAAS serves no TLS":     {kind: "haproxy", files: map[string]string{"/etc/haproxy/haproxy.cfg": fmt.Sprintf(haproxy, "crt /etc/x/all.pem")}, guard: "backends"},
		"another port is no business of the certificate": {kind: "haproxy", files: map[string]string{"/etc/haproxy/haproxy.cfg": "backend x\n server a 127.0.0.1:52401\n"}, tls: true, guard: "backends"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			region := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if row.tls {
					http.Redirect(w, r, "https://maas.example:5443/MAAS/", http.StatusMovedPermanently)
				}
			}))
			defer region.Close()
			s, all := filesSection(row.kind, func(s *maasconfig.FilesSection) {
				if row.kind == "haproxy" {
					s.Key, s.Fullchain, s.PEM = "", "", "/etc/x/all.pem"
				}
			})
			require.Empty(t, all)
			target := s.Make(maasconfig.Parts{Name: "front", FS: host(t, row.files), Runner: programs{}, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, region.Listener.Addr().String())
			}})
			err := guard(t, target, row.guard)
			if row.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, row.want)
			require.NotEmpty(t, hint.Of(err))
			for _, guard := range target.Guards(maasconfig.Want{}) {
				require.True(t, guard.Code != row.guard || guard.Advice, "it is advice")
			}
		})
	}
}

func TestFilesServiceHasToRun(t *testing.T) {
	t.Parallel()
	show := "systemctl show --property=LoadState,ActiveState nginx"
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	there := map[string]string{"/etc/x/key.pem": string(bundle.KeyPEM()), "/etc/x/cert.pem": string(bundle.FullChainPEM())}
	for answer, want := range map[string]string{
		"LoadState=loaded\nActiveState=active\n":       "",
		"LoadState=loaded\nActiveState=inactive\n":     "the service nginx does not run",
		"LoadState=not-found\nActiveState=inactive\n":  "there is no service nginx",
		"LoadState=loaded\nActiveState=deactivating\n": "the service nginx does not run",
	} {
		s, _ := filesSection("nginx", nil)
		down := s.Make(maasconfig.Parts{Name: "web", FS: host(t, nil), Runner: programs{show: {Stdout: []byte(answer)}}})
		require.NoError(t, guard(t, down, "service"), "it cannot run before its files are there")
		target := s.Make(maasconfig.Parts{Name: "web", FS: host(t, there), Runner: programs{show: {Stdout: []byte(answer)}}})
		err := guard(t, target, "service")
		if want == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, want)
		}
	}
	s, _ := filesSection("files", func(s *maasconfig.FilesSection) { s.Reload = []string{"pkill", "-HUP", "mailer"} })
	for _, guard := range s.Make(maasconfig.Parts{}).Guards(maasconfig.Want{}) {
		require.NotContains(t, []string{"service", "configuration"}, guard.Code, "nothing is promised that is not asked")
	}
}

// The files have the owners and modes of the configuration, or those that they had, and are never wider.
func TestFilesModes(t *testing.T) {
	t.Parallel()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	for name, row := range map[string]struct {
		before   fs.FileMode // 0: they are not there
		mode     string
		key, all fs.FileMode
	}{
		"new files":                      {key: 0o600, all: 0o644},
		"new files with a mode":          {mode: "0640", key: 0o640, all: 0o644},
		"files that everybody may write": {before: 0o666, key: 0o640, all: 0o644},
		"files that few may read":        {before: 0o400, key: 0o400, all: 0o400},
		"a mode that is narrower":        {before: 0o640, mode: "0400", key: 0o400, all: 0o640},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, _ := filesSection("files", func(s *maasconfig.FilesSection) {
				s.Key, s.Fullchain, s.Cert, s.Chain, s.PEM = filepath.Join(dir, "key"), filepath.Join(dir, "fullchain"), filepath.Join(dir, "cert"), filepath.Join(dir, "chain"), filepath.Join(dir, "pem")
				s.Mode, s.Test, s.Reload, s.Timeout = row.mode, nil, nil, time.Second
			})
			names := []string{"key", "pem", "fullchain", "cert", "chain"}
			if row.before != 0 {
				for _, name := range names {
					require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
					require.NoError(t, os.Chmod(filepath.Join(dir, name), row.before))
				}
			}
			target := s.Make(maasconfig.Parts{Name: "front", FS: world.OS{}, Runner: programs{}, UID: os.Geteuid(), StateDir: t.TempDir()})
			change, err := target.Prepare(t.Context(), bundle, maasconfig.Want{})
			require.NoError(t, err)
			require.Empty(t, change.Commands)
			telling, err := change.Make(t.Context())
			require.NoError(t, err)
			require.Equal(t, maasconfig.Told, telling)
			for i, name := range names {
				info, err := os.Stat(filepath.Join(dir, name))
				require.NoError(t, err)
				want := row.all
				if i < 2 {
					want = row.key
				}
				require.Equal(t, want.String(), info.Mode().String(), name)
			}
			held, err := target.Backup(t.Context())
			require.NoError(t, err)
			require.Equal(t, bundle.Fingerprint(), held.Fingerprint())
			require.Len(t, held.Chain(), len(bundle.Chain()))
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, entries, 5)
		})
	}
}

func TestFilesOwnerHasToExist(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _ := filesSection("files", func(s *maasconfig.FilesSection) {
		s.Key, s.Fullchain, s.Owner = dir+"/key", dir+"/cert", "nobody-of-this-name"
	})
	target := s.Make(maasconfig.Parts{FS: world.OS{}, UID: os.Geteuid()})
	_, err := target.Prepare(t.Context(), nil, maasconfig.Want{})
	require.EqualError(t, err, `there is no user "nobody-of-this-name" on this host`)
	require.EqualError(t, guard(t, target, "files"), err.Error(), "it is said before anything is ordered")
}

// filesIn is a target whose files are in a folder, and a bundle that its endpoint serves, whatever lies there.
func filesIn(t *testing.T, dir string, fsys world.FS, change func(*maasconfig.FilesSection)) (maasconfig.Target, *certstore.Bundle) {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(bundle.FullChainPEM(), bundle.KeyPEM())
	require.NoError(t, err)
	serving := httptest.NewUnstartedServer(http.NotFoundHandler())
	serving.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	serving.StartTLS()
	t.Cleanup(serving.Close)
	s, _ := filesSection("files", func(s *maasconfig.FilesSection) {
		s.Endpoints = []string{serving.Listener.Addr().String()}
		s.Key, s.Fullchain, s.Test, s.Reload, s.Timeout = filepath.Join(dir, "key"), filepath.Join(dir, "cert"), nil, nil, time.Second
		if change != nil {
			change(s)
		}
	})
	return s.Make(maasconfig.Parts{Name: "front", FS: fsys, Runner: programs{"never now": {Exit: 1}}, UID: os.Geteuid(), StateDir: t.TempDir(), Dial: new(net.Dialer).DialContext}), bundle
}

func makeOnce(t *testing.T, target maasconfig.Target, bundle *certstore.Bundle) error {
	t.Helper()
	change, err := target.Prepare(t.Context(), bundle, maasconfig.Want{})
	if err == nil {
		_, err = change.Make(t.Context())
	}
	return err
}

// Everybody may lock a folder that he may read: that must not keep a service from its certificate.
func TestFilesAStrangersLockHoldsUpNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unlock, err := world.OS{}.TryLock(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, unlock()) }()
	target, bundle := filesIn(t, dir, world.OS{}, nil)
	require.NoError(t, makeOnce(t, target, bundle))
}

// A folder in which everybody may make files is no place for a key, and what lies there is neither taken over nor put back.
func TestFilesAStickyFolderIsNotSafe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777|fs.ModeSticky))
	planted := filepath.Join(dir, ".key.maascert-old")
	require.NoError(t, os.WriteFile(planted, []byte("planted"), 0o600))
	target, bundle := filesIn(t, dir, world.OS{}, nil)
	for _, err := range []error{guard(t, target, "files"), makeOnce(t, target, bundle), target.Tidy(t.Context())} {
		require.ErrorContains(t, err, "is not safe for a key: everybody may make")
	}
	require.FileExists(t, planted)
	require.NoFileExists(t, filepath.Join(dir, "key"))
}

// strangers is a file system in which a file belongs to somebody else.
type strangers struct {
	world.OS
	path string
}

func (s strangers) Lstat(name string) (fs.FileInfo, error) {
	info, err := s.OS.Lstat(name)
	if err != nil || name != s.path {
		return info, err
	}
	return strangersFile{info}, nil
}

type strangersFile struct{ fs.FileInfo }

func (strangersFile) Sys() any { return &syscall.Stat_t{Uid: 4242} }

// A group says nothing of whose a file may be: his who has it now is not asked to keep our key.
func TestFilesAGroupIsNoOwner(t *testing.T) {
	t.Parallel()
	for owner, want := range map[string]string{"": "belongs to user 4242", ":0": "belongs to user 4242", "4242:0": ""} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), nil, 0o600))
		target, _ := filesIn(t, dir, strangers{path: filepath.Join(dir, "key")}, func(s *maasconfig.FilesSection) { s.Owner = owner })
		if want == "" {
			require.NoError(t, guard(t, target, "files"))
		} else {
			require.ErrorContains(t, guard(t, target, "files"), want, owner)
		}
	}
}

// A test that cannot pass because one of the files is missing or damaged does not keep that file from being mended.
func TestFilesADamagedFileIsMended(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "damaged"} {
		dir := t.TempDir()
		target, bundle := filesIn(t, dir, world.OS{}, func(s *maasconfig.FilesSection) {
			s.PEM, s.Test = filepath.Join(dir, "pem"), []string{"never", "now"}
		})
		require.Error(t, makeOnce(t, target, bundle), "its test never passes")
		require.FileExists(t, filepath.Join(dir, "key"), "the files stay: without them it could not pass")
		require.Error(t, guard(t, target, "configuration"), "what is there is whole")
		require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), []byte(text), 0o600))
		require.NoError(t, guard(t, target, "configuration"), "it is not asked")
	}
}

// What a service cannot load, although it is whole, does not keep it from something better.
func TestFilesThatAreNotServedRefuseNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, _ := filesIn(t, dir, world.OS{}, func(s *maasconfig.FilesSection) { s.Test = []string{"never", "now"} })
	_, other := filesIn(t, dir, world.OS{}, nil)
	require.Error(t, makeOnce(t, target, other))
	require.FileExists(t, filepath.Join(dir, "key"))
	require.NoError(t, guard(t, target, "configuration"), "its endpoint serves something else")
}

// The old files are put back when a service could load them, also where they hold more than we would write.
func TestFilesWithMoreInThemArePutBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, bundle := filesIn(t, dir, world.OS{}, func(s *maasconfig.FilesSection) { s.Test = []string{"never", "now"} })
	old := map[string][]byte{
		"key":  bundle.KeyPEM(),
		"cert": append(bundle.FullChainPEM(), []byte("-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n")...),
	}
	for name, text := range old {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	_, other := filesIn(t, dir, world.OS{}, nil)
	require.Error(t, makeOnce(t, target, other))
	for name, text := range old {
		have, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, string(text), string(have))
	}
}

// What is undone is what was served: other bytes that lay in the files do not come back.
func TestFilesUndoBringsWhatWasServed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, served := filesIn(t, dir, world.OS{}, nil)
	_, waiting := filesIn(t, dir, world.OS{}, nil)
	require.NoError(t, makeOnce(t, target, waiting))
	_, next := filesIn(t, dir, world.OS{}, nil)
	change, err := target.Prepare(t.Context(), next, maasconfig.Want{})
	require.NoError(t, err)
	_, err = change.Make(t.Context())
	require.NoError(t, err)
	require.NoError(t, change.Undo(t.Context(), served))
	held, err := target.Backup(t.Context())
	require.NoError(t, err)
	require.Equal(t, served.Fingerprint(), held.Fingerprint())
}

// A run that was killed leaves names beside the files that belong to the owner whom the configuration names: they hold up nothing.
func TestFilesWithAnOwnerAreHealedAfterAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fsys := strangers{path: filepath.Join(dir, "key")}
	target, bundle := filesIn(t, dir, fsys, func(s *maasconfig.FilesSection) { s.Owner = fmt.Sprint(os.Geteuid()) })
	left := filepath.Join(dir, ".key.maascert-new")
	require.NoError(t, os.WriteFile(left, nil, 0o600))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(left, 4242, 0))
	}
	require.NoError(t, guard(t, target, "files"))
	require.NoError(t, target.Tidy(t.Context()))
	require.NoFileExists(t, left)
	require.NoError(t, makeOnce(t, target, bundle))
}

// A configuration that names the key and not the certificate would have the service load two that do not belong together.
func TestFilesThatAreHalfNamedAreRefused(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "nginx.conf")
	for text, want := range map[string]string{
		"ssl_certificate_key DIR/key; ssl_certificate DIR/other;": "names DIR/key and not DIR/cert",
		"ssl_certificate_key DIR/key; ssl_certificate DIR/cert;":  "",
		"ssl_certificate_key /a; ssl_certificate /b;":             "",
	} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(config, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600))
		s, _ := filesSection("nginx", func(s *maasconfig.FilesSection) {
			s.Key, s.Fullchain, s.Test = filepath.Join(dir, "key"), filepath.Join(dir, "cert"), []string{"nginx", "-t", "-c", config}
		})
		target := s.Make(maasconfig.Parts{Name: "web", FS: world.OS{}, Runner: programs{}, UID: os.Geteuid(), StateDir: dir})
		if want == "" {
			require.NoError(t, guard(t, target, "files"))
		} else {
			require.ErrorContains(t, guard(t, target, "files"), strings.ReplaceAll(want, "DIR", dir))
		}
	}
}

func TestTwoTargetsCannotNameOneFile(t *testing.T) {
	t.Parallel()
	a, _ := filesSection("nginx", nil)
	b, _ := filesSection("files", func(s *maasconfig.FilesSection) { s.Key = "/etc/y/key.pem" })
	require.EqualError(t, maasconfig.CheckTogether(map[string]maasconfig.TargetSection{"web": a, "mail": b}), "targets mail and web name the same file: /etc/x/cert.pem")
	require.NoError(t, maasconfig.CheckTogether(map[string]maasconfig.TargetSection{"web": a}))
}
