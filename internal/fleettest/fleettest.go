// Package fleettest is a MAAS in high availability on one machine, with maascert on every region host. Hosts are network namespaces with
// addresses of their own; each has a region behind a real nginx, and a proxy of its own, nginx too. Two real PostgreSQL servers, one of which
// follows the other, keep the shared store; HAProxy has the virtual address; the CA is Pebble. Only MAAS itself is simulated.
package fleettest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/certstore/postgres"
	"maascert/certstore/postgres/postgrestest"
	"maascert/certstore/sealed"
	"maascert/certstore/vaultkeys"
	"maascert/certstore/vaultkeys/vaulttest"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// T is a test, or another program that ends like one.
type T = postgrestest.T

// Options describe a fleet.
type Options struct {
	Dir      string        // where its files go; must exist
	Program  string        // path of maascert
	Hosts    int           // 0: three
	Validity time.Duration // of certificates
	Sync     bool          // the databases replicate synchronously
	Vault    bool          // keeps the keys, where the CA is; else documents are sealed
	More     string        // lines of every host's configuration, in which NODE stands for its name
}

// Fleet is a running one. Its daemons are to be started.
type Fleet struct {
	CA        *acmetest.CA
	MAAS      *maastest.Deployment
	Hosts     []*Host
	Primary   *postgrestest.Server
	Secondary *postgrestest.Server
	Vault     *vaulttest.Server   // nil: documents are sealed
	Authority *certtest.Authority // of what was served before maascert came

	t       T
	options Options
	servers []*exec.Cmd
}

// Host is a region host.
type Host struct {
	Name    string
	Address netip.Addr
	Dir     string
	Config  string // path of maascert's configuration
	Region  *maastest.Region

	Program string // maascert, where it is not the fleet's; empty: it is

	*machine
	fleet *Fleet

	mu     sync.Mutex
	daemon *exec.Cmd
	log    *bytes.Buffer
}

func pause() { time.Sleep(10 * time.Millisecond) }

// Start starts a fleet in the network that Enter made. It ends with the test.
func Start(t T, options Options) *Fleet {
	t.Helper()
	f := &Fleet{t: t, options: options}
	if f.options.Hosts == 0 {
		f.options.Hosts = 3
	}
	require.NoError(t, bridges())
	f.Primary = postgrestest.StartAt(t, "10.93.1.1")
	f.Secondary = f.Primary.Standby("10.93.1.2")
	f.Primary.Synchronous(options.Sync)
	var err error
	f.CA, err = acmetest.Start(acmetest.Options{Address: netip.MustParseAddr("10.93.2.1"), HTTPPort: 80, Validity: options.Validity})
	require.NoError(t, err)
	t.Cleanup(f.CA.Stop)
	f.CA.DNS.Point(netip.MustParseAddr(VirtualAddress))
	if options.Vault {
		f.Vault = vaulttest.StartAt(t, time.Hour, "10.93.2.1")
	}
	f.startHosts()
	f.startVirtualAddress()
	return f
}

func (f *Fleet) startHosts() {
	f.t.Helper()
	var places []maastest.Host
	for n := 1; n <= f.options.Hosts; n++ {
		h := &Host{Name: fmt.Sprintf("region%d", n), Address: netip.AddrFrom4([4]byte{10, 93, 0, byte(10 + n)}), fleet: f, log: new(bytes.Buffer)}
		h.Dir = filepath.Join(f.options.Dir, h.Name)
		h.Config = filepath.Join(h.Dir, "maascert.yaml")
		require.NoError(f.t, os.MkdirAll(h.Dir, 0o755))
		var err error
		h.machine, err = startMachine(n, h.Dir)
		require.NoError(f.t, err)
		f.t.Cleanup(func() { end(h.holder, syscall.SIGKILL) })
		f.t.Cleanup(h.Kill)
		f.Hosts = append(f.Hosts, h)
		places = append(places, maastest.Host{Address: h.Address, Listen: h.listen, Within: h.within()})
	}
	nginx, err := exec.LookPath("nginx")
	require.NoError(f.t, err, "Debian has it: apt-get install nginx")
	f.MAAS, err = maastest.Start(maastest.Options{Dir: f.options.Dir, Hosts: places, Nginx: nginx, Delay: 100 * time.Millisecond})
	require.NoError(f.t, err)
	f.t.Cleanup(f.MAAS.Stop)
	f.Authority, err = certtest.NewAuthority()
	require.NoError(f.t, err)
	before, err := f.Authority.Issue(certstore.EC256, 0, time.Hour, "maas.fleet.test")
	require.NoError(f.t, err)
	for i, h := range f.Hosts {
		h.Region = f.MAAS.Regions[i]
		f.startFront(h, nginx, before)
		f.configure(h)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(f.t, f.MAAS.Enable(ctx, before, maasconfig.DefaultPort))
}

// startFront starts a host's own proxy.
func (f *Fleet) startFront(h *Host, nginx string, before *certstore.Bundle) {
	f.t.Helper()
	dir := filepath.Join(h.Dir, "front")
	require.NoError(f.t, os.MkdirAll(dir, 0o755))
	for name, text := range map[string]string{
		"key.pem": string(before.KeyPEM()), "fullchain.pem": string(before.FullChainPEM()),
		"nginx.conf": fmt.Sprintf(`pid %[1]s/pid;
error_log %[1]s/error.log;
events {}
http {
    access_log off;
    client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
    server {
        listen %[2]s:443 ssl;
        ssl_certificate %[1]s/fullchain.pem;
        ssl_certificate_key %[1]s/key.pem;
    }
}
`, dir, h.Address),
	} {
		require.NoError(f.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	f.serve(h.command(context.Background(), nginx, "-g", "daemon off;", "-c", filepath.Join(dir, "nginx.conf")))
	require.NoError(f.t, waitFor(filepath.Join(dir, "pid")))
}

// serve runs a server until the test ends.
func (f *Fleet) serve(cmd *exec.Cmd) {
	f.t.Helper()
	require.NoError(f.t, cmd.Start())
	f.servers = append(f.servers, cmd)
	f.t.Cleanup(func() { end(cmd, syscall.SIGTERM) })
}

func end(cmd *exec.Cmd, signal syscall.Signal) {
	// It may have ended by itself.
	_ = cmd.Process.Signal(signal)
	_ = cmd.Wait()
}

// startVirtualAddress has HAProxy lead people, and the CA, to any host that is up.
func (f *Fleet) startVirtualAddress() {
	f.t.Helper()
	haproxy, err := exec.LookPath("haproxy")
	require.NoError(f.t, err, "Debian has it: apt-get install haproxy")
	var text strings.Builder
	fmt.Fprint(&text, "defaults\n mode tcp\n timeout connect 500ms\n timeout client 30s\n timeout server 30s\n retries 3\n option redispatch 1\n balance roundrobin\n")
	for _, port := range []string{"80", "5443"} {
		fmt.Fprintf(&text, "listen port%[1]s\n bind %[2]s:%[1]s\n", port, VirtualAddress)
		for _, h := range f.Hosts {
			fmt.Fprintf(&text, " server %s %s:%s\n", h.Name, h.Address, port)
		}
	}
	path := filepath.Join(f.options.Dir, "haproxy.cfg")
	require.NoError(f.t, os.WriteFile(path, []byte(text.String()), 0o600))
	cmd := exec.Command(haproxy, "-db", "-q", "-f", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	f.serve(cmd)
	for range 1000 {
		conn, err := net.Dial("tcp", VirtualAddress+":80")
		if err == nil {
			_ = conn.Close()
			return
		}
		pause()
	}
	require.Fail(f.t, "HAProxy does not start")
}

// DatabaseURL names both servers, of which the one that takes writes is used.
func (f *Fleet) DatabaseURL() string {
	return fmt.Sprintf("postgres://maascert:%s@%s:%d,%s:%d/maascert", url.QueryEscape(postgrestest.Password), f.Primary.Address, f.Primary.Port, f.Secondary.Address, f.Secondary.Port)
}

// Store opens the store, with the keys at hand. Whoever opens it closes it.
func (f *Fleet) Store() certstore.Store {
	f.t.Helper()
	plain, err := postgres.Open(postgres.Config{URL: f.DatabaseURL()})
	require.NoError(f.t, err)
	if f.Vault == nil {
		store, err := sealed.New(plain, Seal)
		require.NoError(f.t, err)
		return store
	}
	keys, err := vaultkeys.New(vaultkeys.Config{
		Address: f.Vault.Address, Mount: vaulttest.Mount, Path: vaulttest.Path, AppRole: "approle", Roots: f.Vault.Roots, Dial: new(net.Dialer).DialContext, Now: time.Now,
		RoleID: func() (string, error) { return f.Vault.RoleID, nil }, SecretID: func() (string, error) { return f.Vault.SecretID(), nil },
	})
	require.NoError(f.t, err)
	return certstore.NewKeysApart(plain, keys)
}

// Seal is what the store's documents are sealed with.
const Seal = "the seal of a fleet that is only a test"

// configure writes a host's configuration.
func (f *Fleet) configure(h *Host) {
	f.t.Helper()
	var endpoints []string
	for _, other := range f.Hosts {
		endpoints = append(endpoints, other.Address.String())
	}
	files := map[string]string{"directory_root.pem": string(f.CA.DirectoryRoot()), "issuer_root.pem": string(f.CA.Root(0)), "database.url": f.DatabaseURL(), "seal": Seal}
	seal := `"file:seal"`
	if f.Vault != nil {
		seal = fmt.Sprintf(`{vault: {address: %q, root: vault_ca.pem, role_id: "file:role_id", secret_id: "file:secret_id"}}`, f.Vault.Address)
		files["vault_ca.pem"], files["role_id"], files["secret_id"] = string(f.Vault.RootPEM), f.Vault.RoleID, f.Vault.SecretID()
	}
	text := fmt.Sprintf(`node: %[1]s
state_dir: state
resolvers: [%[2]q]
acme:
  directory: %[3]s
  root: directory_root.pem
  issuer_root: issuer_root.pem
  accept_terms: true
  challenge: {type: http-01, listen: ":80"}
certificates:
  - {name: maas, names: [maas.fleet.test, other.fleet.test, %[4]s], key_type: ec256, targets: [maas, front]}
targets:
  maas: {type: maas, endpoints: [%[5]s], verify_timeout: 10s}
  front: {type: nginx, key: front/key.pem, fullchain: front/fullchain.pem, check: [nginx, -t, -c, %[6]s/front/nginx.conf], reload: [nginx, -s, reload, -c, %[6]s/front/nginx.conf], endpoints: ["%[7]s:443"]}
maas: {command: %[8]q, http_dir: %[9]q, stage_dir: stage, version: 3.7.3}
store: {type: postgres, url: "file:database.url", seal: %[10]s}
`, h.Name, f.CA.DNS.Address, f.CA.Directory, VirtualAddress, strings.Join(endpoints, ", "), h.Dir, h.Address, f.MAAS.Command, h.Region.HTTPDir, seal)
	text += strings.ReplaceAll(f.options.More, "NODE", h.Name)
	files["maascert.yaml"] = text
	for name, text := range files {
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, ".pem") {
			mode = 0o644
		}
		require.NoError(f.t, os.WriteFile(filepath.Join(h.Dir, name), []byte(text), mode))
	}
}

// Edit replaces words in a host's configuration.
func (h *Host) Edit(pairs ...string) {
	h.fleet.t.Helper()
	text, err := os.ReadFile(h.Config)
	require.NoError(h.fleet.t, err)
	edited := strings.NewReplacer(pairs...).Replace(string(text))
	require.NotEqual(h.fleet.t, string(text), edited)
	require.NoError(h.fleet.t, os.WriteFile(h.Config, []byte(edited), 0o640))
}

func (h *Host) program() string { return cmp.Or(h.Program, h.fleet.options.Program) }

// Forward has every host reach a server of ours on the loopback under its address.
func (f *Fleet) Forward(address string) {
	f.t.Helper()
	for _, h := range f.Hosts {
		listener, err := h.listen("tcp", address)
		require.NoError(f.t, err)
		var group sync.WaitGroup
		f.t.Cleanup(func() {
			// There is nothing to lose.
			_ = listener.Close()
			group.Wait()
		})
		group.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				group.Go(func() { forward(conn, address) })
			}
		})
	}
}

func forward(conn net.Conn, address string) {
	defer conn.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, server}, {server, conn}} {
		go func() {
			// Whoever ends first ends both.
			_, _ = io.Copy(way[0], way[1])
			ended <- struct{}{}
		}()
	}
	<-ended
}

// Run starts the host's daemon.
func (h *Host) Run() {
	h.fleet.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.daemon = h.command(context.Background(), h.program(), "--config", h.Config, "--log-level", "debug", "run")
	out := &locked{h}
	h.daemon.Stdout, h.daemon.Stderr = out, out
	require.NoError(h.fleet.t, h.daemon.Start())
}

// locked writes into a host's log.
type locked struct{ host *Host }

func (l *locked) Write(text []byte) (int, error) {
	l.host.mu.Lock()
	defer l.host.mu.Unlock()
	if l.host.log.Len() > 4<<20 {
		l.host.log.Reset()
	}
	return l.host.log.Write(text)
}

// Log is what the host's daemons said.
func (h *Host) Log() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.String()
}

// Kill ends the daemon at once, as the kernel does when memory runs out; what it started goes on.
func (h *Host) Kill() { h.stop(syscall.SIGKILL) }

// Stop ends the daemon as systemd does.
func (h *Host) Stop() { h.stop(syscall.SIGTERM) }

func (h *Host) stop(signal syscall.Signal) {
	h.mu.Lock()
	daemon := h.daemon
	h.daemon = nil
	h.mu.Unlock()
	if daemon != nil {
		end(daemon, signal)
	}
}

// StoreAddress is the host's on the databases' network.
func (h *Host) StoreAddress() string { return fmt.Sprintf("10.93.%d.%d", store, 10+h.number) }

// Reload has the daemon read its configuration again.
func (h *Host) Reload() {
	h.mu.Lock()
	defer h.mu.Unlock()
	require.NoError(h.fleet.t, h.daemon.Process.Signal(syscall.SIGHUP))
}

// Maascert runs a command of maascert's on the host.
func (h *Host) Maascert(ctx context.Context, args ...string) (out string, code int) {
	cmd := h.command(ctx, append([]string{h.program(), "--config", h.Config}, args...)...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Sprintf("%s%v", text, err), -1
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// Output is like Maascert, and returns standard output alone.
func (h *Host) Output(ctx context.Context, args ...string) ([]byte, int) {
	cmd := h.command(ctx, append([]string{h.program(), "--config", h.Config}, args...)...)
	cmd.Stderr = io.Discard
	// Its exit code says it.
	text, _ := cmd.Output()
	return text, cmd.ProcessState.ExitCode()
}

// Cut takes the host off a network, so that nothing passes and nobody is told; Mend puts it back.
func (h *Host) Cut(from Network) { require.NoError(h.fleet.t, h.cut(from, true)) }

// Mend puts the host back on a network.
func (h *Host) Mend(to Network) { require.NoError(h.fleet.t, h.cut(to, false)) }

// FailOver has the primary die and the other server take its place; Heal brings the dead one back behind it.
func (f *Fleet) FailOver() {
	f.t.Helper()
	f.Primary.Down()
	f.Secondary.Promote()
	f.Primary, f.Secondary = f.Secondary, f.Primary
}

// Heal brings the server that died back, as a follower.
func (f *Fleet) Heal() {
	f.t.Helper()
	f.Secondary.Follow(f.Primary)
	f.Primary.Synchronous(f.options.Sync)
}

// Served are the leaves that all regions and proxies serve now, by address; nil for one that serves none.
func (f *Fleet) Served() map[string]*x509.Certificate {
	served := map[string]*x509.Certificate{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, h := range f.Hosts {
		for _, port := range []string{"5443", "443"} {
			group.Go(func() {
				address := net.JoinHostPort(h.Address.String(), port)
				leaf := serves(address)
				mu.Lock()
				defer mu.Unlock()
				served[address] = leaf
			})
		}
	}
	group.Wait()
	return served
}

func serves(address string) *x509.Certificate {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 2 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// Converged is the one leaf that everybody serves; nil while there is none, or it is not of our CA.
func (f *Fleet) Converged() *x509.Certificate {
	var one *x509.Certificate
	for _, leaf := range f.Served() {
		if leaf == nil || one != nil && !leaf.Equal(one) {
			return nil
		}
		one = leaf
	}
	if one == nil || one.CheckSignatureFrom(f.Authority.Intermediate) == nil {
		return nil
	}
	return one
}
