package lineage_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/hint"
	"maascert/internal/lineage"
	"maascert/internal/lineage/lineagetest"
	"maascert/internal/world"
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
	keyFiles := map[string]string{"certbot": "archive/a.example/privkey1.pem", "acme.sh": "a.example_ecc/a.example.key", "lego": "certificates/a.example.key"}
	certFiles := map[string]string{"certbot": "archive/a.example/fullchain1.pem", "acme.sh": "a.example_ecc/fullchain.cer", "lego": "certificates/a.example.crt"}
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
		"usr/lib/systemd/system/certbot-exporter.service": "[Service]\nExecStart=/usr/bin/certbot-exporter\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, file), []byte(text), 0o600))
	}
	said := func(client string) (all []string) {
		for _, hook := range lineage.Timers(world.OS{}, root, client) {
			file, err := filepath.Rel(root, hook.File)
			require.NoError(t, err)
			all = append(all, file+": "+hook.Command)
		}
		return all
	}
	require.Equal(t, []string{
		"etc/cron.d/certbot: 0 */12 * * * root test -x /usr/bin/certbot && certbot -q renew",
		"etc/systemd/system/snap.certbot.renew.service: ExecStart=/usr/bin/snap run --timer=\"00:00~24:00/2\" certbot.renew",
		"usr/lib/systemd/system/certbot.service: ExecStart=/usr/bin/certbot -q renew",
		"usr/lib/systemd/system/certbot.timer: systemctl disable --now certbot.timer",
	}, said("certbot"))
	require.Len(t, said("acme.sh"), 1)
	require.Empty(t, said("lego"))
}

// Names that no CA takes, and what could do something to a terminal, are kept apart from those that can be used.
func TestStrangeNames(t *testing.T) {
	t.Parallel()
	var l lineage.Lineage
	l.Take(&x509.Certificate{DNSNames: []string{"maas.example.internal", "a_b.example", "\x1b[2J.example"}})
	require.Equal(t, []string{"maas.example.internal"}, l.Names)
	require.Len(t, l.BadNames, 2)
}
