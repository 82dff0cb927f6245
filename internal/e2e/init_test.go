//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/internal/fleettest"
)

// realCA is a CA that somebody sets maascert up for.
type realCA struct {
	name      string
	directory string
	root      []byte   // of its server and of what it issues
	options   []string // that init needs to trust it, where nobody is asked
	isShown   bool     // it shows its root itself
	hasTerms  bool
}

func (c realCA) fingerprint(t *testing.T) string {
	t.Helper()
	certs, err := certstore.ParseCertificates(c.root)
	require.NoError(t, err)
	return strings.TrimPrefix(certstore.Fingerprint(certs[0]), "sha256:")
}

// startStepCA, startCaddyCA and startPebble are CAs that look at port 80 of whatever the resolver says.
func startStepCA(t *testing.T, resolver *acmetest.DNS) realCA {
	t.Helper()
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	require.NoError(t, os.WriteFile(password, []byte("for this test only"), 0o600))
	env := []string{"STEPPATH=" + dir}
	initialize := exec.Command(tool(t, "step"), "ca", "init", "--name", "e2e", "--dns", "127.0.0.1", "--address", "127.0.0.1:9000",
		"--provisioner", "admin", "--password-file", password, "--deployment-type", "standalone", "--acme")
	initialize.Env = append(os.Environ(), env...)
	out, err := initialize.CombinedOutput()
	require.NoError(t, err, string(out))
	start(t, env, tool(t, "step-ca"), filepath.Join(dir, "config", "ca.json"), "--password-file", password, "--resolver", resolver.Address)
	root, err := os.ReadFile(filepath.Join(dir, "certs", "root_ca.crt"))
	require.NoError(t, err)
	ca := realCA{name: "step-ca", directory: "https://127.0.0.1:9000/acme/acme/directory", root: root, isShown: true}
	ca.options = []string{"--root-fingerprint", ca.fingerprint(t)}
	wait(t, ca.directory, root)
	return ca
}

// Caddy shows its root by its own API, which its operator leads people to.
func startCaddyCA(t *testing.T) realCA {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `{
	admin 127.0.0.1:2020
	skip_install_trust
	auto_https disable_redirects
	storage file_system %s
}
https://127.0.0.1:9001 {
	tls internal
	handle /pki/* {
		reverse_proxy 127.0.0.1:2020 {
			header_up Host {upstream_hostport}
		}
	}
	handle {
		acme_server
	}
}
`, dir), 0o600))
	// It asks the system's resolvers, which are those of a mount namespace of its own.
	resolvers := filepath.Join(dir, "resolv.conf")
	require.NoError(t, os.WriteFile(resolvers, []byte("nameserver 127.0.0.1\n"), 0o644))
	start(t, []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, "unshare", "-m", "sh", "-c",
		`mount --bind "$1" /etc/resolv.conf && exec "$2" run --config "$3" --adapter caddyfile`, "sh", resolvers, tool(t, "caddy"), file)
	var root []byte
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "pki", "authorities", "local", "root.crt"))
		root = text
		return err == nil && bytes.Contains(root, []byte("END CERTIFICATE"))
	}, time.Minute, 50*time.Millisecond)
	ca := realCA{name: "Caddy", directory: "https://127.0.0.1:9001/acme/local/directory", root: root, isShown: true}
	ca.options = []string{"--root-fingerprint", strings.ToUpper(ca.fingerprint(t))}
	wait(t, ca.directory, root)
	return ca
}

// Pebble shows its roots to nobody: its operator gave somebody a file.
func startPebble(t *testing.T) realCA {
	t.Helper()
	pebble := acmetest.New(t, acmetest.Options{HTTPPort: 80, Validity: 90 * 24 * time.Hour})
	pebble.DNS.Point(netip.MustParseAddr(regionAddresses[0]))
	ca := realCA{name: "Pebble", directory: pebble.Directory, root: slices.Concat(pebble.DirectoryRoot(), pebble.Root(0)), hasTerms: true}
	file := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(file, ca.root, 0o644))
	ca.options = []string{"--root", file}
	return ca
}

// A newcomer's three commands, with no file edited by hand: init, renew, and the daemon.
func TestANewcomer(t *testing.T) {
	require.Zero(t, os.Geteuid(), "namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^TestANewcomer$", "-test.v", "-test.timeout", "10m")
	require.NoError(t, err)
	if !isInside {
		return
	}
	addAddresses(t)
	resolver := startResolver(t)
	for _, ca := range []realCA{startStepCA(t, resolver), startCaddyCA(t), startPebble(t)} {
		for _, way := range []string{"form", "line by line", "options", "yes"} {
			t.Run(ca.name+" "+way, func(t *testing.T) {
				h := newRegionHost(t)
				switch way {
				case "form":
					h.init(ca, false)
				case "line by line":
					h.init(ca, true)
				case "options":
					line := append([]string{"maascert init --yes --directory", ca.directory, "--name maas.example.internal --name 10.0.0.11 --email ops@example.com --key-type rsa2048",
						"--challenge http-01 --endpoint 10.0.0.11 --endpoint 10.0.0.12 --accept-terms --rehearse"}, ca.options...)
					said := h.must(strings.Join(line, " "))
					require.Contains(t, said, "the CA proved every name and issued nothing")
				case "yes":
					line := append([]string{"maascert init --yes --accept-terms --directory", ca.directory}, ca.options...)
					said := h.must(strings.Join(line, " "))
					require.Contains(t, said, "what is left:\n  maascert renew --enable-tls ")
				}
				config := h.must("cat /etc/maascert/maascert.yaml; stat -c %a /etc/maascert/maascert.yaml")
				require.Contains(t, config, "640\n")
				t.Log(config)
				h.must("maascert config test")
				h.must("maascert renew --enable-tls")
				h.must("systemctl enable --now maascert")
				require.Eventually(t, func() bool { _, code := h.sh("curl -fsS http://127.0.0.1:9543/healthz", ""); return code == 0 }, 20*time.Second, 50*time.Millisecond)
				h.must("maascert status")
				h.servesWith(ca.root)
				h.must("systemctl stop maascert")
			})
		}
	}
}

// What nobody can propose is asked for, nothing is trusted that nobody vouches for, and what is there stays.
func TestInitTakesNothingOnTrust(t *testing.T) {
	require.Zero(t, os.Geteuid(), "namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^TestInitTakesNothingOnTrust$", "-test.v", "-test.timeout", "10m")
	require.NoError(t, err)
	if !isInside {
		return
	}
	addAddresses(t)
	resolver := startResolver(t)
	step, pebble := startStepCA(t, resolver), startPebble(t)
	h := newRegionHost(t)
	h.must("rm -f /etc/maascert/.ready; mkdir -p /etc/haproxy/certs; mkdir -m 0777 /tmp/open; printf 'frontend maas\\n bind *:8443 ssl crt /etc/haproxy/certs/maas.pem\\n' >/etc/haproxy/haproxy.cfg")
	t.Cleanup(func() { _ = os.Remove("/tmp/open") })
	h.givesUp(step)
	for _, row := range []struct {
		line, says string
		code       int
	}{
		{"maascert init", "init: there is no terminal to ask at", 2},
		{"maascert init --yes", "init: which CA?", 2},
		{"maascert init --yes --directory http://ca.example/", "is no https URL", 2},
		{"maascert init --yes --directory " + step.directory, "nobody vouches for the root that it shows", 2},
		{"maascert init --yes --directory " + step.directory + " --root-fingerprint " + strings.Repeat("ab", 32), "the CA shows no root certificate of this fingerprint", 1},
		{"maascert init --yes --directory " + step.directory + " --root-fingerprint abcd", "is no SHA-256 fingerprint", 2},
		{"maascert init --yes --directory " + step.directory + " --root /etc/passwd", "--root: ", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(pebble.options, " "), "certificate signed by unknown authority", 1},
		{"maascert init --yes --directory " + pebble.directory + " " + strings.Join(pebble.options, " "), "then: --accept-terms", 2},
		{"maascert init --yes --directory " + pebble.directory, "nobody vouches for the root that it shows", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --name 'not a name'", "not a name", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --name '*.example.internal'", "wildcards need dns-01", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --name maas.example.internal --name 10.0.0.11 --challenge dns-01 --api-user admin", "dns-01 cannot prove addresses: 10.0.0.11", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --challenge dns-01", "records in MAAS's DNS need its API: --api-user", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --challenge tls-alpn-01 --webroot www", "answers in a folder are those of http-01", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --endpoint 'foo bar'", "--endpoint:", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --email nobody", "--email: \"nobody\" is no mail address", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --eab-key-id kid", "bound to an external one", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --eab-key-id kid --eab-hmac Zm9vYmFyYmF6cXV4", "--eab-hmac: a secret is not written here", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --key-type dsa", "what was said makes no configuration", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --haproxy /etc/haproxy/certs", "--haproxy: ", 2},
		{"maascert init --yes --directory letsencrypt-staging", "no client trusts what Let's Encrypt's CA for tests issues", 2},
		{"maascert --config /tmp/open/maascert.yaml init --yes --directory " + step.directory + " " + strings.Join(step.options, " "), "a configuration there would not be safe", 2},
		{"maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --name MAAS.example.internal --name maas.example.internal --api-user nosuch:user " +
			"--haproxy /etc/haproxy/certs/maas.pem", "", 0},
	} {
		said, code := h.sh(row.line, "")
		require.Equal(t, row.code, code, "%s\n%s", row.line, said)
		require.Contains(t, said, row.says, row.line)
		if code != 0 {
			require.Empty(t, h.must("ls /etc/maascert"), "%s wrote something", row.line)
		}
	}
	require.Contains(t, h.must("cat /etc/maascert/maascert.yaml"), `front: {type: haproxy, pem: /etc/haproxy/certs/maas.pem, endpoints: ["127.0.0.1:8443"]}`)
	require.Contains(t, h.must("cat /etc/maascert/maascert.yaml"), `api: {key: "file:api.key"}`)
	require.Equal(t, "600\n", h.must("stat -c %a /etc/maascert/api.key"))
	said, code := h.sh("maascert init --yes --directory "+step.directory, "")
	require.Equal(t, 2, code)
	require.Contains(t, said, "/etc/maascert/maascert.yaml is there already")
	before := h.must("cat /etc/maascert/maascert.yaml")
	h.must("printf 'notify: []\\n' >>/etc/maascert/maascert.yaml; echo other >/etc/maascert/root_ca.pem")
	said = h.must("maascert init --yes --force --directory " + step.directory + " " + strings.Join(step.options, " ") + " --name maas.example.internal")
	require.Contains(t, said, "not taken over from the configuration before: notify")
	require.Equal(t, before+"notify: []\n", h.must("cat /etc/maascert/maascert.yaml.old"))
	require.Equal(t, "other\n", h.must("cat /etc/maascert/root_ca.pem.old"))
	h.must("maascert init --yes --force --directory " + step.directory + " " + strings.Join(step.options, " ") + " --name maas.example.internal")
	require.Equal(t, before+"notify: []\n", h.must("cat /etc/maascert/maascert.yaml.old"), "what a person wrote is kept however often that is done")
	h.must("test -e /etc/maascert/maascert.yaml.old2")
	require.NotContains(t, h.must("cat /etc/maascert/maascert.yaml"), "  - region")

	// What is served now is proposed, and what else gives MAAS a certificate is named.
	h.must("maascert renew --enable-tls")
	h.must("printf '0 3 * * * root maas config-tls enable k c --yes\\n' >/etc/cron.d/maas; rm -r /etc/maascert/maascert.yaml")
	said = h.must("maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " "))
	require.Contains(t, said, "TLS is on, on port 5443, with a certificate of e2e Intermediate CA until ")
	require.Contains(t, said, "/etc/cron.d/maas")
	require.NotContains(t, said, "--enable-tls")
	require.Contains(t, h.must("cat /etc/maascert/maascert.yaml"), "- maas.example.internal   # served now")
}

// init drives the form: at a terminal, or line by line at one that can do no more.
func (h *regionHost) init(ca realCA, isPlain bool) {
	h.Helper()
	var options []string
	if !ca.isShown {
		options = ca.options
	}
	cmd, s := h.ask(isPlain, options...)
	s.answer("Which CA is to issue the certificate?", "1", "")
	s.answer("URL of its ACME directory", ca.directory, ca.directory)
	if ca.isShown {
		s.agree("Is this the fingerprint")
	}
	if ca.hasTerms {
		s.agree("Do you agree to the CA's terms of service?")
	}
	s.answer("Mail address that the CA may write to", "ops@example.com", "ops@example.com")
	s.answer("Make an API key of which MAAS administrator?", "admin", "admin")
	s.answer("Under which names and addresses is MAAS reached?", "0", "")
	s.answer("Further names, with blanks between them", "region1.example.internal", "region1.example.internal")
	s.answer("How is the CA to see that the names are ours?", "1", "")
	s.agree("Write that to /etc/maascert/maascert.yaml?")
	s.agree("Rehearse the first renewal?")
	<-s.closed
	_ = cmd.Wait()
	require.Zero(h, cmd.ProcessState.ExitCode(), s.said.String())
	require.Contains(h, s.said.String(), "the CA proved every name and issued nothing")
	require.Contains(h, s.said.String(), "systemctl enable --now maascert")
	h.Logf("%s", s.said.String())
}

// ask starts init at a terminal.
func (h *regionHost) ask(isPlain bool, options ...string) (*exec.Cmd, *screen) {
	h.Helper()
	args := append([]string{"-t", h.pid(), "-m", "--", "maascert", "init"}, options...)
	cmd := exec.CommandContext(h.Context(), "nsenter", args...)
	term := "TERM=xterm-256color"
	if isPlain {
		term = "TERM=dumb"
	}
	cmd.Env = append(slices.Clone(h.env), term, "NO_COLOR=")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 120})
	require.NoError(h, err)
	s := &screen{T: h.T, terminal: terminal, isPlain: isPlain, closed: make(chan struct{})}
	go s.read()
	return cmd, s
}

// givesUp begins to answer, and ends: by Ctrl-C, and by a no. Nothing is left then, in MAAS neither.
func (h *regionHost) givesUp(ca realCA) {
	h.Helper()
	for _, row := range []struct {
		question, answer string
		code             int
	}{{"Under which names", "\x03", 130}, {"Write that to", "n\n", 1}} {
		cmd, s := h.ask(true)
		s.answer("Which CA is to issue the certificate?", "1", "")
		s.answer("URL of its ACME directory", ca.directory, "")
		s.agree("Is this the fingerprint")
		s.answer("Mail address", "", "")
		s.answer("Make an API key of which MAAS administrator?", "admin", "")
		if row.code == 1 {
			s.answer("Under which names", "0", "")
			s.answer("Further names", "", "")
			s.answer("How is the CA to see", "1", "")
			s.answer("Is HAProxy to serve the certificate at 127.0.0.1:8443 too?", "n", "")
		}
		s.wait(row.question)
		s.write(row.answer)
		<-s.closed
		_ = cmd.Wait()
		require.Equal(h, row.code, cmd.ProcessState.ExitCode())
		require.Empty(h, h.must("ls /etc/maascert"))
	}
	require.Empty(h, h.maas.Calls(), "no key was made")
}

// screen is a terminal at which a person answers.
type screen struct {
	*testing.T
	terminal *os.File
	isPlain  bool
	closed   chan struct{} // closed once all was read that the program wrote: a terminal keeps it beyond the program's end
	mu       sync.Mutex
	said     strings.Builder
	seen     int // how much of it was answered
}

func (s *screen) read() {
	defer close(s.closed)
	buffer := make([]byte, 4096)
	for {
		n, err := s.terminal.Read(buffer)
		s.mu.Lock()
		s.said.Write(buffer[:n])
		s.mu.Unlock()
		if err != nil { // a terminal whose other end is gone says EIO
			return
		}
	}
}

// answer waits for a question and types what a person would: a line, or a text into a form.
func (s *screen) answer(question, line, text string) {
	s.Helper()
	s.wait(question)
	switch {
	case s.isPlain:
		s.write(line + "\n")
	case text == "":
		s.key("\r")
	default:
		s.key("x") // what is typed before a form has its cursor is lost
		s.key("\x7f")
		s.write(text + "\r")
	}
}

// agree waits for a question and says yes, which in a form is one key.
func (s *screen) agree(question string) {
	s.Helper()
	s.wait(question)
	if s.isPlain {
		s.write("y\n")
	} else {
		s.key("y")
	}
}

func (s *screen) write(text string) {
	s.Helper()
	_, err := s.terminal.WriteString(text)
	require.NoError(s, err)
}

// key presses a key until the screen answers, as a person does.
func (s *screen) key(key string) {
	s.Helper()
	length := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.said.Len()
	}
	before := length()
	require.Eventually(s, func() bool {
		s.write(key)
		deadline := time.Now().Add(2 * time.Second)
		for time.Now().Before(deadline) && length() == before {
			time.Sleep(5 * time.Millisecond)
		}
		return length() > before
	}, 30*time.Second, time.Millisecond, "%q does nothing", key)
}

func (s *screen) wait(question string) {
	s.Helper()
	defer func() {
		if s.Failed() {
			s.Logf("the screen:\n%q", s.said.String())
		}
	}()
	require.Eventually(s, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		at := strings.Index(s.said.String()[s.seen:], question)
		if at < 0 {
			return false
		}
		s.seen += at + len(question)
		return true
	}, 30*time.Second, 20*time.Millisecond, "%q was not asked", question)
}
