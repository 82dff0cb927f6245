package preflight_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/preflight"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
	"maascert/maasconfig"
)

// names is a DNS: the addresses of names, and those that are zones.
type names struct {
	addresses map[string][]string
	zones     []string
}

func (n names) Addresses(_ context.Context, name, port string) (found []string, err error) {
	if name == "broken.example." {
		return nil, errors.New("no server answers")
	}
	for _, address := range n.addresses[name] {
		found = append(found, net.JoinHostPort(address, port))
	}
	return found, nil
}

func (n names) Zone(_ context.Context, name string) (string, error) {
	if name == "silent.example." {
		return "", errors.New("no server answers")
	}
	for _, zone := range n.zones {
		if name == zone {
			return zone, nil
		}
	}
	return "example.", nil
}

const keepalived = `vrrp_instance maas {
	interface eth0 # 10.9.9.9
	virtual_ipaddress {
		10.0.0.100/24 brd 10.0.0.255 dev eth0 # and 10.7.7.7
		! 10.6.6.6
		fd00::100/64
	}
	virtual_routes { 10.8.8.8 }
}
`

func TestNames(t *testing.T) {
	t.Parallel()
	dns := names{zones: []string{"apex.example."}, addresses: map[string][]string{
		"maas.example.": {"10.0.0.100", "fd00::100"}, "region1.example.": {"10.0.0.11"}, "apex.example.": {"10.0.0.12"},
	}}
	region := func(name, address string) maasconfig.Region {
		return maasconfig.Region{Name: name, Addresses: []netip.Addr{netip.MustParseAddr(address)}}
	}
	for name, row := range map[string]struct {
		files  map[string]string
		wanted preflight.Wanted
		says   []string
	}{
		"well": {map[string]string{"/etc/hosts": "127.0.1.1 maas.example maas\n10.0.0.11\tregion1.example # this one\n", "/etc/keepalived/keepalived.conf": keepalived},
			preflight.Wanted{Names: []string{"maas.example", "region1.example", "10.0.0.12", "*.example"}, MAASURL: "http://maas.example:5240/MAAS", Regions: []maasconfig.Region{region("vm.maas", "10.0.0.11"), region("vm2.maas", "10.0.0.12")}, TLS: true},
			[]string{"ok resolves: ", "ok hsts: ", "ok coverage: "}},
		"no address":                           {nil, preflight.Wanted{Names: []string{"nosuch.example"}}, []string{"warn resolves: nosuch.example has no address in DNS: nobody finds MAAS by it -> give nosuch.example an address in DNS"}},
		"nobody answers":                       {nil, preflight.Wanted{Names: []string{"broken.example"}}, []string{"warn resolves: DNS does not say where broken.example is: no server answers"}},
		"led elsewhere here":                   {map[string]string{"/etc/hosts": "10.0.0.99 Maas.Example.\n"}, preflight.Wanted{Names: []string{"maas.example"}}, []string{"warn resolves: /etc/hosts leads maas.example elsewhere than DNS", "-> take maas.example out of /etc/hosts"}},
		"a zone of its own":                    {nil, preflight.Wanted{Names: []string{"apex.example"}, TLS: true}, []string{"warn hsts: apex.example is a zone of its own, and MAAS has browsers ask every host below it by HTTPS alone, for two years -> give MAAS a name below it, maas.apex.example say"}},
		"a zone that DNS does not tell":        {nil, preflight.Wanted{Names: []string{"silent.example"}, TLS: true}, []string{"warn hsts: whether silent.example is a zone of its own, about all of which MAAS's HSTS would be, DNS does not say: no server answers"}},
		"people come by one that leads to all": {nil, preflight.Wanted{Names: []string{"maas.example"}, MAASURL: "http://maas.example:5240/MAAS", Regions: []maasconfig.Region{region("region9.maas", "10.0.0.19")}}, []string{"ok coverage"}},
		"another URL":                          {nil, preflight.Wanted{Names: []string{"maas.example"}, MAASURL: "http://10.0.0.5:5240/MAAS"}, []string{"warn coverage: MAAS's own URL, 10.0.0.5, is none of the certificate's names", "-> add 10.0.0.5 to this certificate's names"}},
		"a URL for itself":                     {nil, preflight.Wanted{Names: []string{"maas.example"}, MAASURL: "http://localhost:5240/MAAS"}, []string{"ok resolves"}},
		"another region":                       {nil, preflight.Wanted{Names: []string{"maas.example"}, Regions: []maasconfig.Region{region("region9.maas", "10.0.0.19")}}, []string{"warn coverage: region region9.maas is none of the certificate's names"}},
		"a virtual address":                    {map[string]string{"/etc/keepalived/conf.d/maas": keepalived}, preflight.Wanted{Names: []string{"region1.example"}}, []string{"warn coverage: the virtual address 10.0.0.100 is none", "warn coverage: the virtual address fd00::100 is none"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := said(host(t, row.files, nil).CheckNames(t.Context(), row.wanted, dns))
			for _, words := range row.says {
				require.Contains(t, found, words)
			}
		})
	}
}

func TestHSTSLastsAsLongAsTheVersionSays(t *testing.T) {
	t.Parallel()
	dns := names{zones: []string{"apex.example."}, addresses: map[string][]string{"apex.example.": {"10.0.0.12"}}}
	for words, version := range map[string]maasconfig.Version{"a day": {Major: 3, Minor: 3}, "180 days": {Major: 3, Minor: 4}, "two years": {Major: 3, Minor: 7}} {
		h := host(t, nil, nil)
		h.MAAS.Version = version
		require.Contains(t, said(h.CheckNames(t.Context(), preflight.Wanted{Names: []string{"apex.example"}, TLS: true}, dns)), "by HTTPS alone, for "+words)
	}
}

func TestVirtualAddresses(t *testing.T) {
	t.Parallel()
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("fd00::100")}, host(t, map[string]string{"/etc/keepalived/keepalived.conf": keepalived}, nil).VirtualAddresses())
}

// Files of MAAS's that others may read, keys that lie about, and where a stage may be.
func TestFilesOfMAAS(t *testing.T) {
	t.Parallel()
	const key = "-----BEGIN PRIVATE KEY-----\n"
	h := host(t, map[string]string{
		"/var/snap/maas/current/regiond.conf": "database_sslkey: /var/snap/maas/common/db.key\n", "/var/snap/maas/common/maas/secret": "x",
		"/var/snap/maas/common/db.key": key, "/var/snap/maas/common/maas/own.key": key, "/var/snap/maas/common/maascert/x/key.pem": key, "/var/snap/maas/current/http/certs/regiond-proxy-key.pem": key,
		"/var/snap/maas/common/chain.pem": "-----BEGIN CERTIFICATE-----\n",
	}, nil)
	require.Equal(t, "ok maas-files: nobody but MAAS and root gets at MAAS's settings and its secret\n", said(h.CheckModes()))
	require.Equal(t, "ok left-keys: no private key lies about where the snap can read it\n", said(h.CheckLeftKeys()))
	require.Equal(t, "ok stage-place: the snap can read what is staged\n", said(h.CheckStage()))

	root := h.Files.(worldtest.Elsewhere).Root
	require.NoError(t, os.Chmod(filepath.Join(root, "/var/snap/maas/current/regiond.conf"), 0o644))
	require.NoError(t, os.Chmod(filepath.Join(root, "/var/snap/maas/common/maas/secret"), 0o660))
	found := said(h.CheckModes())
	require.Contains(t, found, "warn maas-files: /var/snap/maas/current/regiond.conf has the mode 0644: others get at what is MAAS's and root's alone -> chmod 0640 /var/snap/maas/current/regiond.conf")
	require.Contains(t, found, "-> chmod 0640 /var/snap/maas/common/maas/secret")
	for _, name := range []string{"/var/snap/maas/common/privkey.pem", "/var/snap/maas/current/root/k.pem", "/var/snap/maas/certs/server-key.pem", "/var/snap/maas/common/tls/k.pem", "/var/snap/maas/common/tls/2024/old/k.pem"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(key), 0o600))
		require.Contains(t, said(h.CheckLeftKeys()), "-> rm "+name+" # if nothing else uses it")
		require.NoError(t, os.Remove(filepath.Join(root, name)))
	}
	for dir, words := range map[string]string{"/var/snap/maas/current/stage": "warn stage-place", "/root/stage": "fail stage-place: the snap cannot read /root/stage", "/var/snap/maas/commons": "warn stage-place"} {
		h.MAAS.StageDir = dir
		require.Contains(t, said(h.CheckStage()), words)
	}
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chmod(filepath.Join(root, "/var/snap/maas/current/regiond.conf"), 0o640))
		require.NoError(t, os.Chown(filepath.Join(root, "/var/snap/maas/current/regiond.conf"), 0, 4242))
		require.Contains(t, said(h.CheckModes()), "regiond.conf belongs to user 0 and group 4242: it is MAAS's and root's alone -> chown root:root /var/snap/maas/current/regiond.conf")
	}
	require.Contains(t, said(host(t, nil, nil).CheckLeftKeys()), "warn left-keys: whether private keys were left for the snap cannot be seen")
	h.MAAS.Kind = "deb"
	require.Empty(t, h.CheckStage())
	require.Empty(t, h.CheckLeftKeys())
}

func TestMAASsPorts(t *testing.T) {
	t.Parallel()
	h := host(t, nil, nil)
	require.Empty(t, h.CheckPorts(), "nobody can tell")
	who := map[int][]world.Listening{5240: {{Name: "nginx (process 12)"}}, 5249: {{Owner: 4242, Name: "ok"}}}
	h.Listening = func(port int) []world.Listening { return who[port] }
	require.Contains(t, said(h.CheckPorts()), "ok maas-ports: ")
	who[5271] = []world.Listening{{Owner: 4242, Name: "nc (process 13)"}}
	require.Contains(t, said(h.CheckPorts()), "warn maas-ports: port 5271 is MAAS's, and user 4242, who is no service, listens there -> end that program: nc (process 13)")
	delete(who, 5240)
	require.Contains(t, said(h.CheckPorts()), "fail maas-ports: nobody listens on port 5240, where racks and machines look for MAAS -> is MAAS up? maas status")
}
