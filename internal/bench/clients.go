package main

import (
	"crypto"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-acme/lego/v4/certcrypto"
	"github.com/go-acme/lego/v4/certificate"
	"github.com/go-acme/lego/v4/challenge/http01"
	"github.com/go-acme/lego/v4/lego"
	"github.com/go-acme/lego/v4/registration"

	"maascert/acme/acmetest"
)

// client is an ACME client to measure.
type client struct {
	name, id string
	path     string // the program
	// prepare writes what the client wants to have, and returns how it issues and, where it can, how it sees that there is
	// nothing to do.
	prepare func(work) (issue command, again *command, err error)
	// daemon is how the client runs all the time; nil where it does not, or where it was measured as one.
	daemon func(work) []string
}

// work is one issuance.
type work struct {
	dir     string
	path    string
	domains []string
	scene   *scene
}

func (w work) root() string   { return filepath.Join(w.dir, "root.pem") }
func (w work) issuer() string { return filepath.Join(w.dir, "issuer.pem") }
func (w work) port() string   { return strconv.Itoa(w.scene.ca.HTTPPort) }

// flags repeats a flag for each name.
func (w work) flags(flag string) []string {
	var args []string
	for _, domain := range w.domains {
		args = append(args, flag, domain)
	}
	return args
}

// command runs a client; until tells when a server has done what it is measured by.
type command struct {
	args, env []string
	until     func() bool
}

// clients are all that are known. Each makes a new account and a key of type P-256, and answers http-01 by itself.
func (b *bench) clients() []client {
	return []client{
		{name: "maascert", id: "maascert", path: b.maascert, prepare: maascert, daemon: daemon},
		{name: "lego's library", id: "library", path: self(), prepare: library},
		{name: "certbot", id: "certbot", path: "certbot", prepare: certbot},
		{name: "lego", id: "lego", path: "lego", prepare: legoCLI},
		{name: "Caddy", id: "caddy", path: "caddy", prepare: caddy},
	}
}

func self() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	return path
}

func maascert(w work) (command, *command, error) {
	file := filepath.Join(w.dir, "maascert.yaml")
	text := fmt.Sprintf(`state_dir: state
acme:
  directory: %s
  root: root.pem
  issuer_root: issuer.pem
  accept_terms: true
  challenge: {listen: "127.0.0.1:%s"}
certificates:
  - {name: bench, names: [%s], key_type: ec256, targets: []}
`, w.scene.directory(), w.port(), strings.Join(w.domains, ", "))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return command{}, nil, err
	}
	renew := command{args: []string{w.path, "--config", file, "renew"}}
	return renew, &renew, nil
}

func daemon(w work) []string {
	return []string{w.path, "--config", filepath.Join(w.dir, "maascert.yaml"), "run"}
}

func library(w work) (command, *command, error) {
	return command{args: append([]string{w.path, legoLibrary, w.scene.directory(), w.root(), w.port()}, w.domains...)}, nil, nil
}

// obtainByLego issues by lego's own Obtain.
func obtainByLego(args []string) error {
	directory, root, port, domains := args[0], args[1], args[2], args[3:]
	text, err := os.ReadFile(root)
	if err != nil {
		return err
	}
	key, err := certcrypto.GeneratePrivateKey(certcrypto.EC256)
	if err != nil {
		return err
	}
	user := &legoUser{key: key}
	config := lego.NewConfig(user)
	config.CADirURL = directory
	config.Certificate.KeyType = certcrypto.EC256
	config.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: acmetest.Pool(text)}}}
	client, err := lego.NewClient(config)
	if err != nil {
		return err
	}
	if err := client.Challenge.SetHTTP01Provider(http01.NewProviderServer("127.0.0.1", port)); err != nil {
		return err
	}
	if user.registration, err = client.Registration.Register(registration.RegisterOptions{TermsOfServiceAgreed: true}); err != nil {
		return err
	}
	_, err = client.Certificate.Obtain(certificate.ObtainRequest{Domains: domains, Bundle: true})
	return err
}

type legoUser struct {
	key          crypto.PrivateKey
	registration *registration.Resource
}

func (u *legoUser) GetEmail() string                        { return "" }
func (u *legoUser) GetRegistration() *registration.Resource { return u.registration }
func (u *legoUser) GetPrivateKey() crypto.PrivateKey        { return u.key }

func certbot(w work) (command, *command, error) {
	common := []string{"--config-dir", w.dir, "--work-dir", w.dir, "--logs-dir", w.dir, "-n", "-q"}
	env := []string{"REQUESTS_CA_BUNDLE=" + w.root()}
	issue := append([]string{w.path, "certonly"}, common...)
	issue = append(issue, "--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", w.port(), "--agree-tos",
		"--register-unsafely-without-email", "--server", w.scene.directory(), "--key-type", "ecdsa", "--elliptic-curve", "secp256r1")
	issue = append(issue, w.flags("-d")...)
	return command{args: issue, env: env}, &command{args: append([]string{w.path, "renew", "--no-random-sleep-on-renew"}, common...), env: env}, nil
}

func legoCLI(w work) (command, *command, error) {
	common := []string{w.path, "--server", w.scene.directory(), "--accept-tos", "--email", "bench@example.com", "--path", w.dir,
		"--key-type", "ec256", "--http", "--http.port", "127.0.0.1:" + w.port()}
	common = append(common, w.flags("-d")...)
	env := []string{"LEGO_CA_CERTIFICATES=" + w.root()}
	again := append(append([]string{}, common...), "renew", "--no-random-sleep")
	return command{args: append(append([]string{}, common...), "run"), env: env}, &command{args: again, env: env}, nil
}

// caddy obtains a certificate for each name.
func caddy(w work) (command, *command, error) {
	file := filepath.Join(w.dir, "Caddyfile")
	text := fmt.Sprintf(`{
	admin off
	skip_install_trust
	auto_https disable_redirects
	http_port %s
	https_port %d
	default_bind 127.0.0.1
	storage file_system %s
	acme_ca %s
	acme_ca_root %s
}
%s {
}
`, w.port(), w.scene.ca.TLSPort, w.dir, w.scene.directory(), w.root(), strings.Join(w.domains, ", "))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return command{}, nil, err
	}
	until := func() bool {
		found, err := filepath.Glob(filepath.Join(w.dir, "certificates", "*", "*", "*.crt"))
		return err == nil && len(found) == len(w.domains)
	}
	return command{
		args: []string{w.path, "run", "--config", file, "--adapter", "caddyfile"},
		env:  []string{"HOME=" + w.dir, "XDG_DATA_HOME=" + w.dir, "XDG_CONFIG_HOME=" + w.dir}, until: until,
	}, nil, nil
}
