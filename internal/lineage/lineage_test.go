package lineage_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/hint"
	"maascert/internal/lineage"
	"maascert/internal/lineage/lineagetest"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
)

const directory = "https://ca.example.internal:14000/acme/dir"

func issue(t *testing.T, names ...string) *certstore.Bundle {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, names...)
	require.NoError(t, err)
	return bundle
}

// keeps lays a certificate out as a client does; the path that leads to it.
func keeps(t *testing.T, client, folder, name string, bundle *certstore.Bundle) string {
	t.Helper()
	account, err := certstore.EC256.Generate()
	require.NoError(t, err)
	path, err := lineagetest.Writers[client](folder, lineagetest.Kept{
		Name: name, Directory: directory, Bundle: bundle, AccountKey: account, AccountURL: "https://ca.example.internal:14000/account/1", Hook: "maas config-tls enable 'a b'",
	})
	require.NoError(t, err)
	return path
}

func TestFind(t *testing.T) {
	t.Parallel()
	for _, client := range lineage.Clients {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			_, err := lineage.Find(world.OS{}, client, filepath.Join(folder, "nowhere"))
			require.ErrorIs(t, err, os.ErrNotExist)
			_, err = lineage.Find(world.OS{}, client, folder)
			require.ErrorContains(t, err, client+" keeps no certificate in "+folder)
			bundle := issue(t, "maas.example.internal", "10.0.0.1")
			path := keeps(t, client, folder, "maas.example.internal", bundle)
			for _, at := range []string{folder, path} {
				found, err := lineage.Find(world.OS{}, client, at)
				require.NoError(t, err, at)
				require.NoError(t, found.Broken)
				require.NoError(t, found.NoAccount)
				require.Equal(t, bundle.Fingerprint(), found.Bundle.Fingerprint())
				require.Len(t, found.Bundle.Chain(), len(bundle.Chain()))
				require.Equal(t, []string{"10.0.0.1", "maas.example.internal"}, slices.Sorted(slices.Values(found.Names)))
				require.Equal(t, "https://ca.example.internal:14000/account/1", found.Account.URL)
				require.IsType(t, new(ecdsa.PrivateKey), found.Account.Key)
				require.Zero(t, found.Others)
				if client == "lego" {
					require.Empty(t, found.Directory)
					require.Equal(t, "ca.example.internal:14000", found.Host)
					continue
				}
				require.Equal(t, directory, found.Directory)
				require.Contains(t, found.Hooks[0].Command, "maas config-tls enable 'a b'")
			}
			other := keeps(t, client, folder, "other.example.internal", issue(t, "other.example.internal"))
			_, err = lineage.Find(world.OS{}, client, folder)
			require.ErrorContains(t, err, "keeps 2 certificates")
			require.Contains(t, hint.Of(err), other)
			found, err := lineage.Find(world.OS{}, client, other)
			require.NoError(t, err)
			require.Equal(t, []string{"other.example.internal"}, found.Names)
			require.Equal(t, 1, found.Others)
		})
	}
}

// What is wrong with a certificate is said, and what can be known all the same is.
func TestBrokenLineages(t *testing.T) {
	t.Parallel()
	keyFiles := map[string]string{"certbot": "archive/a.example/privkey1.pem", "acme.sh": "a.example_ecc/a.example.key", "lego": "certificates/a.example.key", "dehydrated": "certs/a.example/privkey-1700000000.pem"}
	certFiles := map[string]string{"certbot": "archive/a.example/fullchain1.pem", "acme.sh": "a.example_ecc/fullchain.cer", "lego": "certificates/a.example.crt", "dehydrated": "certs/a.example/fullchain-1700000000.pem"}
	const encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
	for _, client := range lineage.Clients {
		for name, row := range map[string]struct {
			file   string
			text   []byte // nil: the file is not there
			says   string
			names  []string
			absent bool
		}{
			"no key":         {keyFiles[client], nil, "no such file", []string{"a.example"}, true},
			"encrypted":      {keyFiles[client], []byte(encrypted), "passphrase", []string{"a.example"}, false},
			"another's key":  {keyFiles[client], issue(t, "b.example").KeyPEM(), "does not belong", []string{"a.example"}, false},
			"no certificate": {certFiles[client], nil, "no such file", nil, true},
			"half of one":    {certFiles[client], []byte("-----BEGIN CERTIFICATE-----\nMIIB"), "", nil, false},
		} {
			t.Run(client+" "+name, func(t *testing.T) {
				t.Parallel()
				folder := t.TempDir()
				path := keeps(t, client, folder, "a.example", issue(t, "a.example"))
				require.NoError(t, os.Remove(filepath.Join(folder, row.file)))
				if !row.absent {
					require.NoError(t, os.WriteFile(filepath.Join(folder, row.file), row.text, 0o600))
				}
				found, err := lineage.Find(world.OS{}, client, path)
				require.NoError(t, err)
				require.ErrorContains(t, found.Broken, row.says)
				require.Nil(t, found.Bundle)
				require.Equal(t, row.names, found.Names)
				require.NotNil(t, found.Account)
			})
		}
	}
}

func TestAnAccountThatIsGone(t *testing.T) {
	t.Parallel()
	for client, file := range map[string]string{
		"certbot": "accounts/ca.example.internal:14000/acme/dir/0123456789abcdef0123456789abcdef/private_key.json",
		"acme.sh": "ca/ca.example.internal/acme/dir/account.key",
		"lego":    "accounts/ca.example.internal_14000/ops@example.com/keys/ops@example.com.key",
	} {
		folder := t.TempDir()
		path := keeps(t, client, folder, "a.example", issue(t, "a.example"))
		require.NoError(t, os.WriteFile(filepath.Join(folder, file), []byte("secret"), 0o600))
		found, err := lineage.Find(world.OS{}, client, path)
		require.NoError(t, err)
		require.Error(t, found.NoAccount)
		require.NotContains(t, found.NoAccount.Error(), "secret")
		require.Nil(t, found.Account)
		require.NotNil(t, found.Bundle)
	}
}

func TestTimers(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for file, text := range map[string]string{
		"etc/cron.d/certbot":                              "SHELL=/bin/sh\n# certbot renews\n0 */12 * * * root test -x /usr/bin/certbot && certbot -q renew\n",
		"etc/crontab":                                     "17 * * * * root run-parts /etc/cron.hourly\n",
		"var/spool/cron/crontabs/root":                    "7 0 * * * \"/root/.acme.sh\"/acme.sh --cron --home \"/root/.acme.sh\" > /dev/null\n",
		"usr/lib/systemd/system/certbot.service":          "[Unit]\nDescription=certbot\n[Service]\nExecStart=/usr/bin/certbot -q renew\n",
		"usr/lib/systemd/system/certbot.timer":            "[Unit]\nDescription=Run certbot twice daily\n[Timer]\nOnCalendar=*-*-* 00,12:00:00\n",
		"etc/systemd/system/snap.certbot.renew.service":   "[Service]\nExecStart=/usr/bin/snap run --timer=\"00:00~24:00/2\" certbot.renew\n",
		"etc/systemd/system/snap.certbot.renew.timer":     "[Timer]\nOnCalendar=*-*-* 00:00:00\n",
		"usr/lib/systemd/system/lego.service":             "[Service]\nExecStart=/usr/bin/lego renew\n",
		"usr/lib/systemd/system/lego.timer":               "[Timer]\nOnCalendar=daily\n",
		"usr/lib/systemd/system/certbot-exporter.service": "[Service]\nExecStart=/usr/bin/certbot-exporter\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, file), []byte(text), 0o600))
	}
	wants := filepath.Join(root, "etc/systemd/system/timers.target.wants")
	require.NoError(t, os.Mkdir(wants, 0o755))
	for _, timer := range []string{"certbot.timer", "snap.certbot.renew.timer"} { // not lego.timer
		require.NoError(t, os.Symlink("elsewhere", filepath.Join(wants, timer)))
	}
	said := func(client string) (all []string) {
		for _, hook := range lineage.Timers(worldtest.Elsewhere{FS: world.OS{}, Root: root}, client) {
			all = append(all, hook.File+": "+hook.Command)
		}
		return all
	}
	require.Equal(t, []string{
		"/etc/cron.d/certbot: 0 */12 * * * root test -x /usr/bin/certbot && certbot -q renew",
		"/usr/lib/systemd/system/certbot.service: ExecStart=/usr/bin/certbot -q renew",
		"certbot.timer: systemctl disable --now certbot.timer",
		"/etc/systemd/system/snap.certbot.renew.service: ExecStart=/usr/bin/snap run --timer=\"00:00~24:00/2\" certbot.renew",
		"snap.certbot.renew.timer: systemctl disable --now snap.certbot.renew.timer",
	}, said("certbot"))
	require.Len(t, said("acme.sh"), 1)
	require.Empty(t, said("lego"), "its timer is off")
}

// Names that no CA takes, and what could do something to a terminal, are kept apart from those that can be used.
func TestStrangeNames(t *testing.T) {
	t.Parallel()
	var l lineage.Lineage
	l.Take(&x509.Certificate{DNSNames: []string{"maas.example.internal", "a_b.example", "\x1b[2J.example"}})
	require.Equal(t, []string{"maas.example.internal"}, l.Names)
	require.Len(t, l.BadNames, 2)
}

// Whatever calls config-tls is found, and what ends it ends it.
func TestManagers(t *testing.T) {
	t.Parallel()
	const script = "#!/bin/sh\nmaas config-tls enable k c --yes\n"
	coded := "__ACME_BASE64__START_" + base64.StdEncoding.EncodeToString([]byte("maas config-tls enable k c --yes")) + "__ACME_BASE64__END_"
	for name, row := range map[string]struct {
		files    map[string]string
		programs []string
		found    lineage.Manager
	}{
		"a hook of certbot's": {map[string]string{"/etc/letsencrypt/renewal-hooks/post/maas.sh": script}, []string{"/etc/letsencrypt/renewal-hooks/post/maas.sh"},
			lineage.Manager{Client: "certbot", File: "/etc/letsencrypt/renewal-hooks/post/maas.sh", Off: "chmod a-x /etc/letsencrypt/renewal-hooks/post/maas.sh # if it does nothing else"}},
		"a hook of certbot's that does not run": {map[string]string{"/etc/letsencrypt/renewal-hooks/post/maas.sh": script}, nil, lineage.Manager{}},
		"a hook of one of certbot's certificates": {map[string]string{"/etc/letsencrypt/renewal/a.conf": "[renewalparams]\nrenew_hook = /opt/maas.sh\n", "/opt/maas.sh": script}, nil,
			lineage.Manager{Client: "certbot", File: "/etc/letsencrypt/renewal/a.conf", Off: "sed -i '/^ *renew_hook *=/d' /etc/letsencrypt/renewal/a.conf"}},
		"certbot's own settings": {map[string]string{"/etc/letsencrypt/cli.ini": "deploy-hook = maas config-tls enable k c --yes\n"}, nil,
			lineage.Manager{Client: "certbot", File: "/etc/letsencrypt/cli.ini", Off: "sed -i '/^ *deploy-hook *=/d' /etc/letsencrypt/cli.ini"}},
		"a comment":                 {map[string]string{"/etc/cron.daily/told": "#!/bin/sh\n# what config-tls enable gave MAAS\necho config-tls | mail root\n"}, []string{"/etc/cron.daily/told"}, lineage.Manager{}},
		"another hook of certbot's": {map[string]string{"/etc/letsencrypt/renewal/a.conf": "[renewalparams]\nrenew_hook = systemctl reload nginx\n"}, nil, lineage.Manager{}},
		"a command of acme.sh's": {map[string]string{"/root/.acme.sh/a.example_ecc/a.example.conf": "Le_Domain='a.example'\nLe_ReloadCmd='" + coded + "'\n"}, nil,
			lineage.Manager{Client: "acme.sh", File: "/root/.acme.sh/a.example_ecc/a.example.conf", Off: "sed -i '/^ *Le_ReloadCmd *=/d' /root/.acme.sh/a.example_ecc/a.example.conf"}},
		"a hook of dehydrated's": {map[string]string{"/etc/dehydrated/conf.d/hook.sh": "HOOK=/etc/dehydrated/maas.sh\n", "/etc/dehydrated/maas.sh": script}, nil,
			lineage.Manager{Client: "dehydrated", File: "/etc/dehydrated/conf.d/hook.sh", Off: "sed -i '/^ *HOOK *=/d' /etc/dehydrated/conf.d/hook.sh"}},
		"a line of a crontab": {map[string]string{"/etc/cron.d/maas": "MAILTO=root\n0 3 * * * root lego renew --renew-hook \"maas config-tls enable k c --yes\"\n"}, nil,
			lineage.Manager{Client: "cron", File: "/etc/cron.d/maas", Off: "sed -i '2s/^/#/' /etc/cron.d/maas"}},
		"a script of a crontab's": {map[string]string{"/var/spool/cron/crontabs/root": "@daily /opt/maas.sh\n", "/opt/maas.sh": script}, nil,
			lineage.Manager{Client: "cron", File: "/var/spool/cron/crontabs/root", Off: "sed -i '1s/^/#/' /var/spool/cron/crontabs/root"}},
		"a script of cron's": {map[string]string{"/etc/cron.daily/maas": script}, []string{"/etc/cron.daily/maas"},
			lineage.Manager{Client: "cron", File: "/etc/cron.daily/maas", Off: "chmod a-x /etc/cron.daily/maas # if it does nothing else"}},
		"a unit": {map[string]string{
			"/etc/systemd/system/renew.service": "[Service]\nExecStart=/usr/bin/env \\\n  /opt/maas.sh\n", "/etc/systemd/system/renew.timer": "[Timer]\nOnCalendar=daily\n[Install]\nWantedBy=timers.target\n",
			"/etc/systemd/system/timers.target.wants/renew.timer": "", "/opt/maas.sh": script,
		}, nil, lineage.Manager{Client: "systemd", File: "/etc/systemd/system/renew.service", Off: "systemctl disable --now renew.timer"}},
		"an instance of a template, by what is added to it": {map[string]string{
			"/usr/lib/systemd/system/cert-renewer@.service": "[Service]\nExecStart=/usr/bin/step ca renew --force cert key\n", "/etc/systemd/system/cert-renewer@maas.service.d/maas.conf": "[Service]\nExecStartPost=/opt/maas.sh\n",
			"/usr/lib/systemd/system/cert-renewer@.timer": "[Timer]\nOnCalendar=*:1/15\n", "/etc/systemd/system/timers.target.wants/cert-renewer@maas.timer": "", "/opt/maas.sh": script,
		}, nil, lineage.Manager{Client: "systemd", File: "/etc/systemd/system/cert-renewer@maas.service.d/maas.conf", Off: "systemctl disable --now cert-renewer@maas.timer"}},
		"a timer that starts another unit": {map[string]string{
			"/etc/systemd/system/nightly.timer": "[Timer]\nUnit=other.service\n", "/etc/systemd/system/other.service": "[Service]\nExecStart=/opt/maas.sh\n", "/etc/systemd/system/timers.target.wants/nightly.timer": "", "/opt/maas.sh": script,
		}, nil, lineage.Manager{Client: "systemd", File: "/etc/systemd/system/other.service", Off: "systemctl disable --now nightly.timer"}},
		"a unit that is off": {map[string]string{"/etc/systemd/system/renew.service": "[Service]\nExecStart=/opt/maas.sh\n", "/etc/systemd/system/renew.timer": "[Timer]\nOnCalendar=daily\n", "/opt/maas.sh": script}, nil, lineage.Manager{}},
		"a line after a comment that ends in a backslash": {map[string]string{"/etc/cron.d/maas": "# see C:\\\n0 3 * * * root maas config-tls enable k c --yes\n"}, nil,
			lineage.Manager{Client: "cron", File: "/etc/cron.d/maas", Off: "sed -i '2s/^/#/' /etc/cron.d/maas"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for file, text := range row.files {
				require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(root, file), []byte(text), 0o600))
			}
			for _, program := range row.programs {
				require.NoError(t, os.Chmod(filepath.Join(root, program), 0o700))
			}
			files := worldtest.Elsewhere{FS: world.OS{}, Root: root}
			found, closed := lineage.Managers(files)
			require.Empty(t, closed)
			if row.found == (lineage.Manager{}) {
				require.Empty(t, found)
				return
			}
			require.Equal(t, []lineage.Manager{row.found}, found)
			if row.found.Client == "systemd" {
				return // systemctl is not for this test
			}
			off := strings.ReplaceAll(row.found.Off, row.found.File, filepath.Join(root, row.found.File))
			said, err := exec.Command("sh", "-c", off).CombinedOutput()
			require.NoError(t, err, string(said))
			found, _ = lineage.Managers(files)
			require.Empty(t, found)
		})
	}
}

// What may not be looked at is told, and not taken for nothing.
func TestManagersThatMayNotBeLookedAt(t *testing.T) {
	t.Parallel()
	files := worldtest.FS{FS: worldtest.Elsewhere{FS: world.OS{}, Root: t.TempDir()}, Fail: func(_, name string) error {
		if name == "/etc/crontab" {
			return fs.ErrPermission
		}
		return nil
	}}
	found, closed := lineage.Managers(files)
	require.Empty(t, found)
	require.Equal(t, []string{"/etc/crontab"}, closed)
}
