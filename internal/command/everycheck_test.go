package command

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/report"
	"maascert/internal/sourcetest"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
	"maascert/maasconfig/maastest"
)

// checkRow is one thing that check looks at: it is well, something breaks it, check says so and what to do, and that makes it well again.
type checkRow struct {
	code     string
	config   []string // what the configuration has instead of what
	first    func(s *situation)
	habits   acmetest.Options
	isNew    bool // nothing was renewed yet
	breaks   func(s *situation)
	state    report.CheckState
	fix      string // what the fix begins with, or has in it
	follow   func(s *situation, fix string)
	isBroken bool // it is so from the beginning
	isSilent bool // it says nothing while it is well
}

// checked is what check finds under a code.
func (s *situation) checked(code string) (found []report.Item) {
	s.Helper()
	_, stdout, stderr := inSite(s.T, s.site, s.fsys, "check", "--json")
	var doc report.Checklist
	require.NoError(s, json.Unmarshal([]byte(stdout), &doc), "%s%s", stdout, stderr)
	for _, item := range doc.Checks {
		if item.Code == code {
			found = append(found, item)
		}
	}
	return found
}

func wrong(items []report.Item) (found []report.Item) {
	for _, item := range items {
		if item.State != report.CheckOK {
			found = append(found, item)
		}
	}
	return found
}

// shell runs a command of a fix. This host's own files are a site's.
func (s *situation) shell(line string) {
	s.Helper()
	host := filepath.Join(s.dir, "host")
	line = regexp.MustCompile(`(^|[\s'])(/(etc|var|snap|root)/)`).ReplaceAllString(line, "${1}"+host+"${2}")
	out, err := exec.CommandContext(s.Context(), "sh", "-c", line).CombinedOutput()
	require.NoError(s, err, "%s\n%s", line, out)
}

// runs has a fix followed that is a command line, after some words.
func runs(words string) func(*situation, string) {
	return func(s *situation, fix string) {
		line, _, _ := strings.Cut(strings.TrimPrefix(fix, words), "; and ")
		if rest, isOurs := strings.CutPrefix(line, "maascert "); isOurs {
			code, said := s.run(strings.Fields(rest)...)
			require.Zero(s, code, said)
			return
		}
		s.shell(line)
	}
}

// edits has a fix followed that says what to change in the configuration.
func edits(texts ...string) func(*situation, string) {
	return func(s *situation, _ string) { s.edit(s.T, texts...) }
}

// file lays a file of this host's.
func (s *situation) file(path, text string, mode fs.FileMode) {
	s.Helper()
	at := filepath.Join(s.dir, "host", path)
	require.NoError(s, os.MkdirAll(filepath.Dir(at), 0o755))
	require.NoError(s, os.WriteFile(at, []byte(text), mode))
	require.NoError(s, os.Chmod(at, mode))
}

// fails has an operation on some file fail.
func (s *situation) fails(op, base string, err error) {
	s.fsys = worldtest.FS{FS: world.OS{}, Fail: func(o, name string) error {
		if o == op && filepath.Base(name) == base {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}}
}

func works(s *situation, _ string) { s.fsys = world.OS{} }

const (
	apiKeyFile = "api.key"
	withAPI    = "version: 3.7.3, api: {key: \"file:" + apiKeyFile + "\"}}"
)

func (s *situation) apiURL() string {
	return "http://" + net.JoinHostPort(s.maas.Regions[0].Address.String(), "5240") + "/MAAS"
}

// api lets the configuration ask MAAS, as a user.
func (s *situation) api(user string, isAdmin bool, more ...string) {
	s.Helper()
	require.NoError(s, os.WriteFile(filepath.Join(s.dir, apiKeyFile), []byte(s.maas.APIKey(user, isAdmin)+"\n"), 0o600))
	if len(more) > 0 {
		s.edit(s.T, more...)
		return
	}
	s.edit(s.T, "version: 3.7.3}", fmt.Sprintf("version: 3.7.3, api: {url: %q, key: \"file:%s\"}}", s.apiURL(), apiKeyFile))
}

// snap makes MAAS one that came as a snap.
func (s *situation) snap(version string) {
	s.file("/snap/maas/current/meta/snap.yaml", "version: "+version+"\n", 0o644)
	s.file("/var/snap/maas/common/snap_mode", "region+rack\n", 0o644)
	s.file("/var/snap/maas/current/regiond.conf", "maas_url: http://maas.example.internal:5240/MAAS\n", 0o640)
	s.edit(s.T, ", version: 3.7.3}", "}")
}

var everyCheck = []checkRow{
	{code: "store", breaks: func(s *situation) { s.fails("Writable", "store", syscall.ENOSPC) }, state: report.CheckFail, fix: "free or mount it", follow: works},
	{code: "public", breaks: func(s *situation) { s.fails("Writable", "public", syscall.EACCES) }, state: report.CheckFail, fix: "run maascert as root", follow: works},
	{code: "own-files", breaks: func(s *situation) { s.shell("chmod 0666 " + s.dir + "/maascert.yaml") }, state: report.CheckFail, fix: "chmod go-w ", follow: runs("")},
	{code: "managers", breaks: func(s *situation) {
		s.file("/etc/cron.d/maas", "0 3 * * * root maas config-tls enable k c --yes\n", 0o644)
	}, state: report.CheckWarn, fix: "sed -i", follow: runs("")},
	{code: "leftover", isSilent: true, breaks: func(s *situation) {
		ledger, err := certstore.OpenLedger(s.Context(), s.store(), "old")
		require.NoError(s, err)
		require.NoError(s, ledger.Update(s.Context(), func(r *certstore.Record) { r.Failures = 1 }))
	}, state: report.CheckWarn, fix: "maascert delete old", follow: func(s *situation, fix string) { runs("if it was renamed or is not wanted any more: ")(s, fix+" --yes") }},
	{code: "rehearse", isSilent: true, breaks: func(s *situation) {
		s.edit(s.T, "challenge: {type: http-01,", "challenge: {type: http-01, before: [\"true\"],")
	}, state: report.CheckWarn, fix: "rehearse_hooks: true", follow: edits("listen: \"\"\n", "listen: \"\"\nrehearse_hooks: true\n")},
	{code: "secrets", isSilent: true, first: func(s *situation) { s.api("admin", true) }, breaks: func(s *situation) { s.shell("chmod 0644 " + s.dir + "/" + apiKeyFile) }, state: report.CheckFail, fix: "chmod 0600 ", follow: runs("")},
	{code: "notify", first: func(s *situation) {
		hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		s.Cleanup(hook.Close)
		require.NoError(s, os.WriteFile(filepath.Join(s.dir, "hook.url"), []byte(hook.URL+"\n"), 0o600))
		s.edit(s.T, "listen: \"\"\n", "listen: \"\"\nnotify: [{name: ops, type: webhook, url: \"file:hook.url\"}]\n")
	}, breaks: func(s *situation) { s.shell("mv " + s.dir + "/hook.url " + s.dir + "/kept") }, state: report.CheckWarn, fix: "mend that; then: maascert notify test", follow: func(s *situation, fix string) {
		s.shell("mv " + s.dir + "/kept " + s.dir + "/hook.url")
		runs("mend that; then: ")(s, fix)
	}},
	{code: "external-account", isSilent: true, isNew: true, habits: bound, isBroken: true, breaks: func(*situation) {}, state: report.CheckFail, fix: "set acme.eab to what the CA's operator gave you", follow: func(s *situation, _ string) { withEAB(macKey)(s.T, s.site) }},
	{code: "window", isSilent: true, first: func(s *situation) {
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) { // it says nothing of windows
			if strings.Contains(r.URL.Path, acmetest.RenewalInfo) {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			next.ServeHTTP(w, r)
		})
	}, breaks: func(s *situation) {
		s.aged(time.Hour, 10*24*time.Hour)
		s.edit(s.T, "key_type: ec256}", "key_type: ec256, window: [\"Sat 02:00-02:30\"]}")
	}, state: report.CheckFail, fix: "", follow: edits("Sat 02:00-02:30", "02:00-02:30")},
	{code: "doubt", isSilent: true, first: func(s *situation) {
		s.api("admin", true)
		s.edit(s.T, "key_type: ec256}", "key_type: ec256, names_from_maas: {regions: fqdn}}")
	}, breaks: func(s *situation) {
		s.maas.InterceptAPI(func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		s.update(func(r *certstore.Record) { r.Doubts = map[string]time.Time{"region1": time.Now().Add(-48 * time.Hour)} })
	}, state: report.CheckFail, fix: "regiond does not answer behind its proxy: is it running?", follow: func(s *situation, _ string) {
		require.NotEmpty(s, wrong(s.checked("api")), "which says what to mend")
		s.maas.InterceptAPI(nil)
		s.run("renew")
	}},
	{code: "files", isNew: true, first: withFront, breaks: func(s *situation) { s.shell("chmod 0777 " + s.dir + "/front") }, state: report.CheckFail, fix: "", follow: func(s *situation, fix string) { s.shell("chmod 0755 " + s.dir + "/front") }},
	{code: "programs", isNew: true, first: withFront, breaks: func(s *situation) { s.shell("mv " + s.dir + "/front/test " + s.dir + "/front/kept") }, state: report.CheckFail, fix: "install it, or set targets.front.check", follow: func(s *situation, _ string) { s.shell("mv " + s.dir + "/front/kept " + s.dir + "/front/test") }},
	{code: "named", isSilent: true, isNew: true, first: withFront, breaks: func(s *situation) { s.shell("sed -i s/maas.pem/other.pem/ " + s.dir + "/front/haproxy.cfg") }, state: report.CheckWarn, fix: "let its configuration name this file", follow: func(s *situation, _ string) { s.shell("sed -i s/other.pem/maas.pem/ " + s.dir + "/front/haproxy.cfg") }},
	{code: "writers", isSilent: true, isNew: true, first: withFront, breaks: func(s *situation) {
		s.file("/etc/letsencrypt/renewal-hooks/deploy/front", "cp fullchain.pem "+s.dir+"/front/maas.pem\n", 0o755)
	}, state: report.CheckWarn, fix: "switch that one off", follow: func(s *situation, _ string) { s.shell("rm /etc/letsencrypt/renewal-hooks/deploy/front") }},
	{code: "backends", isSilent: true, isNew: true, first: withFront, breaks: func(s *situation) {
		s.shell("echo '  server region1 " + s.maas.Regions[0].Address.String() + ":5240' >>" + s.dir + "/front/haproxy.cfg")
	}, state: report.CheckWarn, fix: "", follow: func(s *situation, _ string) { s.shell("sed -i s/:5240/:5443/ " + s.dir + "/front/haproxy.cfg") }},
	{code: "api", first: func(s *situation) { s.api("admin", true) }, breaks: func(s *situation) { s.api("user", false, "version: 3.7.3", "version: 3.7.3") }, state: report.CheckFail, fix: "maas apikey --username ADMIN prints an administrator's", follow: func(s *situation, _ string) { s.api("admin2", true, "version: 3.7.3", "version: 3.7.3") }},
	{code: "zone", isNew: true, first: func(s *situation) {
		s.maas.AddDomain("example.internal", true)
		s.api("admin", true)
		s.edit(s.T, "challenge: {type: http-01,", "challenges: [{match: [region1.example.internal], type: dns-01, dns: {provider: maas}}]\n  challenge: {type: http-01,")
	}, breaks: func(s *situation) {
		s.edit(s.T, "region1.example.internal", "region1.other.internal")
	}, state: report.CheckFail, fix: "", follow: func(s *situation, _ string) { s.maas.AddDomain("other.internal", true) }},
	{code: "directory", breaks: func(s *situation) { s.edit(s.T, "root: directory_root.pem", "root: issuer_root.pem") }, state: report.CheckFail, fix: "acme.root", follow: edits("  root: issuer_root.pem", "  root: directory_root.pem")},
	{code: "profile", breaks: func(s *situation) { s.edit(s.T, "  accept_terms: true\n", "  accept_terms: true\n  profile: nosuch\n") }, state: report.CheckFail, fix: "it has: default", follow: edits("profile: nosuch", "profile: default")},
	{code: "clock", isSilent: true, breaks: func(s *situation) {
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
			next.ServeHTTP(w, r)
		})
	}, state: report.CheckWarn, fix: "set the clock (timedatectl), or mend the CA's", follow: func(s *situation, _ string) { s.ca.Intercept(nil) }},
	{code: "account", breaks: func(s *situation) {
		account, revision, err := certstore.LoadAccount(s.Context(), s.store())
		require.NoError(s, err)
		key, err := certstore.EC256.Generate()
		require.NoError(s, err)
		text, err := certstore.MarshalKey(key)
		require.NoError(s, err)
		account.NextKey = string(text)
		_, err = certstore.SaveAccount(s.Context(), s.store(), account, revision)
		require.NoError(s, err)
	}, state: report.CheckWarn, fix: "maascert account rollover", follow: func(s *situation, fix string) { runs("")(s, "maascert account rollover") }},
	{code: "terms", isSilent: true, isNew: true, breaks: func(s *situation) { s.edit(s.T, "  accept_terms: true\n", "") }, state: report.CheckFail, fix: "read them, then set acme.accept_terms: true", follow: edits("  issuer_root:", "  accept_terms: true\n  issuer_root:")},
	{code: "contact", isSilent: true, config: []string{"  accept_terms: true\n", "  accept_terms: true\n  email: old@example.com\n"}, breaks: func(s *situation) { s.edit(s.T, "old@", "new@") }, state: report.CheckWarn, fix: "maascert account update", follow: runs("")},
	{code: "challenge", breaks: func(s *situation) {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.ca.HTTPPort))
		require.NoError(s, err)
		s.held = func() { _ = listener.Close() }
		s.Cleanup(s.held)
	}, state: report.CheckFail, fix: "", follow: func(s *situation, _ string) { s.held() }},
	{code: "reachable", breaks: func(s *situation) {
		require.NoError(s, s.ca.DNS.Set("region1.example.internal. 1 IN A 127.254.254.254"))
	}, state: report.CheckWarn, fix: "the CA connects to port 80 of this name: lead it here", follow: func(s *situation, _ string) {
		require.NoError(s, s.ca.DNS.Set("region1.example.internal. 1 IN A 127.0.0.1"))
	}},
	{code: "caa", isSilent: true, breaks: func(s *situation) {
		require.NoError(s, s.ca.DNS.Set(`maas.example.internal. 1 IN CAA 0 issue "other.example"`))
	}, state: report.CheckWarn, fix: "dig CAA maas.example.internal", follow: func(s *situation, _ string) {
		require.NoError(s, s.ca.DNS.Set(`maas.example.internal. 1 IN CAA 0 issue "ca.example"`))
	}},
	{code: "certificate", breaks: func(s *situation) {
		require.NoError(s, os.WriteFile(filepath.Join(s.dir, "state", "store", "state", "maas"), []byte("{"), 0o600))
	}, state: report.CheckFail, fix: "move the file state/maas of the store away (keep it), then: maascert renew", follow: func(s *situation, _ string) {
		s.shell("mv " + s.dir + "/state/store/state/maas " + s.dir + "/kept")
		runs("")(s, "maascert renew")
	}},
	{code: "issuer", isSilent: true, isNew: true, breaks: func(s *situation) {
		text, err := os.ReadFile(filepath.Join(s.dir, "maascert.yaml"))
		require.NoError(s, err)
		s.before = string(text)
		without := regexp.MustCompile(`(?s)acme:\n.*?certificates:`).ReplaceAll(text, []byte("certificates:"))
		require.NoError(s, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), without, 0o640))
	}, state: report.CheckWarn, fix: "or name a CA in the section acme:", follow: func(s *situation, _ string) {
		require.NoError(s, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(s.before), 0o640))
	}},
	{code: "changes", isSilent: true, breaks: func(s *situation) { s.edit(s.T, ", region1.example.internal]", ", region2.example.internal]") }, state: report.CheckWarn, fix: "if that is not what you want, mend the certificate's names", follow: edits(", region2.example.internal]", ", region1.example.internal]")},
	{code: "names", first: func(s *situation) {
		s.api("admin", true)
		s.edit(s.T, "key_type: ec256}", "key_type: ec256, names_from_maas: {regions: fqdn}}")
	}, isNew: true, breaks: func(s *situation) {
		s.maas.InterceptAPI(func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			w.WriteHeader(http.StatusServiceUnavailable)
		})
	}, state: report.CheckFail, fix: "regiond does not answer behind its proxy: is it running?", follow: func(s *situation, _ string) { s.maas.InterceptAPI(nil) }},
	{code: "maas", breaks: func(s *situation) { s.edit(s.T, s.maas.Command, "/nosuch/maas") }, state: report.CheckFail, fix: "run maascert on a region host, or set maas.command", follow: func(s *situation, _ string) { s.edit(s.T, "/nosuch/maas", s.maas.Command) }},
	{code: "juju", breaks: func(s *situation) { s.file("/var/lib/juju/agents/unit-maas-region-0/agent.conf", "", 0o600) }, state: report.CheckFail, fix: "if that is what you want: maascert renew --accept juju", follow: func(s *situation, _ string) {
		s.shell("rm -r /var/lib/juju/agents/unit-maas-region-0") // who does not want that has Juju give the region up
	}},
	{code: "key-type", breaks: func(s *situation) { s.edit(s.T, "version: 3.7.3", "version: 3.8.0") }, state: report.CheckFail, fix: "set key_type: rsa3072", follow: edits("key_type: ec256", "key_type: rsa3072")},
	{code: "ec-key", config: []string{"key_type: ec256", "key_type: rsa2048"}, breaks: func(s *situation) { s.edit(s.T, "key_type: rsa2048", "key_type: ec256") }, state: report.CheckWarn, fix: "before that upgrade set key_type: rsa3072 in this certificate's section, then: maascert renew", follow: func(s *situation, _ string) {
		s.edit(s.T, "key_type: ec256", "key_type: rsa3072")
		runs("")(s, "maascert renew")
	}},
	{code: "version", first: func(s *situation) { s.snap("3.7.3-1-g.abc") }, breaks: func(s *situation) { s.snapVersion("3.7.1-1-g.abc") }, state: report.CheckWarn, fix: "snap refresh maas --channel=3.7/stable", follow: func(s *situation, _ string) { s.snapVersion("3.7.3-2-g.abd") }},
	{code: "stage", breaks: func(s *situation) { s.shell("mkdir -p " + s.dir + "/stage; chmod 0755 " + s.dir + "/stage") }, state: report.CheckFail, fix: "maas.stage_dir must be a folder of its own: chown root ", follow: func(s *situation, fix string) {
		if os.Geteuid() != 0 { // root is who we are, to an ordinary user
			fix = regexp.MustCompile(`chown root \S+; `).ReplaceAllString(fix, "")
		}
		runs("maas.stage_dir must be a folder of its own: ")(s, fix)
	}},
	{code: "stage-place", first: func(s *situation) { s.snap("3.7.3-1-g.abc") }, breaks: func(s *situation) {}, state: report.CheckFail, fix: "take maas.stage_dir out of the configuration", isBroken: true, follow: edits(", stage_dir: stage", "")},
	{code: "tls", isNew: true, breaks: func(*situation) {}, isBroken: true, state: report.CheckWarn, fix: "if that is what you want: maascert renew --enable-tls", follow: runs("if that is what you want: ")},
	{code: "names-lost", breaks: func(s *situation) {
		bundle, err := s.authority.Issue(certstore.EC256, 0, years, "maas.example.internal", "region1.example.internal", "old.example.internal")
		require.NoError(s, err)
		s.serves(bundle)
	}, state: report.CheckFail, fix: "add them to the certificate's names", follow: edits("region1.example.internal]", "region1.example.internal, old.example.internal]")},
	{code: "regions", isSilent: true, isNew: true, first: func(s *situation) {
		s.maas.Regions[1].Break(maastest.Fault{Deaf: true})
		s.run("renew", "--enable-tls")
	}, breaks: func(*situation) {}, isBroken: true, state: report.CheckWarn, fix: "restart MAAS's services on a region that is behind", follow: func(s *situation, _ string) {
		s.maas.Regions[1].Break(maastest.Fault{})
		require.NoError(s, s.maas.Regions[1].Restart())
	}},
	{code: "endpoints", breaks: func(s *situation) {
		require.NoError(s, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), s.authority.RootPEM(), 0o644))
	}, state: report.CheckFail, fix: "where it is ours and not trusted, check acme.issuer_root", follow: func(s *situation, _ string) {
		require.NoError(s, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), s.ca.Root(0), 0o644))
	}},
	{code: "maas-files", first: func(s *situation) { s.snap("3.7.3-1-g.abc") }, breaks: func(s *situation) { s.shell("chmod 0644 /var/snap/maas/current/regiond.conf") }, state: report.CheckWarn, fix: "chmod 0640 /var/snap/maas/current/regiond.conf", follow: runs("")},
	{code: "left-keys", first: func(s *situation) { s.snap("3.7.3-1-g.abc") }, breaks: func(s *situation) {
		s.file("/var/snap/maas/common/privkey.pem", "-----BEGIN PRIVATE KEY-----\n", 0o600)
	}, state: report.CheckWarn, fix: "rm /var/snap/maas/common/privkey.pem # if nothing else uses it", follow: runs("")},
	{code: "cluster-ca", first: func(s *situation) {
		s.snap("3.7.3-1-g.abc")
		s.clusterCertificate(time.Hour, years)
	}, breaks: func(s *situation) { s.clusterCertificate(years, years+time.Hour) }, state: report.CheckWarn, fix: "MAAS does not renew it: ask Canonical's support", follow: func(s *situation, _ string) { s.clusterCertificate(time.Hour, years) }},
	{code: "resolves", breaks: func(s *situation) { s.file("/etc/hosts", "192.0.2.1 region1.example.internal\n", 0o644) }, state: report.CheckWarn, fix: "take region1.example.internal out of /etc/hosts", follow: func(s *situation, _ string) { s.shell("sed -i /region1.example.internal/d /etc/hosts") }},
	{code: "hsts", breaks: func(s *situation) {
		require.NoError(s, s.ca.DNS.Set("region1.example.internal. 1 IN SOA ns1.example. root.example. 1 60 60 60 1"))
	}, state: report.CheckWarn, fix: "give MAAS a name below it, maas.region1.example.internal say", follow: edits(", region1.example.internal]", ", maas.region1.example.internal]")},
	{code: "coverage", first: func(s *situation) {
		s.file("/etc/keepalived/keepalived.conf", "virtual_ipaddress { 127.0.0.1 }\n", 0o644)
	}, breaks: func(s *situation) {
		s.file("/etc/keepalived/keepalived.conf", "virtual_ipaddress { 192.0.2.10/24 }\n", 0o644)
	}, state: report.CheckWarn, fix: "add 192.0.2.10 to this certificate's names", follow: edits(", region1.example.internal]", ", region1.example.internal, 192.0.2.10]")},
	{code: "expiry-notice", first: func(s *situation) { s.api("admin", true) }, breaks: func(s *situation) {
		s.maas.SetSetting("tls_cert_expiration_notification_enabled", true)
		s.maas.SetSetting("tls_cert_expiration_notification_interval", 89)
	}, state: report.CheckWarn, fix: "set align_expiry_notice: true in the section maas:, then: maascert renew", follow: func(s *situation, _ string) {
		s.edit(s.T, "version: 3.7.3,", "version: 3.7.3, align_expiry_notice: true,")
		runs("")(s, "maascert renew")
	}},
	{code: "database", first: func(s *situation) {
		s.snap("3.7.3-1-g.abc")
		s.database()
	}, breaks: func(s *situation) {
		s.shell("sed -i 's/database_host: .*/database_host: 127.254.254.254/' /var/snap/maas/current/regiond.conf")
	}, state: report.CheckFail, fix: "is PostgreSQL up there, and is database_host in /var/snap/maas/current/regiond.conf right?", follow: func(s *situation, _ string) {
		s.shell("sed -i 's/database_host: .*/database_host: 127.0.0.1/' /var/snap/maas/current/regiond.conf")
	}},
	{code: "maas-ports", first: func(s *situation) { s.listening = map[int][]world.Listening{5240: {{Name: "nginx (process 1)"}}} }, breaks: func(s *situation) { delete(s.listening, 5240) }, state: report.CheckFail, fix: "is MAAS up? ", follow: func(s *situation, _ string) { s.listening[5240] = []world.Listening{{Name: "nginx (process 2)"}} }},
	{code: "hardening", first: func(s *situation) { s.maas.Harden("dns_bind") }, isBroken: true, breaks: func(*situation) {}, state: report.CheckWarn, fix: "maas config-hardening set dns_bind <address>", follow: func(s *situation, fix string) {
		s.shell(strings.NewReplacer("maas config-hardening", s.maas.Command+" config-hardening", "<address>", "10.0.0.5").Replace(fix))
	}},
}

// withFront has an HAProxy on this host serve the certificate too, which is never asked what it serves.
func withFront(s *situation) {
	dir := filepath.Join(s.dir, "front")
	require.NoError(s, os.Mkdir(dir, 0o755))
	require.NoError(s, os.WriteFile(filepath.Join(dir, "test"), []byte("#!/bin/sh\n"), 0o755))
	require.NoError(s, os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte("frontend maas\n  bind :443 ssl crt "+dir+"/maas.pem\nbackend regions\n"), 0o644))
	s.edit(s.T, "targets:\n", fmt.Sprintf("targets:\n  front: {type: haproxy, pem: %[1]s/maas.pem, check: [%[1]s/test, -f, %[1]s/haproxy.cfg], reload: [%[1]s/test], endpoints: [\"127.0.0.1:1\"]}\n", dir))
	bundle, err := s.authority.Issue(certstore.EC256, 0, years, "maas.example.internal", "region1.example.internal")
	require.NoError(s, err)
	s.serves(bundle) // MAAS's own TLS
	s.edit(s.T, "certificates:\n", "certificates:\n  - {name: front, names: [front.example.internal], key_type: ec256, targets: [front]}\n")
}

func (s *situation) snapVersion(version string) {
	s.file("/snap/maas/current/meta/snap.yaml", "version: "+version+"\n", 0o644)
}

func (s *situation) clusterCertificate(age, lifetime time.Duration) {
	s.Helper()
	bundle, err := s.authority.Issue(certstore.EC256, age, lifetime, "maas")
	require.NoError(s, err)
	// An installation of a test's own keeps what regiond writes in one folder.
	dir := filepath.Join(filepath.Dir(s.maas.Regions[0].HTTPDir), "certificates")
	require.NoError(s, os.MkdirAll(dir, 0o755))
	require.NoError(s, os.WriteFile(filepath.Join(dir, "cluster.pem"), bundle.LeafPEM(), 0o644))
	s.file("/var/snap/maas/current/certificates/cluster.pem", string(bundle.LeafPEM()), 0o644)
}

// database is one that takes connections on this host.
func (s *situation) database() {
	s.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s, err)
	s.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			// Who only looks whether it is there hangs up.
			_, _ = conn.Write([]byte{'N'})
			_ = conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(s, err)
	s.file("/var/snap/maas/current/regiond.conf", "database_host: 127.0.0.1\ndatabase_port: "+port+"\n", 0o640)
}

// Every check is well, is broken, says so with what to do, and is well again when somebody did that.
func TestEveryCheckAndItsFix(t *testing.T) {
	t.Parallel()
	for _, row := range everyCheck {
		t.Run(row.code, func(t *testing.T) {
			t.Parallel()
			started, err := newSiteWith(t.TempDir(), row.habits)
			require.NoError(t, err)
			t.Cleanup(started.stop)
			s := &situation{T: t, site: started, fsys: world.OS{}}
			s.authority, err = certtest.NewAuthority()
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, "issuer_root.pem"), append(s.ca.Root(0), s.authority.RootPEM()...), 0o644))
			s.edit(t, append([]string{"verify_timeout: 20s", "verify_timeout: 3s"}, row.config...)...)
			if row.first != nil {
				row.first(s)
			}
			if !row.isNew {
				code, said := s.run("renew", "--enable-tls")
				require.Zero(t, code, said)
			}
			if !row.isBroken {
				found := s.checked(row.code)
				require.Empty(t, wrong(found))
				require.Equal(t, row.isSilent, len(found) == 0, "what is well is said")
			}
			row.breaks(s)
			found := wrong(s.checked(row.code))
			require.NotEmpty(t, found)
			require.Equal(t, row.state, found[0].State, found[0].Summary)
			require.NotEmpty(t, found[0].Evidence, "what was seen is said: %s", found[0].Summary)
			require.Contains(t, found[0].Fix, row.fix, found[0].Summary)
			require.NotEmpty(t, found[0].Fix, found[0].Summary)
			row.follow(s, found[0].Fix)
			require.Empty(t, wrong(s.checked(row.code)), "after: %s", found[0].Fix)
		})
	}
}

// elsewhere are checks that have such a test of their own.
var elsewhere = map[string]string{
	"config": "TestMistakesSayWhatToWrite", "root": "TestReadyRefuses", "firewall": "TestFirewalls", "database-tls": "TestMAASsDatabase", "vault": "TestMAASsVault", "vault-tls": "TestMAASsVault",
	"keys": "TestCheckLooksAtVault", "keys-policy": "TestCheckLooksAtVault", "keys-tls": "TestCheckLooksAtVault",
	"fleet": "TestAStoreMovesIntoPostgreSQLAndBack", "service": "TestFilesServiceHasToRun", "configuration": "TestFilesADamagedFileIsMended",
}

// Whoever adds a check adds a row.
func TestEveryCheckHasARow(t *testing.T) {
	t.Parallel()
	codes, tests := map[string]string{}, map[string]bool{}
	code := regexp.MustCompile(`(?:report\.(?:Asked|Warning)\(|Guard\{Code: |[^a-z]Code: |Lasts\()"([a-z0-9-]+)"`)
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for path, text := range sourcetest.GoFiles(t, filepath.Join("..", "..")) {
		if strings.HasSuffix(path, "_test.go") {
			for _, found := range function.FindAllStringSubmatch(text, -1) {
				tests[found[1]] = true
			}
			continue
		}
		for _, found := range code.FindAllStringSubmatch(text, -1) {
			codes[found[1]] = path
		}
	}
	codes["juju"], codes["names-lost"] = "maas.go", "maas.go"
	for code, path := range codes {
		hasRow := slices.ContainsFunc(everyCheck, func(row checkRow) bool { return row.code == code })
		require.True(t, hasRow || tests[elsewhere[code]], "%s of %s has no test in which its fix is followed", code, path)
	}
}
