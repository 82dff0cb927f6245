package maastest_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"maascert/certstore/certtest"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

func TestMain(m *testing.M) {
	maastest.Main()
	os.Exit(m.Run())
}

// row is one line of the table of what the real command was seen to do.
type row struct{ name, args, exit, stderr, asked, stored string }

func observed(t *testing.T) []row {
	t.Helper()
	text, err := os.ReadFile("testdata/observed.tsv")
	require.NoError(t, err)
	var rows []row
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		require.Len(t, cells, 6, line)
		rows = append(rows, row{cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]})
	}
	require.GreaterOrEqual(t, len(rows), 109)
	return rows
}

// material writes every file that the table names into a folder.
func material(t *testing.T) string {
	t.Helper()
	archive, err := txtar.ParseFile("testdata/observed.txtar")
	require.NoError(t, err)
	f := map[string]string{}
	for _, file := range archive.Files {
		f[file.Name] = string(file.Data)
	}
	der := func(name string) string {
		block, _ := pem.Decode([]byte(f[name]))
		return string(block.Bytes)
	}
	crlf := func(text string) string { return strings.ReplaceAll(text, "\n", "\r\n") }
	bare := func(text string) string { return strings.TrimSuffix(text, "\n") }
	key, leaf, inter, root := f["rsa2048.p8.key"], f["rsa2048.crt"], f["inter.pem"], f["root.pem"]
	bad := "-----BEGIN CERTIFICATE-----\naGVsbG8gd29ybGQsIHRoaXMgaXMgbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"
	maps.Copy(f, map[string]string{
		"rsa2048.der.key": der("rsa2048.p8.key"), "rsa2048.der.crt": der("rsa2048.crt"),
		"empty.pem": "", "garbage.pem": "this is no PEM\n",
		"truncated.crt": leaf[:len(leaf)/2], "truncated.pem": inter[:len(inter)/2],
		"rsa2048.fullchain.pem": leaf + inter, "rsa2048.fullchain-root.pem": leaf + inter + root, "chain-wrong-order.pem": inter + leaf,
		"leaf-crlf.crt": crlf(leaf), "key-crlf.key": crlf(key), "leaf-bom.crt": "\ufeff" + leaf,
		"leaf-bag.crt": "Bag Attributes\n    friendlyName: maas\n" + leaf, "latin1.crt": "# caf\xe9\n" + leaf,
		"key-nonl.key": bare(key), "leaf-nonl.crt": bare(leaf),
		"combined.pem": key + leaf, "combined-certfirst.pem": leaf + key,
		"key+oldcert.key": key + f["expired.crt"], "otherkey+matchingkey.key": f["other-rsa2048.key"] + key,
		"inter+root.pem": inter + root, "root+inter.pem": root + inter, "inter+unrelated.pem": inter + f["unrelated.pem"],
		"leaf+inter.pem": leaf + inter, "leaf+inter+root.pem": leaf + inter + root, "leafonly.pem": leaf, "inter-twice.pem": inter + inter,
		"badb64.pem": bad, "badcert-in-chain.pem": inter + bad, "chain+key.pem": inter + key,
		"chain-text.pem": "first\n" + inter + "second\n" + root + "end\n", "chain-crlf.pem": crlf(inter + root), "chain-nonl.pem": bare(inter + root),
		"chain-glued.pem": bare(inter) + root, "x509.pem": strings.ReplaceAll(inter, " CERTIFICATE", " X509 CERTIFICATE"),
	})
	dir := t.TempDir()
	for name, text := range f {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

// stdin is what the case's name says was typed.
func stdin(t *testing.T, r row, dir string) string {
	t.Helper()
	switch {
	case strings.HasPrefix(r.name, "key from stdin"):
		text, err := os.ReadFile(filepath.Join(dir, "rsa2048.p8.key"))
		require.NoError(t, err)
		return string(text)
	case strings.Contains(r.name, "1000 y lines"):
		return strings.Repeat("y\n", 1000)
	case strings.Contains(r.name, "stdin '"):
		_, typed, _ := strings.Cut(r.name, "stdin '")
		return strings.ReplaceAll(strings.TrimSuffix(typed, "'"), `\n`, "\n")
	case strings.Contains(r.name, "stdin y,"):
		return "y\n"
	case strings.Contains(r.name, "stdin n,"):
		return "n\n"
	default:
		return ""
	}
}

// changedBy38 is what a row says from 3.8 on, where only RSA keys pass (MAAS fact 1.4).
func changedBy38(r row) (stderr string, ok bool) {
	elliptic := strings.HasPrefix(r.name, "ec") || r.name == "mismatched key, same type (EC)" || r.name == "mismatched key, EC key / RSA cert"
	edwards := strings.Contains(r.args, "ed25519.p8.key") || strings.Contains(r.args, "ed448.p8.key")
	switch {
	case elliptic:
		return "ECPrivateKey.sign() takes 2 positional arguments but 3 were given", true
	case edwards:
		return "PrivateKey.sign() takes 2 positional arguments but 3 were given", true
	default:
		return "", false
	}
}

func TestTheCommandDoesWhatTheRealOneWasSeenToDo(t *testing.T) {
	t.Parallel()
	dir := material(t)
	for _, version := range []maasconfig.Version{{Major: 3, Minor: 4, Patch: 8}, {Major: 3, Minor: 8}} {
		for _, r := range observed(t) {
			t.Run(version.String()+"/"+r.name, func(t *testing.T) {
				t.Parallel()
				if changed, ok := changedBy38(r); ok && version.AtLeast(3, 8) {
					r.exit, r.stderr, r.stored = "2", changed, "(nothing)"
				}
				check(t, r, dir, version)
			})
		}
	}
}

func check(t *testing.T, r row, dir string, version maasconfig.Version) {
	d := maastest.NewDatabase(version)
	args := append([]string{"config-tls"}, strings.Fields(r.args)...)
	if strings.Contains(r.name, "empty string") {
		args = append(args, "")
	}
	for i, arg := range args {
		if strings.HasSuffix(arg, ".key") || strings.HasSuffix(arg, ".crt") || strings.HasSuffix(arg, ".pem") {
			args[i] = filepath.Join(dir, arg)
		}
		if arg == "/somedir" {
			args[i] = dir
		}
	}
	if strings.HasPrefix(r.name, "disable when enabled") {
		d.Set(&maastest.Secret{Port: 5443})
	}
	var stdout, stderr bytes.Buffer
	exit := d.Run(strings.NewReader(stdin(t, r, dir)), &stdout, &stderr, args...)
	require.Equal(t, r.exit, fmt.Sprint(exit), stderr.String())
	require.Equal(t, r.asked == "prompt", strings.HasPrefix(stdout.String(), "Once TLS is enabled"))

	lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
	last := strings.NewReplacer(dir+"/", "", dir, "/somedir").Replace(lines[len(lines)-1])
	if strings.HasPrefix(r.stderr, "PrivateKey.sign()") {
		require.Contains(t, last, r.stderr)
	} else {
		require.Equal(t, r.stderr, last)
	}
	if exit == 2 {
		require.GreaterOrEqual(t, len(lines), 3, "the help comes before the message")
	}
	require.Equal(t, r.stored, describe(t, d.Stored()))
}

// describe writes a stored secret as the table does.
func describe(t *testing.T, s *maastest.Secret) string {
	t.Helper()
	if s == nil {
		return "(nothing)"
	}
	key, _ := pem.Decode([]byte(s.Key))
	require.NotNil(t, key)
	return fmt.Sprintf("key=%s; cert=%s; cacert=%s; port=%d", key.Type, subjects(t, s.Cert), subjects(t, s.CACert), s.Port)
}

func subjects(t *testing.T, text string) string {
	t.Helper()
	var names []string
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		names = append(names, "'"+cert.Subject.CommonName+"'")
	}
	return "[" + strings.Join(names, ", ") + "]"
}

func TestTheCommandRefusesBeforeItStores(t *testing.T) {
	t.Parallel()
	dir := material(t)
	args := []string{"config-tls", "enable", filepath.Join(dir, "rsa2048.p8.key"), filepath.Join(dir, "rsa2048.crt"), "--yes"}
	for name, row := range map[string]struct {
		prepare func(*maastest.Database)
		args    []string
		exit    int
		stderr  string
	}{
		"a user that is not root":  {func(d *maastest.Database) { d.SetRoot(os.Geteuid() + 1) }, args, 1, "You can only 'config-tls' as root.\n"},
		"a database that is down":  {func(d *maastest.Database) { d.Reach(false) }, args, 2, "Is the server running on that host and accepting TCP/IP connections?\n"},
		"a call without a command": {func(*maastest.Database) {}, nil, 2, "too few arguments\n"},
		"a file error before root": {func(d *maastest.Database) { d.SetRoot(os.Geteuid() + 1) }, []string{"config-tls", "enable", "/nope", "/nope", "--yes"}, 2, "argument key: can't open '/nope': [Errno 2] No such file or directory: '/nope'\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := maastest.NewDatabase(maasconfig.Version{Major: 3, Minor: 7, Patch: 3})
			row.prepare(d)
			var stderr bytes.Buffer
			require.Equal(t, row.exit, d.Run(strings.NewReader(""), new(bytes.Buffer), &stderr, row.args...))
			require.True(t, strings.HasSuffix(stderr.String(), row.stderr), stderr.String())
			require.Nil(t, d.Stored())
		})
	}
}

// endless fails after a while, as a pipe does whose reader has gone.
type endless struct{ left int }

func (e *endless) Write(p []byte) (int, error) {
	if e.left -= len(p); e.left < 0 {
		return 0, errors.New("nobody reads")
	}
	return len(p), nil
}

func TestWithoutAnAnswerTheCommandAsksForEver(t *testing.T) {
	t.Parallel()
	dir := material(t)
	d := maastest.NewDatabase(maasconfig.Version{Major: 3, Minor: 7, Patch: 3})
	out := &endless{left: 1 << 20}
	d.Run(strings.NewReader(""), out, new(bytes.Buffer), "config-tls", "enable", filepath.Join(dir, "rsa2048.p8.key"), filepath.Join(dir, "rsa2048.crt"))
	require.Negative(t, out.left)
	require.Nil(t, d.Stored())
}

func TestRegionsTakeOver(t *testing.T) {
	t.Parallel()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	d := maastest.New(t, maastest.Options{})
	first, err := authority.Issue("ec256", 0, time.Hour, "maas.example")
	require.NoError(t, err)
	second, err := authority.Issue("ec256", 0, time.Hour, "maas.example")
	require.NoError(t, err)
	require.NoError(t, d.Enable(t.Context(), first, 5443))

	d.Regions[1].Break(maastest.Fault{Miss: 1})
	d.Regions[2].Break(maastest.Fault{Deaf: true})
	set := &maastest.Secret{Key: string(second.KeyPEM()), Cert: string(second.LeafPEM()), CACert: string(second.ChainPEM()), Port: 5443}
	until := func(what string, region int, leaf *x509.Certificate) {
		t.Helper()
		require.Eventually(t, func() bool {
			served := d.Regions[region].Serves(5443)
			return served != nil && served.Equal(leaf)
		}, 10*time.Second, 5*time.Millisecond, what)
	}
	d.Set(set)
	until("a healthy region takes over", 0, second.Leaf())
	require.True(t, d.Regions[1].Serves(5443).Equal(first.Leaf()), "a region that missed the notification does not")
	d.Set(set)
	until("a region that missed one notification hears the next", 1, second.Leaf())
	require.True(t, d.Regions[2].Serves(5443).Equal(first.Leaf()), "a deaf region hears nothing")
	require.NoError(t, d.Regions[2].Restart())
	until("a deaf region reads the secret when it is restarted", 2, second.Leaf())

	text, err := os.ReadFile(filepath.Join(d.Regions[0].HTTPDir, "certs", "regiond-proxy.pem"))
	require.NoError(t, err)
	require.Equal(t, string(second.FullChainPEM()), string(text))
	info, err := os.Stat(filepath.Join(d.Regions[0].HTTPDir, "certs", "regiond-proxy-key.pem"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
}

func TestARefusedConfigurationMakesARegionDeafFrom35On(t *testing.T) {
	t.Parallel()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	for version, heals := range map[maasconfig.Version]bool{{Major: 3, Minor: 4, Patch: 8}: true, {Major: 3, Minor: 5}: false} {
		d := maastest.New(t, maastest.Options{Regions: 1, Version: version})
		good, err := authority.Issue("rsa2048", 0, time.Hour, "maas.example")
		require.NoError(t, err)
		require.NoError(t, d.Enable(t.Context(), good, 5443))
		better, err := authority.Issue("rsa2048", 0, time.Hour, "maas.example")
		require.NoError(t, err)
		secret := &maastest.Secret{Key: string(better.KeyPEM()), Cert: string(better.LeafPEM()), CACert: string(better.ChainPEM())}
		secret.Port = 70000
		d.Set(secret)
		region := d.Regions[0]
		require.Eventually(t, func() bool {
			conf, err := os.ReadFile(filepath.Join(region.HTTPDir, "regiond.nginx.conf"))
			return err == nil && strings.Contains(string(conf), "70000")
		}, 10*time.Second, 5*time.Millisecond)
		secret.Port = 5443
		require.Eventually(t, func() bool {
			d.Set(secret)
			served := region.Serves(5443)
			return served != nil && served.Equal(better.Leaf()) || !heals && region.Heard() > 3
		}, 10*time.Second, 20*time.Millisecond)
		require.Equal(t, heals, region.Serves(5443).Equal(better.Leaf()), version.String())
		require.NoError(t, region.Restart())
		require.True(t, region.Serves(5443).Equal(better.Leaf()))
	}
}

func TestFilesOfTheTableAreAllThere(t *testing.T) {
	t.Parallel()
	dir := material(t)
	missing := []string{"nosuch.key", "nosuch.crt", "nosuch.pem"}
	for _, r := range observed(t) {
		for word := range strings.FieldsSeq(r.args) {
			if ext := filepath.Ext(word); slices.Contains([]string{".key", ".crt", ".pem"}, ext) && !slices.Contains(missing, word) {
				require.FileExists(t, filepath.Join(dir, word), r.name)
			}
		}
	}
}
