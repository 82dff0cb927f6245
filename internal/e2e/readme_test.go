//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore/postgres/postgrestest"
	"maascert/internal/fleettest"
	"maascert/maasconfig/maastest"
)

// cleanRoot is a region host on which nothing of maascert is yet: the folders that the README names are empty, and what is written there is
// seen by nobody else. systemctl starts and stops what the unit says; sudo has nothing to do.
type cleanRoot struct {
	*testing.T
	holder *exec.Cmd
	dir    string
	env    []string
}

// made are the shell commands that make one: everything is written to a tmpfs. $1 is a folder, $2 maascert.
const made = `set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
for of in etc var usr/local; do
	mkdir -p "$1/$of/upper" "$1/$of/work"
	mount -t overlay overlay -o "lowerdir=/$of,upperdir=$1/$of/upper,workdir=$1/$of/work" "/$of"
done
rm -rf /etc/maascert /var/lib/maascert /etc/letsencrypt /etc/cron.d/certbot
mkdir -p /etc/maascert /etc/systemd/system /usr/local/bin
cp "$2" /usr/local/bin/maascert
cat >/usr/local/bin/sudo <<'END'
#!/bin/sh
[ "$1" = -u ] && shift 2
exec "$@"
END
cat >/usr/local/bin/sudoedit <<'END'
#!/bin/sh
text=$(cat)
[ -z "$text" ] || printf '%s\n' "$text" >"$1"
END
cat >/usr/local/bin/systemctl <<'END'
#!/bin/sh
pid=/etc/maascert/.pid
case "$*" in
"enable --now maascert" | "start maascert")
	setsid $(sed -n 's/^ExecStart=//p' /etc/systemd/system/maascert.service) >>/etc/maascert/.log 2>&1 </dev/null &
	echo $! >$pid ;;
"stop maascert")
	kill "$(cat $pid)"
	while kill -0 "$(cat $pid)" 2>/dev/null; do sleep 0.05; done ;;
*)
	echo "systemctl $*: not known here" >&2
	exit 1 ;;
esac
END
chmod 755 /usr/local/bin/*
touch /etc/maascert/.ready
exec sleep 100000`

func newCleanRoot(t *testing.T, env ...string) *cleanRoot {
	t.Helper()
	r := &cleanRoot{T: t, dir: t.TempDir(), env: append(os.Environ(), env...)}
	r.holder = exec.Command("sh", "-c", made, "sh", r.dir, os.Getenv("MAASCERT_E2E_BINARY"))
	r.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	r.holder.Stderr = &said
	require.NoError(t, r.holder.Start())
	t.Cleanup(func() {
		r.sh("test ! -e /etc/maascert/.pid || kill -9 $(cat /etc/maascert/.pid) || true", "")
		_ = r.holder.Process.Kill()
		_ = r.holder.Wait()
	})
	require.Eventually(t, func() bool { _, code := r.sh("test -e /etc/maascert/.ready", ""); return code == 0 }, 20*time.Second, 20*time.Millisecond, "%s", &said)
	return r
}

// sh runs a line of a shell there, in the folder of the README.
func (r *cleanRoot) sh(line, stdin string) (said string, code int) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	here, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(r, err)
	cmd := exec.CommandContext(ctx, "nsenter", "-t", strconv.Itoa(r.holder.Process.Pid), "-m", "--wd="+here, "--", "setsid", "-w", "bash", "-c", line)
	cmd.Env, cmd.Stdin, cmd.WaitDelay = r.env, strings.NewReader(stdin), time.Second
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (r *cleanRoot) write(path, text string) {
	r.Helper()
	said, code := r.sh("cat >"+path, text)
	require.Zero(r, code, said)
}

var fences = regexp.MustCompile("(?ms)^( *)```(sh|yaml)\n(.*?)^ *```$")

// blocks are those of a language in the README, and then in the pages of the manual that one comes to after it, without what they are
// indented by.
func blocks(t *testing.T, language string) (all []string) {
	t.Helper()
	const pages = "internal/command/topics/"
	inOrder := []string{"README.md", pages + "monitoring.md", pages + "hosts.md"}
	others, err := filepath.Glob(filepath.Join("..", "..", pages, "*.md"))
	require.NoError(t, err)
	for _, file := range others {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, slices.Contains(inOrder, pages+filepath.Base(file)) || !strings.Contains(string(text), "```sh"), "%s has commands that are not run here", file)
	}
	for _, file := range inOrder {
		text, err := os.ReadFile(filepath.Join("..", "..", file))
		require.NoError(t, err)
		for _, fence := range fences.FindAllStringSubmatch(string(text), -1) {
			if fence[2] == language {
				all = append(all, regexp.MustCompile("(?m)^"+fence[1]).ReplaceAllString(fence[3], ""))
			}
		}
	}
	return all
}

// Every shell block of the README, in order, on a region host on which nothing of maascert is yet, with a MAAS that does not serve TLS. What a
// person types or edits in between is what the README says there.
func TestTheREADMEWorks(t *testing.T) {
	require.Zero(t, os.Geteuid(), "namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^TestTheREADMEWorks$", "-test.v", "-test.timeout", "10m")
	require.NoError(t, err)
	if !isInside {
		return
	}
	regions := []maastest.Host{}
	for _, address := range []string{"10.0.0.11", "10.0.0.12"} {
		out, err := exec.Command("ip", "address", "add", address+"/32", "dev", "lo").CombinedOutput()
		require.NoError(t, err, string(out))
		regions = append(regions, maastest.Host{Address: netip.MustParseAddr(address), Listen: net.Listen})
	}
	ca := acmetest.New(t, acmetest.Options{HTTPPort: 80, Validity: 90 * 24 * time.Hour})
	ca.DNS.Point(regions[0].Address)
	maas, err := maastest.Start(maastest.Options{Dir: t.TempDir(), Hosts: regions})
	require.NoError(t, err)
	t.Cleanup(maas.Stop)
	database := postgrestest.Start(t)
	database.SQL("drop database maascert", "drop role maascert")
	host := newCleanRoot(t, "PGHOST="+database.Address, "PGPORT="+strconv.Itoa(database.Port), "PGUSER=postgres",
		"PATH=/usr/local/bin:/usr/lib/postgresql/15/bin:"+os.Getenv("PATH"))

	yaml, shell := blocks(t, "yaml"), blocks(t, "sh")
	require.Equal(t, "make demo\nmake test\n", shell[0], "which CI runs before all else")
	first := strings.Replace(yaml[0], "https://ca.example.internal/acme/acme/directory", ca.Directory+"\n  accept_terms: true", 1) // Pebble has terms
	require.NotEqual(t, yaml[0], first)
	host.write("/etc/maascert/root_ca.crt", string(slices.Concat(ca.DirectoryRoot(), ca.Root(0))))
	host.write("/etc/maascert/maascert.yaml", first+fmt.Sprintf("resolvers: [%q]\nmaas: {command: %q, http_dir: %q, stage_dir: %q, version: 3.7.3}\n",
		ca.DNS.Address, maas.Command, maas.Regions[0].HTTPDir, filepath.Join(t.TempDir(), "stage")))
	store := yaml[len(yaml)-1]
	require.Contains(t, store, "type: postgres")

	// What a person does beside what is typed, and which lines are for a MAAS that serves TLS already.
	typed := map[string]string{
		"createuser": "hunter2\nhunter2\n", "sudoedit /etc/maascert/database.url": fmt.Sprintf("postgres://maascert:hunter2@%s:%d/maascert\n", database.Address, database.Port),
	}
	ends := map[string]int{"# MAAS serves TLS already": 1}
	for _, block := range shell[1:] {
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			stdin, want := "", 0
			for part, text := range typed {
				if strings.Contains(line, part) {
					stdin = text
				}
			}
			for part, code := range ends {
				if strings.HasSuffix(line, part) {
					want = code
				}
			}
			said, code := host.sh(line, stdin)
			t.Logf("$ %s\n%s", line, said)
			log, _ := host.sh("cat /etc/maascert/.log 2>/dev/null", "")
			require.Equal(t, want, code, "%s\n%s\n%s", line, said, log)
			switch {
			case strings.Contains(line, "then add the line store:"):
				text, code := host.sh("cat /etc/maascert/maascert.yaml", "")
				require.Zero(t, code)
				host.write("/etc/maascert/maascert.yaml", text+store)
			case strings.Contains(line, "systemctl enable --now maascert"):
				require.Eventually(t, func() bool { _, code := host.sh("curl -fsS http://127.0.0.1:9543/healthz", ""); return code == 0 }, 20*time.Second, 50*time.Millisecond)
			}
		}
	}
	for _, region := range maas.Regions {
		require.NotNil(t, region.Serves(5443))
	}
	require.Equal(t, 1, database.CountIn("maascert", "select count(*) from maascert.document where name = 'versions/maas/1'"))
}
