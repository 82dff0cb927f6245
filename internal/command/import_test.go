package command

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/config"
	"maascert/internal/lineage"
	"maascert/internal/lineage/lineagetest"
	"maascert/internal/world"
)

// storeOf is the store of a site.
func storeOf(s *site) certstore.Store {
	return certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "state", "store"))
}

// movedOut is a site whose certificate, which MAAS serves, is kept by another client from now on, with its account.
func movedOut(t *testing.T, s *site, client string) (path string, kept lineagetest.Kept) {
	t.Helper()
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	version, err := certstore.LoadVersion(t.Context(), storeOf(s), "maas", 1)
	require.NoError(t, err)
	account, _, err := certstore.LoadAccount(t.Context(), storeOf(s))
	require.NoError(t, err)
	key, err := account.Signer(t.Context(), storeOf(s))
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(filepath.Join(s.dir, "state")))
	kept = lineagetest.Kept{
		Name: "maas.example.internal", Directory: s.ca.Directory, Bundle: version.Bundle, AccountKey: key, AccountURL: version.Account, Hook: "maas config-tls enable key.pem fullchain.pem --yes",
	}
	path, err = lineagetest.Writers[client](filepath.Join(s.dir, client), kept)
	require.NoError(t, err)
	return path, kept
}

// bytesBelow are the files of a folder, byte for byte, with their times.
func bytesBelow(t *testing.T, folder string) string {
	t.Helper()
	var all strings.Builder
	require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		require.NoError(t, err)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		all.WriteString(path + info.ModTime().String() + string(text))
		return nil
	}))
	return all.String()
}

// What another client keeps is served without an order, and renewed in its time by the account that ordered it.
func TestImport(t *testing.T) {
	t.Parallel()
	for _, client := range lineage.Clients {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			path, kept := movedOut(t, s, client)
			folder, orders := filepath.Join(s.dir, client), s.ca.Orders()
			before := bytesBelow(t, folder)
			code, stdout, stderr := inSite(t, s, world.OS{}, "import", client, path)
			require.Zero(t, code, stderr)
			require.Contains(t, stdout, "took over the account at "+s.ca.Directory+": "+kept.AccountURL)
			require.Contains(t, stdout, "maas: version 1 is current: maas.example.internal, region1.example.internal, until ")
			require.NotContains(t, stdout, "the configuration stays as it is", "it lacks nothing")
			if client != "lego" {
				require.Contains(t, stdout, kept.Hook)
			}
			version, err := certstore.LoadVersion(t.Context(), storeOf(s), "maas", 1)
			require.NoError(t, err)
			require.Equal(t, certstore.FromElsewhere, version.Origin)
			code, stdout, stderr = inSite(t, s, world.OS{}, "renew")
			require.Zero(t, code, stderr)
			require.Contains(t, stdout, "nothing to do")
			require.Equal(t, orders, s.ca.Orders())
			require.Equal(t, kept.Bundle.Leaf(), s.maas.Regions[0].Serves(5443))

			// The CA knows it: its window counts, and its account orders the next one.
			code, _, stderr = inSite(t, s, world.OS{}, "renew", "--force")
			require.Zero(t, code, stderr)
			require.Equal(t, orders+1, s.ca.Orders())
			version, err = certstore.LoadVersion(t.Context(), storeOf(s), "maas", 2)
			require.NoError(t, err)
			require.Equal(t, kept.AccountURL, version.Account)
			code, stdout, stderr = inSite(t, s, world.OS{}, "rollback")
			require.Zero(t, code, stderr)
			require.Contains(t, stdout, "version 1 is current again")

			// Once more: the store has the certificate and the account already, and the hold of the rollback stays.
			code, stdout, stderr = inSite(t, s, world.OS{}, "import", client, path)
			require.Zero(t, code, stderr)
			require.Contains(t, stdout, "maas: version 1 is current")
			record, _, err := certstore.LoadRecord(t.Context(), storeOf(s), "maas")
			require.NoError(t, err)
			require.False(t, record.HeldUntil.IsZero())
			// And not in the place of what ends later.
			code, _, stderr = inSite(t, s, world.OS{}, "rollback", "--to", "2")
			require.Zero(t, code, stderr)
			code, _, stderr = inSite(t, s, world.OS{}, "import", client, path)
			require.Equal(t, exitAttention, code)
			require.Contains(t, stderr, "version 2, which is in use, does not end before it")
			require.Equal(t, before, bytesBelow(t, folder), "nothing of the other client's was touched")
		})
	}
}

// What cannot be taken is said, and the rest is taken.
func TestImportOfWhatIsBroken(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	path, kept := movedOut(t, s, "certbot")
	folder := filepath.Join(s.dir, "certbot")
	keyFile := filepath.Join(folder, "archive", kept.Name, "privkey1.pem")
	chainFile := filepath.Join(folder, "archive", kept.Name, "fullchain1.pem")
	confFile := filepath.Join(folder, "renewal", kept.Name+".conf")
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), append(s.ca.Root(0), authority.RootPEM()...), 0o644))
	old, err := authority.Issue(certstore.EC256, 2*time.Hour, time.Hour, "maas.example.internal", "region1.example.internal")
	require.NoError(t, err)
	fewer, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example.internal")
	require.NoError(t, err)
	for name, row := range map[string]struct {
		files       map[string]string
		args        []string
		says        string
		takesAlmost bool // the account is taken
	}{
		"a key with a passphrase": {map[string]string{keyFile: "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"}, nil, "the certificate was not taken: .*passphrase", true},
		"another's key":           {map[string]string{keyFile: string(fewer.KeyPEM())}, nil, "the certificate was not taken: .*does not belong", true},
		"half a certificate":      {map[string]string{chainFile: "-----BEGIN CERTIFICATE-----\nMIIB"}, nil, "the certificate was not taken", true},
		"one that has expired":    {map[string]string{chainFile: string(old.FullChainPEM()), keyFile: string(old.KeyPEM())}, nil, "the certificate was not taken: it expired on", true},
		"one with too few names":  {map[string]string{chainFile: string(fewer.FullChainPEM()), keyFile: string(fewer.KeyPEM())}, nil, "the certificate was not taken: maas: names that MAAS serves now would be lost: region1.example.internal", true},
		"a CA for tests":          {map[string]string{confFile: "[renewalparams]\nserver = " + acme.LetsEncryptStaging + "\naccount = 1\n"}, nil, "comes from a CA for tests, which no client trusts", false},
		"another CA than it says": {nil, []string{"import", "certbot", folder, "--directory", "https://other.example/dir"}, "--directory: certbot says that maas.example.internal comes from ", false},
		"a client that is none":   {nil, []string{"import", "getssl"}, `"getssl" is no client`, false},
		"a word too much":         {nil, []string{"import", "maas", path}, "import takes no argument", false},
	} {
		was := map[string][]byte{}
		for file, text := range row.files {
			var err error
			was[file], err = os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		}
		require.NoError(t, os.RemoveAll(filepath.Join(s.dir, "state")))
		if row.args == nil {
			row.args = []string{"import", "certbot", folder}
		}
		code, stdout, stderr := inSite(t, s, world.OS{}, row.args...)
		require.NotZero(t, code, name)
		require.Regexp(t, row.says, stderr, name)
		account, _, err := certstore.LoadAccount(t.Context(), storeOf(s))
		require.NoError(t, err)
		require.Equal(t, row.takesAlmost, account.Registrations[s.ca.Directory].URL == kept.AccountURL, "%s: %s%s", name, stdout, stderr)
		record, _, err := certstore.LoadRecord(t.Context(), storeOf(s), "maas")
		require.True(t, err != nil || record.Current == 0, name)
		for file, text := range was {
			require.NoError(t, os.WriteFile(file, text, 0o600))
		}
	}
}

// A store keeps the account that it has.
func TestImportLeavesTheStoresAccountAlone(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	path, _ := movedOut(t, s, "acme.sh")
	code, own, stderr := inSite(t, s, world.OS{}, "account", "show")
	require.Zero(t, code, stderr)
	code, stdout, stderr := inSite(t, s, world.OS{}, "import", "acme.sh", path)
	require.Zero(t, code, stderr)
	require.Contains(t, stderr, "the account was not taken: the store has an ACME account of its own")
	require.Contains(t, stdout, "maas: version 1 is current")
	require.NotContains(t, stdout, "one for both")
	_, after, _ := inSite(t, s, world.OS{}, "account", "show")
	require.Equal(t, own, after)
}

// What this host's region serves is imported with what belongs to it, and no account.
func TestImportFromMAAS(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	_, kept := movedOut(t, s, "lego")
	orders := s.ca.Orders()
	code, stdout, stderr := inSite(t, s, world.OS{}, "import", "maas")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "maas: version 1 is current: maas.example.internal, region1.example.internal, until ")
	require.NotContains(t, stdout, "switch off")
	code, stdout, stderr = inSite(t, s, world.OS{}, "renew")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "nothing to do")
	require.Equal(t, orders, s.ca.Orders())
	require.Equal(t, kept.Bundle.Leaf(), s.maas.Regions[0].Serves(5443))
}

// The configuration is written where there is none, and nothing else is needed to renew by it. One that is there is left alone, and what
// it lacks is printed.
func TestImportWritesAConfiguration(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	path, kept := movedOut(t, s, "acme.sh")
	file := filepath.Join(s.dir, "etc", "maascert.yaml")
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "root.pem"), s.ca.Root(0), 0o644))
	others := world.OS{} // the state lies where it does as a rule then, on the site's own host, which has no MAAS
	code, stdout, stderr := inSite(t, s, others, "--config", file, "import", "acme.sh", path, "--root", filepath.Join(s.dir, "root.pem"))
	require.Equal(t, exitAttention, code, stderr)
	require.Contains(t, stdout, "wrote "+file)
	require.Contains(t, stderr, "the certificate was not taken: maas: ")
	conf, err := config.Load(file, testTypes())
	require.NoError(t, err)
	require.Equal(t, s.ca.Directory, conf.ACME.Directory)
	require.Equal(t, "ops@example.com", conf.ACME.Email)
	require.True(t, conf.ACME.AcceptTerms)
	require.Equal(t, []string{"maas.example.internal", "region1.example.internal"}, conf.Certificates[0].Names)
	require.Equal(t, kept.Bundle.KeyType(), conf.Certificates[0].KeyType)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, stderr, `acme.sh proved the names by "dns_nsupdate", and how is not taken over`)
	require.Contains(t, string(text), `# acme.sh proved the names by "dns_nsupdate".`)

	// What makes no configuration is not left behind.
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	odd, err := authority.Issue(certstore.EC256, 0, time.Hour, "*.example.internal")
	require.NoError(t, err)
	kept.Name, kept.Bundle = "wild", odd
	strange, err := lineagetest.Writers["certbot"](filepath.Join(s.dir, "certbot"), kept)
	require.NoError(t, err)
	code, stdout, stderr = inSite(t, s, others, "--config", filepath.Join(s.dir, "new.yaml"), "import", "certbot", strange)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stdout, `names: ["*.example.internal"]`)
	require.Contains(t, stderr, "a wildcard is proven only by dns-01")
	require.Contains(t, stderr, "hint: write it there with that mended, and import again")
	require.NoFileExists(t, filepath.Join(s.dir, "new.yaml"))

	good, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example.internal")
	require.NoError(t, err)
	kept.Name, kept.Bundle = "good", good
	plain, err := lineagetest.Writers["certbot"](filepath.Join(s.dir, "certbot2"), kept)
	require.NoError(t, err)
	_, _, stderr = inSite(t, s, others, "--config", filepath.Join(s.dir, "new.yaml"), "import", "certbot", plain)
	conf, err = config.Load(filepath.Join(s.dir, "new.yaml"), testTypes())
	require.NoError(t, err, stderr)
	require.Equal(t, "/var/www/html", conf.ACME.Challenge.Webroot)

	s.edit(t, "names: [maas.example.internal, region1.example.internal]", "names: [maas.example.internal]")
	before, err := os.ReadFile(filepath.Join(s.dir, "maascert.yaml"))
	require.NoError(t, err)
	code, stdout, stderr = inSite(t, s, world.OS{}, "import", "acme.sh", path)
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "the configuration stays as it is; what maas lacks of the names found: region1.example.internal\n")
	require.NotContains(t, stdout, "another CA")
	after, err := os.ReadFile(filepath.Join(s.dir, "maascert.yaml"))
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
}

// lego writes down the CA's host alone: another one that a person names is refused, and so is a folder that others may write.
func TestImportTakesNothingOnTrust(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	path, kept := movedOut(t, s, "lego")
	code, _, stderr := inSite(t, s, world.OS{}, "import", "lego", path, "--directory", "letsencrypt")
	require.Equal(t, exitAttention, code)
	require.Contains(t, stderr, "--directory: lego says that maas.example.internal comes from 127.0.0.1:")
	kept.Directory = acme.LetsEncryptStaging
	staged, err := lineagetest.Writers["lego"](filepath.Join(s.dir, "staged"), kept)
	require.NoError(t, err)
	code, _, stderr = inSite(t, s, world.OS{}, "import", "lego", staged)
	require.Equal(t, exitAttention, code)
	require.Contains(t, stderr, "a CA for tests")
	require.NoError(t, os.Chmod(filepath.Join(s.dir, "lego"), 0o777))
	code, _, stderr = inSite(t, s, world.OS{}, "import", "lego", path)
	require.Equal(t, exitAttention, code)
	require.Contains(t, stderr, "is not safe: everybody may write")
	account, _, err := certstore.LoadAccount(t.Context(), storeOf(s))
	require.NoError(t, err)
	require.Empty(t, account.Key)
}
