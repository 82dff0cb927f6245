package maasconfig_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/internal/hint"
	"maascert/internal/world"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// failing is a maas command that fails in a way that the real one has.
type failing struct {
	world.Exec
	exit   int
	stderr string
}

func (f failing) Run(context.Context, world.Command) (world.Result, error) {
	return world.Result{Exit: f.exit, Stderr: []byte(f.stderr)}, nil
}

const help = "usage: maas [-h] COMMAND ...\n\nhttps://maas.io/\n\noptions:\n  -h, --help  show this help message and exit\n"

// M9: what is advised where MAAS's words say nothing is a command that the host has: maas status is one of the snap's only.
func TestM9TheAdviceIsACommandOfTheInstallation(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	s.enable(t, 5443)
	for kind, command := range map[string]string{"snap": "maas status", "deb": "systemctl status maas-regiond maas-http"} {
		config := s.config
		config.Runner = failing{exit: 1}
		config.Detect = func(ctx context.Context) (maasconfig.Installation, error) {
			here, err := s.config.Detect(ctx)
			here.Kind = kind
			return here, err
		}
		_, err := maasconfig.Deploy(t.Context(), maasconfig.New(config), s.deployment(s.issue(t, 0, time.Hour)))
		require.Contains(t, hint.Of(err), "is MAAS well? "+command+"; then: maascert renew", kind)
	}
}

// Every row of MAAS fact 1.3 that ends a call: one line that ends in MAAS's own words, a hint, the old certificate still
// served, and no stage left.
func TestEachWayInWhichMAASFails(t *testing.T) {
	t.Parallel()
	s := newSite(t, maastest.Options{Regions: 1})
	before := s.enable(t, 5443)
	bundle := s.issue(t, 0, time.Hour)
	for name, row := range map[string]struct {
		exit   int
		stderr string
		want   string
		hint   string
	}{
		"the key cannot be found":  {2, help + "\nargument key: can't open '/p': [Errno 2] No such file or directory: '/p'\n", "argument key: can't open '/p': [Errno 2] No such file or directory: '/p' (exit 2)", "/var/snap/maas/common"},
		"the key cannot be read":   {2, help + "\nargument key: can't open '/p': [Errno 13] Permission denied: '/p'\n", "[Errno 13] Permission denied: '/p' (exit 2)", "/var/snap/maas/common"},
		"arguments are missing":    {2, help + "\nthe following arguments are required: key, cert\n", "required: key, cert (exit 2)", "3.2"},
		"not root":                 {1, "You can only 'config-tls' as root.\n", "You can only 'config-tls' as root. (exit 1)", "run maascert as root"},
		"bad PEM":                  {2, help + "\nInvalid PEM material\n", "config-tls: Invalid PEM material (exit 2)", "damaged"},
		"a mismatch":               {2, help + "\nPrivate and public keys don't match\n", "Private and public keys don't match (exit 2)", "belong together"},
		"an encrypted key":         {2, help + "\nPrivate key can't have a passphrase\n", "Private key can't have a passphrase (exit 2)", "passphrase"},
		"an EC key on 3.8":         {2, help + "\nECPrivateKey.sign() takes 2 positional arguments but 3 were given\n", "ECPrivateKey.sign() takes", "key_type: rsa3072"},
		"an Ed25519 key":           {2, help + "\n[('digital envelope routines', '', 'operation not supported for this keytype')]\n", "not supported for this keytype", "key_type: rsa3072"},
		"a malformed chain":        {2, help + "\n[('PEM routines', '', 'ASN1 lib')]\n", "[('PEM routines', '', 'ASN1 lib')] (exit 2)", "maas status"},
		"the database is down":     {2, help + "\nconnection to server at \"127.0.0.1\", port 5432 failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?\n", "Connection refused Is the server running", "PostgreSQL"},
		"Vault is down":            {2, help + "\nVault connection failed\n", "Vault connection failed (exit 2)", "MAAS cannot reach the Vault that keeps its secrets"},
		"Vault refuses":            {2, help + "\nVault request failed\n", "Vault request failed (exit 2)", "refuses MAAS: is it sealed"},
		"Vault is not set up here": {2, help + "\nVault is enabled cluster-wide, but is not configured for this region.\n", "not configured for this region. (exit 2)", "was never told how to log in there"},
		"a rack controller's deb":  {2, help + "\nargument COMMAND: invalid choice: 'config-tls' (choose from 'login')\n", "invalid choice: 'config-tls'", "region host"},
		"an interruption":          {1, "", "config-tls: no message (exit 1)", "maas status"},
		"a very long message":      {2, help + "\n" + strings.Repeat("x", 60000) + "\n", "xxx", "maas status"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := s.config
			config.Runner = failing{exit: row.exit, stderr: row.stderr}
			spent := 0
			d := s.deployment(bundle)
			d.BeforeTry = func() error { spent++; return nil }
			outcome, err := maasconfig.Deploy(t.Context(), maasconfig.New(config), d)
			require.ErrorContains(t, err, row.want)
			require.NotContains(t, err.Error(), "usage:")
			require.NotContains(t, err.Error(), "\n")
			require.Less(t, len(err.Error()), 500)
			require.Contains(t, hint.Of(err), row.hint)
			require.Equal(t, 1, spent, "it is written down before it is tried")
			require.Zero(t, outcome.Tries, "and does not count, because no region was told")
			require.True(t, s.Regions[0].Serves(5443).Equal(before.Leaf()), "the old certificate is still served")
		})
	}
}
