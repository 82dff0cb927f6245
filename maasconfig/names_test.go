package maasconfig_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// listed are regions as a test says.
type listed struct {
	regions []maasconfig.Region
	err     error
	asked   int
}

func (l *listed) Regions(context.Context) ([]maasconfig.Region, error) {
	l.asked++
	return l.regions, l.err
}

func addresses(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func TestNamesFromMAAS(t *testing.T) {
	t.Parallel()
	regions := []maasconfig.Region{
		{ID: "a", Name: "Region1.maas", Addresses: addresses("10.0.0.11", "192.168.122.1", "fd00::1")},
		{ID: "b", Name: "region2.maas", Addresses: addresses("10.0.0.12")},
	}
	young := append(regions[:1:1], maasconfig.Region{ID: "b", Name: "region2.maas"})
	url := func(text string, err error) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return text, err }
	}
	for _, row := range []struct {
		name             string
		section          maasconfig.NamesSection
		url              string
		urlErr           error
		regions          []maasconfig.Region
		err              error
		want             []string
		names, addresses string // what is in doubt
		left             string
		isForbidden      bool
	}{
		{name: "names", section: maasconfig.NamesSection{Regions: "fqdn"}, regions: regions, want: []string{"region1.maas", "region2.maas"}},
		{name: "addresses", section: maasconfig.NamesSection{Regions: "addresses", Networks: []string{"10.0.0.0/24"}}, regions: regions, want: []string{"10.0.0.11", "10.0.0.12"}},
		{name: "both, and MAAS's URL", section: maasconfig.NamesSection{Regions: "both", Networks: []string{"10.0.0.0/24", "fd00::/8"}, MAASURL: true}, url: "http://maas.example:5240/MAAS", regions: regions,
			want: []string{"10.0.0.11", "10.0.0.12", "fd00::1", "maas.example", "region1.maas", "region2.maas"}},
		{name: "a region that has not commissioned itself", section: maasconfig.NamesSection{Regions: "both", Networks: []string{"10.0.0.0/24"}}, regions: young,
			want: []string{"10.0.0.11", "region1.maas", "region2.maas"}, addresses: "MAAS does not know the addresses of region2.maas yet"},
		{name: "the API is down", section: maasconfig.NamesSection{Regions: "fqdn", MAASURL: true}, url: "http://10.0.0.9:5240/MAAS", err: errors.New("down"), want: []string{"10.0.0.9"}, names: "down", addresses: "down"},
		{name: "an empty list", section: maasconfig.NamesSection{Regions: "fqdn"}, regions: nil, names: "MAAS lists no region", addresses: "MAAS lists no region"},
		{name: "a URL that nobody can read", section: maasconfig.NamesSection{MAASURL: true}, urlErr: errors.New("permission denied"), names: "permission denied", addresses: "permission denied"},
		{name: "a URL that is none", section: maasconfig.NamesSection{MAASURL: true}, url: "maas", names: "maas_url is no URL", addresses: "maas_url is no URL"},
		{name: "no address in the networks", section: maasconfig.NamesSection{Regions: "both", Networks: []string{"10.9.0.0/24"}}, regions: regions[1:], want: []string{"region2.maas"}, left: "region2.maas: none of its addresses is in the networks"},
		{name: "a URL of this host alone", section: maasconfig.NamesSection{MAASURL: true}, url: "http://127.0.0.1:5240/MAAS", left: "127.0.0.1 (maas_url)"},
		{name: "a URL of localhost", section: maasconfig.NamesSection{MAASURL: true}, url: "http://localhost:5240/MAAS", left: "localhost (maas_url)"},
		{name: "a name that is none", section: maasconfig.NamesSection{Regions: "fqdn"}, regions: []maasconfig.Region{{ID: "a", Name: "*.maas"}, {ID: "b", Name: "under_score.maas"}, {ID: "c", Name: "good.maas"}}, want: []string{"good.maas"}, left: "*.maas: a host has no wildcard"},
		{name: "a name that the CA does not issue for", section: maasconfig.NamesSection{Regions: "fqdn"}, regions: regions[1:], isForbidden: true, left: "region2.maas: not this CA"},
	} {
		found := []string{}
		at := faults{all: &found}
		row.section.Check(at, nil)
		require.Empty(t, found, row.name)
		names := maasconfig.Names{Section: row.section, Regions: &listed{regions: row.regions, err: row.err}, MAASURL: url(row.url, row.urlErr), Check: func(string) error {
			if row.isForbidden {
				return errors.New("not this CA")
			}
			return nil
		}}
		led := names.Find(t.Context())
		all := led.Names
		if led.URL != "" {
			all = append(all, led.URL)
		}
		require.ElementsMatch(t, row.want, all, row.name)
		for name, want := range map[string]string{"a.example": row.names, "10.9.9.9": row.addresses} {
			if want == "" {
				require.NoError(t, led.DoubtOf(name), row.name)
			} else {
				require.ErrorContains(t, led.DoubtOf(name), want, row.name)
			}
		}
		require.Contains(t, strings.Join(led.LeftOut, "; "), row.left, row.name)
		require.Equal(t, row.left == "", len(led.LeftOut) == 0, row.name)
	}
}

func TestTheRuleOfNames(t *testing.T) {
	t.Parallel()
	for want, section := range map[string]maasconfig.NamesSection{
		"maas_url=true regions=none":             {MAASURL: true},
		"maas_url=false regions=fqdn":            {Regions: "fqdn", OnChange: "reissue", Networks: []string{"10.0.0.0/24"}},
		"maas_url=false regions=both 10.0.0.0/8": {Regions: "both", Networks: []string{"10.0.0.1/8"}},
	} {
		found := []string{}
		at := faults{all: &found}
		section.Check(at, nil)
		require.Empty(t, found)
		require.Equal(t, want, section.Rule())
	}
	for words, section := range map[string]maasconfig.NamesSection{
		"it leads to no name":                 {OnChange: "reissue"},
		`regions: "all" is unknown`:           {Regions: "all"},
		`on_change: "wait" is unknown`:        {Regions: "fqdn", OnChange: "wait"},
		"networks is missing":                 {Regions: "addresses"},
		`networks[0]: "10.0.0.1" is no netwo`: {Regions: "addresses", Networks: []string{"10.0.0.1"}},
	} {
		found := []string{}
		at := faults{all: &found}
		section.Check(at, nil)
		require.Contains(t, strings.Join(found, "; "), words)
	}
	section := maasconfig.NamesSection{Regions: "addresses"}
	found := []string{}
	at := faults{all: &found}
	section.Check(at, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")})
	require.Empty(t, found, "the networks of the section maas will do")
	require.Equal(t, "maas_url=false regions=addresses 10.0.0.0/24", section.Rule())
}

func TestMAASURL(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	command := filepath.Join(dir, "maas")
	require.NoError(t, os.WriteFile(command, []byte("#!/bin/sh\n"), 0o755))
	config := maasconfig.InstallationConfig{Command: command, HTTPDir: filepath.Join(dir, "http"), StateDir: dir, FS: world.OS{}, Runner: world.Exec{}}
	_, err := maasconfig.ReadMAASURL(t.Context(), config)
	require.ErrorContains(t, err, "maas_url: ")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "regiond.conf"), []byte("database_host: localhost\nmaas_url: http://maas.example:5240/MAAS\n"), 0o600))
	url, err := maasconfig.ReadMAASURL(t.Context(), config)
	require.NoError(t, err)
	require.Equal(t, "http://maas.example:5240/MAAS", url)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "regiond.conf"), []byte("a: ["), 0o600))
	_, err = maasconfig.ReadMAASURL(t.Context(), config)
	require.ErrorContains(t, err, "cannot be read as YAML")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "regiond.conf"), []byte("database_host: localhost\n"), 0o600))
	_, err = maasconfig.ReadMAASURL(t.Context(), config)
	require.ErrorContains(t, err, "does not say maas_url")
	config.Command = filepath.Join(dir, "nosuch")
	_, err = maasconfig.ReadMAASURL(t.Context(), config)
	require.ErrorContains(t, err, "is not here")
}

func TestDatabaseOfRegiond(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	command := filepath.Join(dir, "maas")
	require.NoError(t, os.WriteFile(command, []byte("#!/bin/sh\n"), 0o755))
	config := maasconfig.InstallationConfig{Command: command, HTTPDir: filepath.Join(dir, "http"), StateDir: dir, FS: world.OS{}, Runner: world.Exec{}}
	for text, want := range map[string]string{
		"database_host: db.example\ndatabase_port: 5433\ndatabase_name: maas\ndatabase_user: m\ndatabase_pass: 'p@ss/word'\n": "postgres://m:p%40ss%2Fword@db.example:5433/maas",
		"database_port: '5434'\ndatabase_name: ''\ndatabase_pass: 12345\n":                                                    "postgres://maas:12345@localhost:5434/maasdb",
		"database_host: ''\ndatabase_port: ''\ndatabase_user:\n":                                                              "postgres://maas:@localhost:5432/maasdb",
		"database_host: ''\ndatabase_port:\ndatabase_name: ''\ndatabase_user: ''\ndatabase_pass: ''\n":                        "postgres://maas:@localhost:5432/maasdb",
		"database_host: /var/run/postgresql\ndatabase_pass: x\n":                                                              "postgres://maas:x@/maasdb?host=%2Fvar%2Frun%2Fpostgresql&port=5432",
		"database_pass: x\nvault_url: https://vault.example\n":                                                                "postgres://maas:x@localhost:5432/maasdb",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "regiond.conf"), []byte(text), 0o600))
		got, err := maasconfig.ReadDatabaseURL(t.Context(), config)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for text, want := range map[string]string{
		"vault_url: https://vault.example\ndatabase_pass: ''\n": "MAAS keeps its credentials in Vault",
		"database_pass: [hunter2\n":                             "cannot be read as YAML",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "regiond.conf"), []byte(text), 0o600))
		_, err := maasconfig.ReadDatabaseURL(t.Context(), config)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestRegionHosts(t *testing.T) {
	t.Parallel()
	up := map[string]bool{"10.9.0.2:5240": true, "172.17.0.1:5240": true, "127.0.0.1:5240": true} // the last two are everybody's
	source := &listed{}
	now := time.Now()
	hosts := maasconfig.NewRegionHosts(maasconfig.RegionsConfig{
		Lister: source, Now: func() time.Time { return now },
		MAASURL: func(context.Context) (string, error) { return "http://maas.example:5240/MAAS", nil },
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "maas.example" {
				return nil, errors.New("no such host")
			}
			return addresses("10.1.0.100"), nil
		},
		Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			if !up[address] {
				return nil, errors.New("connection refused")
			}
			client, server := net.Pipe()
			return client, server.Close()
		},
	})
	find := func(known map[string]string, want ...string) error {
		t.Helper()
		now = now.Add(time.Minute)
		found, err := hosts.Find(t.Context(), known)
		var all []string
		for _, host := range found {
			words := host.Region + " " + host.Address
			if host.Unlisted {
				words += " unlisted"
			}
			all = append(all, words)
		}
		require.Equal(t, want, all)
		return err
	}
	region := func(id string, texts ...string) maasconfig.Region {
		return maasconfig.Region{ID: id, Name: id + ".maas", Addresses: addresses(texts...), Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}
	}
	source.regions = []maasconfig.Region{region("a", "10.9.0.1", "10.1.0.1", "10.2.0.1", "172.17.0.1"), region("b", "fe80::1", "172.17.0.1", "127.0.0.1", "10.9.0.7", "10.9.0.2"), region("c", "172.17.0.1", "10.9.0.3")}
	require.NoError(t, find(nil, "a 10.1.0.1", "b 10.9.0.2", "c 10.9.0.3"), "in the URL's subnet; the first that answers; the first")
	hosts.Networks = []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")}
	require.NoError(t, find(nil, "a 10.2.0.1", "b 10.9.0.2", "c 10.9.0.3"))
	up["10.9.0.5:5240"] = true
	source.regions[1].Addresses = append(source.regions[1].Addresses, addresses("10.9.0.5")...)
	require.NoError(t, find(map[string]string{"a": "10.1.0.1", "b": "10.9.0.5", "c": "10.9.0.9"}, "a 10.2.0.1", "b 10.9.0.5", "c 10.9.0.3"), "where it was asked before, as long as it is there")
	delete(up, "10.9.0.5:5240")
	require.NoError(t, find(map[string]string{"b": "10.9.0.5"}, "a 10.2.0.1", "b 10.9.0.2", "c 10.9.0.3"), "and answers there")

	source.regions[2].Addresses = nil
	known := map[string]string{"a": "10.2.0.1", "b": "10.9.0.2", "c": "10.9.0.3"}
	require.NoError(t, find(known, "a 10.2.0.1", "b 10.9.0.2", "c 10.9.0.3"), "its address is not known now, and was")
	delete(known, "c")
	require.ErrorContains(t, find(known, "a 10.2.0.1", "b 10.9.0.2"), "MAAS knows no address of c.maas yet")
	source.regions = source.regions[:2]
	require.NoError(t, find(known, "a 10.2.0.1", "b 10.9.0.2"), "a region that nobody knew")
	known["c"] = "10.9.0.3"
	require.NoError(t, find(known, "a 10.2.0.1", "b 10.9.0.2", "c 10.9.0.3 unlisted"), "a region that is not listed any more")
	known["c"] = "10.9.0.2"
	require.NoError(t, find(known, "a 10.2.0.1", "b 10.9.0.2"), "a region that was installed anew")
	delete(known, "c")

	source.regions = append(source.regions, region("d", "10.2.0.1"), region("e"))
	hosts.Networks = append(hosts.Networks, netip.MustParsePrefix("10.9.0.0/24"))
	require.ErrorContains(t, find(nil, "a 10.9.0.1", "b 10.9.0.7", "d 10.2.0.1"), "no address of e.maas", "an address in the networks counts, also where another region has it")
	_, all, err := hosts.Nameservers(t.Context())
	require.NoError(t, err)
	require.False(t, all)
	source.regions, hosts.Networks = source.regions[:2], hosts.Networks[:1]
	source.err = errors.New("down")
	require.ErrorContains(t, find(known, "a 10.2.0.1", "b 10.9.0.2"), "only those are asked that were known: down")
	require.ErrorContains(t, find(nil), "down")
	_, _, err = hosts.Nameservers(t.Context())
	require.ErrorContains(t, err, "no region is known")
	source.err = nil
	now = now.Add(time.Minute)
	servers, all, err := hosts.Nameservers(t.Context())
	require.NoError(t, err)
	require.True(t, all)
	require.Equal(t, []string{"10.2.0.1:53", "10.9.0.2:53"}, servers)
	asked := source.asked
	_, _, err = hosts.Nameservers(t.Context())
	require.NoError(t, err)
	require.Equal(t, asked, source.asked, "one answer is shared for a moment")
	hosts.Forget()
	_, _, err = hosts.Nameservers(t.Context())
	require.NoError(t, err)
	require.Equal(t, asked+1, source.asked)
}

// Endpoints that somebody wrote down are compared with the regions that MAAS lists.
func TestRegionsThatAreNoEndpoint(t *testing.T) {
	t.Parallel()
	source := &listed{}
	for id, address := range map[string]string{"here": "10.1.0.1", "there": "10.1.0.2"} {
		source.regions = append(source.regions, maasconfig.Region{ID: id, Name: id + ".maas", Addresses: addresses(address)})
	}
	source.regions = append(source.regions, maasconfig.Region{ID: "new", Name: "new.maas"})
	hosts := maasconfig.NewRegionHosts(maasconfig.RegionsConfig{
		Lister: source, Now: time.Now,
		IsHere:  func(address string) bool { return address == "10.1.0.1" },
		Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") },
	})
	for _, row := range []struct{ endpoints, want string }{
		{"10.1.0.1 10.1.0.2:5443", ""},
		{"10.1.0.1", "there.maas"},
		{"10.1.0.2", "here.maas"},
		{"127.0.0.1:5443", "there.maas"}, // which leads to this host's
		{"localhost 10.1.0.1", ""},       // nobody knows where a name leads
	} {
		require.Equal(t, row.want, strings.Join(hosts.Unlisted(t.Context(), strings.Fields(row.endpoints)), " "), row.endpoints)
	}
}

// Whoever answers in MAAS's place may name any number of addresses: few of them are tried, and fewer at the same time.
func TestFewOfARegionsAddressesAreTried(t *testing.T) {
	t.Parallel()
	source := &listed{}
	for n := range 50 {
		region := maasconfig.Region{ID: fmt.Sprint("r", n), Name: fmt.Sprintf("r%d.maas", n)}
		for m := range 200 {
			region.Addresses = append(region.Addresses, netip.AddrFrom4([4]byte{10, 8, byte(n), byte(m)}))
		}
		source.regions = append(source.regions, region)
	}
	var mu sync.Mutex
	dials, open, most := 0, 0, 0
	hosts := maasconfig.NewRegionHosts(maasconfig.RegionsConfig{
		Lister: source, Now: time.Now, MAASURL: func(context.Context) (string, error) { return "", errors.New("unknown") },
		Dial: func(context.Context, string, string) (net.Conn, error) {
			mu.Lock()
			dials, open = dials+1, open+1
			most = max(most, open)
			mu.Unlock()
			runtime.Gosched()
			mu.Lock()
			defer mu.Unlock()
			open--
			return nil, errors.New("connection refused")
		},
	})
	found, err := hosts.Find(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, found, 50)
	require.Equal(t, 50*8, dials)
	require.LessOrEqual(t, most, 64)
}

// below is a file system whose root is a folder.
type below struct {
	world.FS
	dir string
}

func (b below) ReadDir(name string) ([]fs.DirEntry, error) {
	return b.FS.ReadDir(filepath.Join(b.dir, name))
}

func (b below) OpenRoot(name string) (world.Root, error) {
	return b.FS.OpenRoot(filepath.Join(b.dir, name))
}

func TestBrokenProfiles(t *testing.T) {
	t.Parallel()
	former, err := certtest.NewAuthority()
	require.NoError(t, err)
	present, err := certtest.NewAuthority()
	require.NoError(t, err)
	stranger, err := certtest.NewAuthority()
	require.NoError(t, err)
	served, err := present.Issue(certstore.EC256, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	dir := t.TempDir()
	for name, text := range map[string][]byte{
		"root/.maascli.certs/old.pem":                         former.RootPEM(),
		"root/.maascli.certs/new.pem":                         present.RootPEM(),
		"root/.maascli.certs/both.pem":                        append(former.RootPEM(), present.RootPEM()...),
		"root/.maascli.certs/other.pem":                       stranger.RootPEM(),
		"root/.maascli.certs/none.pem":                        []byte("nothing"),
		"root/.maascli.certs/notes.txt":                       former.RootPEM(),
		"home/ann/snap/maas/41/.maascli.certs/snap\x1bed.pem": former.RootPEM(),
		"elsewhere.pem":                                       former.RootPEM(),
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	require.NoError(t, os.Symlink("41", filepath.Join(dir, "home/ann/snap/maas/current")))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "home/bob/.maascli.certs"), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(dir, "elsewhere.pem"), filepath.Join(dir, "home/bob/.maascli.certs/link.pem")))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "home/carl"), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(dir, "root/.maascli.certs"), filepath.Join(dir, "home/carl/.maascli.certs")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "root/.maascli.certs/long.pem"), bytes.Repeat(former.RootPEM(), 100), 0o600))
	roots, err := certstore.ParseCertificates(former.RootPEM())
	require.NoError(t, err)
	broken := maasconfig.BrokenProfiles(below{world.OS{}, dir}, roots, served, certstore.Trust{})
	require.Equal(t, []maasconfig.Profile{{Name: "old", Home: "/root"}, {Name: "snap ed", Home: "/home/ann"}}, broken)
}
