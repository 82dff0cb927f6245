//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/internal/loopback"
)

// parse has Debian's Monitoring::Plugin read a plug-in's performance data and say what the thresholds make of each value.
const parse = `use Monitoring::Plugin::Performance; use Monitoring::Plugin::Functions qw(%ERRORS);
my ($text) = (<STDIN> =~ /\|\s*(.*)$/) or die "no performance data";
my @all = Monitoring::Plugin::Performance->parse_perfstring($text) or die "nothing was parsed";
my %word = reverse %ERRORS;
printf "%s %s%s %s\n", $_->label, $_->value, $_->uom // "", $word{$_->threshold->get_status($_->value)} for @all;`

// The line of monitor is read by the parser that plug-ins of Nagios and its kin use, and comes to the same.
func TestMonitoringPluginsReadTheLine(t *testing.T) {
	port, err := loopback.Port()
	require.NoError(t, err)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: port})
	s := newSite(t, ca.Directory, slices.Concat(ca.DirectoryRoot(), ca.Root(0)), ca.DNS, port)
	s.edit(t, "  directory: ", "  accept_terms: true\n  directory: ")
	s.run(t, 0, "renew", "--enable-tls")
	read := func(args ...string) string {
		line, _ := exec.Command(os.Getenv("MAASCERT_E2E_BINARY"), append([]string{"monitor", "--status", filepath.Join(s.dir, "state", "public", "status.json")}, args...)...).Output()
		cmd := exec.Command("perl", "-e", parse)
		cmd.Stdin = strings.NewReader(string(line))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "Debian has it: apt-get install libmonitoring-plugin-perl: %s%s", line, out)
		return string(out)
	}
	require.Regexp(t, `^last_pass_age \d+s OK\nmaas_left \d+s OK\nmaas_endpoints 3 OK\n$`, read())
	require.Regexp(t, `maas_left \d+s WARNING\n`, read("--warn", "100000h"))
	require.Regexp(t, `maas_left \d+s CRITICAL\n`, read("--crit", "100000h"))
	s.maas.Regions[1].StopProxy()
	require.Regexp(t, `maas_endpoints 2 WARNING\n`, read())
}
