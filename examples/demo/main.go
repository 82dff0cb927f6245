// Command demo shows maascert's main job for real: it starts an ACME CA and a simulated MAAS of three regions on this
// machine's loopback, and runs the built maascert against them as an administrator would. It listens nowhere else, asks
// nothing, and leaves nothing behind. It fails when any step does not end as it should.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

func main() {
	maastest.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// stage holds the CA and the deployment that the demo plays with.
type stage struct {
	ctx        context.Context
	program    string
	config     string
	deployment *maastest.Deployment
	step       int
}

func demo(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: demo PATH-OF-MAASCERT")
	}
	program, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "maascert-demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ca, err := acmetest.Start(acmetest.Options{Sleep: 3, AuthzReuse: 0, Validity: 90 * 24 * time.Hour})
	if err != nil {
		return err
	}
	defer ca.Stop()
	deployment, err := maastest.Start(maastest.Options{Dir: dir, Delay: 300 * time.Millisecond})
	if err != nil {
		return err
	}
	defer deployment.Stop()
	s := &stage{ctx: ctx, program: program, config: filepath.Join(dir, "maascert.yaml"), deployment: deployment}
	if err := s.configure(dir, ca); err != nil {
		return err
	}
	fmt.Printf("An ACME CA answers at %s; it takes up to two seconds to validate a name.\n", ca.Directory)
	fmt.Printf("A simulated MAAS 3.7.3 has three regions: %s.\n", strings.Join(deployment.Endpoints(), ", "))
	return s.play(ca)
}

func (s *stage) configure(dir string, ca *acmetest.CA) error {
	for name, text := range map[string][]byte{"directory_root.pem": ca.DirectoryRoot(), "issuer_root.pem": ca.Root(0)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	// The CA connects to each name at its address. All names lead to the first region, so that nothing has to listen on
	// more than that address.
	region1 := s.deployment.Regions[0].Address
	ca.DNS.Point(region1)
	text := fmt.Sprintf(`node: region1
state_dir: state
resolvers: ["%[7]s"]
acme:
  directory: %[1]s
  root: directory_root.pem
  issuer_root: issuer_root.pem
  accept_terms: true
  challenge: {type: http-01, listen: "%[2]s:%[3]d"}
certificates:
  - {name: maas, names: [maas.demo.internal, region1.demo.internal, %[2]s], key_type: rsa3072}
targets:
  maas: {type: maas, endpoints: [%[4]s], verify_timeout: 20s}
maas: {command: %[5]s, http_dir: %[6]s, stage_dir: stage, version: 3.7.3}
`, ca.Directory, region1, ca.HTTPPort, strings.Join(s.deployment.Endpoints(), ", "), s.deployment.Command, s.deployment.Regions[0].HTTPDir, ca.DNS.Address)
	return os.WriteFile(s.config, []byte(text), 0o640)
}

func (s *stage) play(ca *acmetest.CA) error {
	if err := s.show("Before: what each region serves", nil); err != nil {
		return err
	}
	if err := s.run("Is everything ready? (Not seen is only what a CA would see on port 80: this one looks elsewhere)", 0, "check"); err != nil {
		return err
	}
	if err := s.run("Rehearse it: the CA proves every name, nothing is issued, nothing is changed", 0, "renew", "--dry-run", "--enable-tls"); err != nil {
		return err
	}
	if n := len(ca.Issued()); n != 0 {
		return fmt.Errorf("the rehearsal made the CA issue %d certificates", n)
	}
	if calls := s.deployment.Calls(); len(calls) != 0 {
		return fmt.Errorf("the rehearsal called maas: %v", calls)
	}
	if err := s.run("Without being asked to, maascert does not enable TLS for the first time", 1, "renew"); err != nil {
		return err
	}
	if err := s.run("Do it", 0, "renew", "--enable-tls"); err != nil {
		return err
	}
	first, err := s.everywhere()
	if err != nil {
		return err
	}
	for _, step := range []struct {
		title string
		args  []string
	}{
		{"What is stored, and what does every endpoint serve?", []string{"status"}},
		{"A second pass finds nothing to do", []string{"renew"}},
		{"Force a renewal", []string{"renew", "--force"}},
	} {
		if err := s.run(step.title, 0, step.args...); err != nil {
			return err
		}
	}
	second, err := s.everywhere()
	if err != nil {
		return err
	}
	if first.Equal(second) {
		return errors.New("the forced renewal changed nothing")
	}
	if err := s.show("After: what each region serves", first); err != nil {
		return err
	}
	fmt.Printf("\nThe CA issued %d certificates; maas config-tls ran %d times.\n", len(ca.Issued()), len(s.deployment.Calls()))
	return nil
}

func (s *stage) title(format string, args ...any) {
	s.step++
	fmt.Printf("\n== %d. %s\n", s.step, fmt.Sprintf(format, args...))
}

// run runs maascert and expects an exit code.
func (s *stage) run(title string, want int, args ...string) error {
	s.title("%s", title)
	fmt.Printf("$ maascert %s\n", strings.Join(args, " "))
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Minute)
	defer cancel()
	begun := time.Now()
	command := exec.CommandContext(ctx, s.program, append([]string{"--config", s.config}, args...)...)
	command.Stdout, command.Stderr = os.Stdout, os.Stdout
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	got := command.ProcessState.ExitCode()
	fmt.Printf("(exit %d, %.1f s)\n", got, time.Since(begun).Seconds())
	if got != want {
		return fmt.Errorf("maascert %s: exit %d instead of %d", strings.Join(args, " "), got, want)
	}
	return nil
}

// everywhere is the certificate that all regions serve.
func (s *stage) everywhere() (*x509.Certificate, error) {
	var leaf *x509.Certificate
	for _, region := range s.deployment.Regions {
		served := region.Serves(maasconfig.DefaultPort)
		if served == nil || leaf != nil && !served.Equal(leaf) {
			return nil, fmt.Errorf("region %s does not serve what the others serve", region.Address)
		}
		leaf = served
	}
	return leaf, nil
}

func (s *stage) show(title string, before *x509.Certificate) error {
	s.title("%s", title)
	for _, region := range s.deployment.Regions {
		served := region.Serves(maasconfig.DefaultPort)
		if served == nil {
			fmt.Printf("%s: no TLS\n", region.Address)
			continue
		}
		fmt.Printf("%s: %s, until %s\n", region.Address, certstore.Fingerprint(served)[:23], served.NotAfter.UTC().Format(time.DateOnly))
	}
	if before != nil {
		fmt.Printf("(before the forced renewal: %s)\n", certstore.Fingerprint(before)[:23])
	}
	return s.ctx.Err()
}
