//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/internal/fleettest"
)

// builtPackage is the one that make deb built for an architecture.
func builtPackage(t *testing.T, arch string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(project(t), "bin", "dist", "maascert_*_"+arch+".deb"))
	require.NoError(t, err)
	require.Len(t, found, 1, "make deb builds it")
	return found[0]
}

func project(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	return dir
}

// in runs a program in a folder, which has to end well, and returns what it says.
func in(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %s\n%s", name, strings.Join(args, " "), out)
	return strings.TrimSpace(string(out))
}

// lintian finds nothing in the packages but what an override gives a reason for.
func TestLintianFindsNothing(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"amd64", "arm64"} {
		require.Empty(t, in(t, "/", program(t, "lintian"), "--allow-root", "--fail-on", "error,warning", builtPackage(t, arch)), arch)
	}
}

// Whoever builds a commit, and in which folder, gets the same bytes: packages, tarballs, and what is in them.
func TestTheSameCommitGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	var sums []string
	for _, name := range []string{"here", "at/another/place"} {
		dir := filepath.Join(t.TempDir(), name)
		in(t, "/", "git", "clone", "--quiet", project(t), dir)
		in(t, dir, "go", "run", "./internal/packaging", "-arch", "amd64", "-tools", os.Getenv("MAASCERT_E2E_TOOLS"))
		in(t, filepath.Join(dir, "bin", "dist"), "sha256sum", "--check", "--quiet", "SHA256SUMS")
		unit := in(t, filepath.Join(dir, "bin", "dist"), "sh", "-c", "tar -xzOf *.tar.gz --wildcards '*/examples/systemd/maascert.service'")
		require.Contains(t, unit, "ExecStart=/usr/local/bin/maascert run", "where the tarball's program goes")
		text, err := os.ReadFile(filepath.Join(dir, "bin", "dist", "SHA256SUMS"))
		require.NoError(t, err)
		sums = append(sums, string(text))
	}
	require.Equal(t, sums[0], sums[1])
	require.Equal(t, 5, strings.Count(sums[0], "\n"), sums[0])
	t.Logf("two builds of %s:\n%s", in(t, project(t), "git", "rev-parse", "HEAD"), sums[0])
}

// anEarlierCommit is the last before there were packages.
const anEarlierCommit = "adfba50f95575d9069ecd50d7a5196ffe611a62d"

// buildEarlier makes the package of an earlier commit: its program, packed as today's.
func buildEarlier(t *testing.T) (path string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "then")
	in(t, "/", "git", "clone", "--quiet", project(t), dir)
	in(t, dir, "git", "checkout", "--quiet", anEarlierCommit)
	earlier := filepath.Join(t.TempDir(), "maascert")
	in(t, dir, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=true", "-ldflags", "-s -w", "-o", earlier, "./cmd/maascert")
	out := filepath.Join(t.TempDir(), "dist")
	here := filepath.Join(t.TempDir(), "here") // whose files are not those of the build that is under test
	in(t, "/", "git", "clone", "--quiet", project(t), here)
	in(t, here, "go", "run", "./internal/packaging", "-arch", "amd64", "-program", earlier, "-tools", os.Getenv("MAASCERT_E2E_TOOLS"), "-out", out)
	found, err := filepath.Glob(filepath.Join(out, "*.deb"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// A package's life on a Debian on which nothing is installed yet: installed, set up in three commands, enabled, started by
// systemd, upgraded with all it knew, removed with what it knew kept, purged with nothing left.
func TestAPackageFromInstallToPurge(t *testing.T) {
	require.Zero(t, os.Geteuid(), "namespaces need root")
	const earlier = "MAASCERT_E2E_EARLIER" // its package, which needs the network to be built
	if os.Getenv(earlier) == "" {
		t.Setenv(earlier, buildEarlier(t))
	}
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^TestAPackageFromInstallToPurge$", "-test.v", "-test.timeout", "15m")
	require.NoError(t, err)
	if !isInside {
		return
	}
	addAddresses(t)
	shared, self := newShared(t)
	maas := startRegions(t, shared, self)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: 80, Validity: 90 * 24 * time.Hour})
	startResolver(t)
	ca.DNS.Point(netip.MustParseAddr(regionAddresses[0]))
	root := slices.Concat(ca.DirectoryRoot(), ca.Root(0))
	require.NoError(t, os.WriteFile(filepath.Join(shared, "roots.pem"), root, 0o644))
	for name, path := range map[string]string{"earlier.deb": os.Getenv(earlier), "now.deb": builtPackage(t, "amd64")} {
		in(t, "/", "cp", path, filepath.Join(shared, name))
	}
	d := newDebian(t, shared)
	d.must(asSnap(maas, 0))

	d.must("apt-get install -qq " + shared + "/earlier.deb")
	d.must("test -x /usr/bin/maascert -a -s /usr/share/man/man8/maascert-renew.8.gz -a -s /usr/share/bash-completion/completions/maascert -a -s /usr/share/doc/maascert/examples/prometheus/rules.yaml")
	d.isEnabled("disabled")
	said := d.must(fmt.Sprintf("maascert init --yes --directory %s --root %s/roots.pem --accept-terms --name maas.example.internal --name 10.0.0.11 --endpoint 10.0.0.11 --endpoint 10.0.0.12", ca.Directory, shared))
	t.Log(said)
	said = d.must("maascert renew --dry-run --enable-tls")
	require.Contains(t, said, "the CA proved every name")
	require.Empty(t, ca.Issued())
	d.must("maascert renew --enable-tls")
	d.isEnabled("disabled")
	d.must("systemctl enable maascert")
	d.isEnabled("enabled")
	require.Equal(t, "/lib/systemd/system/maascert.service", strings.TrimPrefix(d.must("readlink /etc/systemd/system/multi-user.target.wants/maascert.service"), "/usr"))
	d.asTheUnitSays()

	if err := d.start(); err != nil {
		t.Logf("NO SYSTEMD HERE: units are not started: %v", err)
		d.must("apt-get install -qq " + shared + "/now.deb")
		d.keepsState(ca)
	} else {
		d.underSystemd(ca)
	}

	d.must("apt-get remove -qq maascert")
	d.must("test -d /var/lib/maascert/store -a -s /etc/maascert/maascert.yaml -a ! -e /usr/bin/maascert")
	for _, region := range maas.Regions {
		require.NotNil(t, region.Serves(5443), "what is served stays served")
	}
	require.NotContains(t, d.must("readlink /proc/[0-9]*/exe || true"), "maascert", "nothing of it runs")
	d.must("dpkg --purge maascert")
	left := d.must(fmt.Sprintf("find / -xdev -path '%s' -prune -o -iname '*maascert*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/run/*' -not -path '/tmp/*' -not -path '/var/tmp/*' -print", shared))
	require.Equal(t, "/var/snap/maas/common/maascert", left, "nothing is left but the place of the stage, which is MAAS's own")
	require.Empty(t, d.must("ls -A /var/snap/maas/common/maascert"))
}

func (d *debian) isEnabled(want string) {
	d.Helper()
	said, _ := d.sh("systemctl is-enabled maascert.service")
	require.Equal(d, want, strings.TrimSpace(said))
}

var unitLine = regexp.MustCompile(`(?m)^(ExecStart|UMask|Environment)=(.*)$`)

// asTheUnitSays runs the daemon as the unit would, with its umask and nothing of this shell's environment, until it is well.
func (d *debian) asTheUnitSays() {
	d.Helper()
	unit := map[string]string{}
	for _, line := range unitLine.FindAllStringSubmatch(d.must("cat /usr/lib/systemd/system/maascert.service"), -1) {
		unit[line[1]] = line[2]
	}
	require.Equal(d, "/usr/bin/maascert run", unit["ExecStart"])
	said := d.must(fmt.Sprintf(`umask %s
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin LANG=C.UTF-8 %s %s >/tmp/log 2>&1 &
pid=$!
for try in $(seq 200); do
	grep -q 'nothing to do' /tmp/log && break
	sleep 0.1
done
grep -E '^(Uid|Umask):' /proc/$pid/status
kill -TERM $pid
wait $pid; echo "exit $?"
cat /tmp/log`, unit["UMask"], unit["Environment"], unit["ExecStart"]))
	require.Regexp(d, `(?s)^Umask:\t0077\nUid:\t0\t0\t0\t0\nexit 130\n.*nothing to do`, said)
}

// keepsState tells that the certificate in use is the one that was obtained first, which needed no second order.
func (d *debian) keepsState(ca *acmetest.CA) {
	d.Helper()
	require.Contains(d, d.must("maascert status"), "version 1")
	require.Len(d, ca.Issued(), 1)
}

// underSystemd has the units started by a systemd that was booted: the daemon, which an upgrade starts anew, the pass of the timer,
// and respond with a user of its own.
func (d *debian) underSystemd(ca *acmetest.CA) {
	d.Helper()
	const isWell = "(exec 3<>/dev/tcp/127.0.0.1/9543 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '200 OK' <&3)"
	d.until(isWell)
	before := d.must("systemctl show -p MainPID --value maascert")
	version := d.must("maascert --version")
	require.Contains(d, d.must("systemctl status maascert"), "maas: ok; next look")

	d.must("systemctl reload maascert")
	require.Equal(d, before, d.must("systemctl show -p MainPID --value maascert"))
	d.until(isWell)

	d.must("systemctl disable maascert") // who started it by hand has it upgraded, too
	d.must("apt-get install -qq " + d.shared + "/now.deb")
	d.must("systemctl enable maascert")
	require.NotEqual(d, version, d.must("maascert --version"))
	require.NotEqual(d, before, d.must("systemctl show -p MainPID --value maascert"), "it runs the new program")
	d.until(isWell)
	d.isEnabled("enabled")
	d.keepsState(ca)
	require.Equal(d, "0", d.must("systemctl show -p NRestarts --value maascert"))

	d.must("systemctl start maascert-renew.service")
	require.Equal(d, "success", d.must("systemctl show -p Result --value maascert-renew.service"))

	d.must("systemctl stop maascert")
	const thumbprint = "ibBJhWuR4WUMGj0V2i4JvHL92vJ5FU4aP2sCWTmwUa8"
	d.must("mkdir -p /etc/systemd/system/maascert-respond.service.d && printf '[Service]\\nEnvironment=THUMBPRINT=" + thumbprint + "\\n' >/etc/systemd/system/maascert-respond.service.d/thumbprint.conf && systemctl daemon-reload")
	d.must("systemctl start maascert-respond")
	d.until("exec 3<>/dev/tcp/10.0.0.11/80 && printf 'GET /.well-known/acme-challenge/a-token-of-the-ca-0123456789 HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q 'a-token-of-the-ca-0123456789." + thumbprint + "' <&3")
	pid := d.must("systemctl show -p MainPID --value maascert-respond")
	require.Regexp(d, `^6[1-5]\d{3}$`, d.must("stat -c %u /proc/"+pid), "a user that systemd makes for it (61184 to 65519)")
	require.Equal(d, "CapEff:\t0000000000000400", d.must("grep CapEff /proc/"+pid+"/status"))
	d.must("systemctl stop maascert-respond && rm -r /etc/systemd/system/maascert-respond.service.d && systemctl daemon-reload")
	d.must("systemctl start maascert")
	d.until(isWell)

	// A package that was removed and comes back goes on with what was enabled. What was put there by hand stays the administrator's.
	d.must("apt-get remove -qq maascert")
	_, code := d.sh(isWell)
	require.NotZero(d, code)
	d.must("printf '#!/bin/sh\n' >/usr/local/bin/maascert")
	require.Contains(d, d.must("apt-get install -qq "+d.shared+"/now.deb 2>&1"), "/usr/local/bin/maascert was put there by hand")
	d.must("rm /usr/local/bin/maascert")
	d.until(isWell)
	d.isEnabled("enabled")
	d.keepsState(ca)
}

// A host whose MAAS came as a deb takes the drop-in as well, which closes what the snap needs open. Below it the daemon does all
// there is to do: it makes an account, obtains, stages, tells MAAS and verifies, and reloads.
func TestTheClosedUnitDoesAllThereIsToDo(t *testing.T) {
	require.Zero(t, os.Geteuid(), "namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^TestTheClosedUnitDoesAllThereIsToDo$", "-test.v", "-test.timeout", "15m")
	require.NoError(t, err)
	if !isInside {
		return
	}
	addAddresses(t)
	startResolver(t)
	shared, self := newShared(t)
	maas := startRegions(t, shared, self)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: 80, Validity: 90 * 24 * time.Hour})
	ca.DNS.Point(netip.MustParseAddr(regionAddresses[0]))
	require.NoError(t, os.WriteFile(filepath.Join(shared, "roots.pem"), slices.Concat(ca.DirectoryRoot(), ca.Root(0)), 0o644))
	in(t, "/", "cp", builtPackage(t, "amd64"), filepath.Join(shared, "now.deb"))
	d := newDebian(t, shared)
	d.must(asDeb(maas, 0))
	d.must("apt-get install -qq " + shared + "/now.deb")
	t.Log(d.must(fmt.Sprintf("maascert init --yes --directory %s --root %s/roots.pem --accept-terms --name maas.example.internal --endpoint 10.0.0.11 --endpoint 10.0.0.12", ca.Directory, shared)))
	d.must("maascert renew --enable-tls")
	d.must("cp -r /usr/share/doc/maascert/examples/systemd/maascert.service.d /etc/systemd/system/ && systemctl enable maascert && rm -r /var/lib/maascert")
	require.Len(t, ca.Issued(), 1)
	if err := d.start(); err != nil {
		t.Logf("NO SYSTEMD HERE: the unit is not started: %v", err)
		return
	}
	d.until("maascert status >/tmp/status && grep 'version 1' /tmp/status")
	require.Len(t, ca.Issued(), 2)
	for _, region := range maas.Regions {
		require.Contains(t, ca.Issued()[1], fmt.Sprintf("%x", region.Serves(5443).SerialNumber.Bytes()))
	}
	before := d.must("systemctl show -p MainPID --value maascert")
	d.must("systemctl reload maascert")
	d.until("maascert status")
	require.Equal(t, before, d.must("systemctl show -p MainPID --value maascert"))
	require.Equal(t, "0", d.must("systemctl show -p NRestarts --value maascert"))
	require.Equal(t, "strict yes", d.must("echo $(systemctl show -p NoNewPrivileges -p ProtectSystem --value maascert)"))
}
