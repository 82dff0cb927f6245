//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/maasconfig/maastest"
)

// regionHost is a clean root on which MAAS is installed as a snap, with two regions in this network namespace, of which this host is the first.
type regionHost struct {
	*cleanRoot
	maas *maastest.Deployment
}

// regionAddresses are those of its regions.
var regionAddresses = []string{"10.0.0.11", "10.0.0.12"}

// addAddresses gives this network namespace the regions' addresses.
func addAddresses(t *testing.T) {
	t.Helper()
	for _, address := range regionAddresses {
		out, err := exec.Command("ip", "address", "add", address+"/32", "dev", "lo").CombinedOutput()
		require.NoError(t, err, string(out))
	}
}

// startResolver is the name server of this network namespace: every name leads to the first region.
func startResolver(t *testing.T) *acmetest.DNS {
	t.Helper()
	resolver, err := acmetest.StartDNS(53)
	require.NoError(t, err)
	t.Cleanup(resolver.Stop)
	resolver.Point(netip.MustParseAddr(regionAddresses[0]))
	return resolver
}

// newRegionHost makes one, until the test ends. MAAS serves no TLS.
func newRegionHost(t *testing.T) *regionHost {
	t.Helper()
	// What is mounted there needs a place, which stays: to remove it would unmount it under another test.
	require.NoError(t, os.MkdirAll("/snap", 0o755))
	maas := startRegions(t, t.TempDir())
	h := &regionHost{newCleanRoot(t, "PATH=/snap/bin:/usr/local/bin:"+os.Getenv("PATH")), maas}
	h.must("mount -t tmpfs none /snap")
	h.must(asSnap(maas, 0))
	h.must(fmt.Sprintf("cp %s/maascert.service /etc/systemd/system/", examples(t)))
	return h
}

// startRegions starts a MAAS of two regions that serves no TLS, the first of which is on this host, as is its database. The maas command
// is started as is said, or is this program.
func startRegions(t *testing.T, dir string, command ...string) *maastest.Deployment {
	t.Helper()
	var hosts []maastest.Host
	for _, address := range regionAddresses {
		hosts = append(hosts, maastest.Host{Address: netip.MustParseAddr(address), Listen: net.Listen})
	}
	hosts[0].Listen = listenHereToo
	maas, err := maastest.Start(maastest.Options{Dir: dir, Hosts: hosts, Command: command})
	require.NoError(t, err)
	t.Cleanup(maas.Stop)
	answerAsPostgreSQL(t, "127.0.0.1:5432")
	return maas
}

// asSnap is what the snap of a MAAS leaves on the host of one of its regions, as a shell writes it, with a name server and no names in /etc/hosts.
func asSnap(maas *maastest.Deployment, region int) string {
	return fmt.Sprintf(`set -e
mkdir -p /snap/maas/current/meta /snap/bin /var/snap/maas/common/maas /var/snap/maas/current
echo "version: 3.7.3-17001-g.abcdef" >/snap/maas/current/meta/snap.yaml
ln -s %[1]s /snap/bin/maas
echo region+rack >/var/snap/maas/common/snap_mode
ln -s %[2]s /var/snap/maas/current/http
printf 'maas_url: http://maas.example.internal:5240/MAAS\ndatabase_host: 127.0.0.1\n' >/var/snap/maas/current/regiond.conf
echo secret >/var/snap/maas/common/maas/secret
chmod 640 /var/snap/maas/current/regiond.conf /var/snap/maas/common/maas/secret
echo "nameserver 127.0.0.1" >/etc/resolv.conf.new && { umount /etc/resolv.conf 2>/dev/null || true; rm -f /etc/resolv.conf; mv /etc/resolv.conf.new /etc/resolv.conf; }
printf '127.0.0.1 localhost\n' >/etc/hosts.new && { umount /etc/hosts 2>/dev/null || true; mv /etc/hosts.new /etc/hosts; }`, maas.Command, maas.Regions[region].HTTPDir)
}

// asDeb is what MAAS's Debian package leaves on the host of one of its regions, likewise.
func asDeb(maas *maastest.Deployment, region int) string {
	return fmt.Sprintf(`set -e
mkdir -p /tmp/maas/DEBIAN /tmp/maas/usr/bin /tmp/maas/etc/maas /tmp/maas/var/lib/maas
printf 'Package: maas-region-api\nVersion: 1:3.7.3-17001-g.abcdef-0ubuntu1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: stands for the real one\n' >/tmp/maas/DEBIAN/control
ln -s %[1]s /tmp/maas/usr/bin/maas
ln -s %[2]s /tmp/maas/var/lib/maas/http
printf 'maas_url: http://maas.example.internal:5240/MAAS\ndatabase_host: 127.0.0.1\n' >/tmp/maas/etc/maas/regiond.conf
echo secret >/tmp/maas/var/lib/maas/secret
chmod 640 /tmp/maas/etc/maas/regiond.conf /tmp/maas/var/lib/maas/secret
dpkg-deb --root-owner-group -b /tmp/maas /tmp/maas.deb && dpkg -i /tmp/maas.deb && rm -r /tmp/maas /tmp/maas.deb
rm -f /etc/resolv.conf && echo "nameserver 127.0.0.1" >/etc/resolv.conf && printf '127.0.0.1 localhost\n' >/etc/hosts`, maas.Command, maas.Regions[region].HTTPDir)
}

func examples(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", "examples", "systemd"))
	require.NoError(t, err)
	return dir
}

// must runs a line of a shell there, which has to end well, and returns what it says.
func (r *cleanRoot) must(line string) string {
	r.Helper()
	said, code := r.sh(line, "")
	require.Zero(r, code, "%s\n%s", line, said)
	return said
}

// servesWith tells whether every region serves a certificate that leads to a root.
func (h *regionHost) servesWith(root []byte) {
	h.Helper()
	for _, region := range h.maas.Regions {
		conn, err := tls.Dial("tcp", net.JoinHostPort(region.Address.String(), "5443"), &tls.Config{ServerName: "maas.example.internal", RootCAs: acmetest.Pool(root)})
		require.NoError(h, err)
		require.NoError(h, conn.Close())
	}
}

// hereToo listens as a region's nginx does on its host: also at the loopback.
type hereToo struct {
	listeners []net.Listener
	accepted  chan net.Conn
	closed    chan struct{}
	once      sync.Once
}

func listenHereToo(network, address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	l := &hereToo{accepted: make(chan net.Conn), closed: make(chan struct{})}
	for _, one := range []string{address, net.JoinHostPort("127.0.0.1", port)} {
		listener, err := net.Listen(network, one)
		if err != nil {
			_ = l.Close()
			return nil, err
		}
		l.listeners = append(l.listeners, listener)
		go l.pass(listener)
	}
	return l, nil
}

func (l *hereToo) pass(from net.Listener) {
	for {
		conn, err := from.Accept()
		if err != nil {
			return
		}
		select {
		case l.accepted <- conn:
		case <-l.closed:
			_ = conn.Close()
		}
	}
}

func (l *hereToo) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *hereToo) Close() error {
	l.once.Do(func() { close(l.closed) })
	var failures []error
	for _, one := range l.listeners {
		failures = append(failures, one.Close())
	}
	return errors.Join(failures...)
}

func (l *hereToo) Addr() net.Addr { return l.listeners[0].Addr() }

// answerAsPostgreSQL takes connections as a PostgreSQL does that has no TLS.
func answerAsPostgreSQL(t *testing.T, address string) {
	t.Helper()
	listenAt(t, address, func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, 8)); err == nil {
			_, _ = conn.Write([]byte{'N'})
		}
	})
}

func listenAt(t *testing.T, address string, serve func(net.Conn)) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
}

// pid is the process that holds the clean root.
func (r *cleanRoot) pid() string { return strconv.Itoa(r.holder.Process.Pid) }
