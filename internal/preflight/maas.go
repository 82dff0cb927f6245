package preflight

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// Certificate is one that MAAS serves, or is to serve.
type Certificate struct {
	KeyType   certstore.KeyType // of the next one
	Served    *x509.Certificate // that this host's region serves; nil: none, or nobody knows
	HasWindow bool              // renewals have their times
}

// CheckVersion tells what this version of MAAS is known to do to whoever gives it a certificate: how it takes over (MAAS fact 2.3), which keys it
// loads (MAAS fact 1.4), what TLS breaks (MAAS fact 6.1).
func (h Host) CheckVersion(cert Certificate) []report.Item {
	version, evidence := h.MAAS.Version, "MAAS "+h.MAAS.Version.String()
	if !version.IsKnown() {
		return []report.Item{report.Warning("version", "which version of MAAS this is, is not known, so nor are its faults", h.MAAS.Command, "set maas.version")}
	}
	var items []report.Item
	if h.MAAS.Kind == "snap" && !version.AtLeast(3, 5) && !cert.HasWindow {
		items = append(items, report.Warning("version", "up to 3.4 MAAS restarts its web server for each new certificate: page, API and racks wait for a moment", evidence,
			"set window: in this certificate's section, to when nobody minds; or upgrade MAAS to 3.5"))
	}
	if version.Major == 3 && version.Minor == 7 && version.Patch <= 2 && (h.Port != 0 || !h.PortKnown) {
		items = append(items, report.Warning("version", "MAAS 3.7.0 to 3.7.2 cannot configure DHCP while TLS is on (LP#2148224)", evidence, h.upgrade("3.7")))
	}
	servesEC := cert.Served != nil && cert.Served.PublicKeyAlgorithm != x509.RSA
	switch why := fmt.Sprintf("%s; next key: %s", evidence, cert.KeyType); {
	case servesEC && version.AtLeast(3, 8):
		items = append(items, report.Asked("ec-key", "", why, hint.Add(errors.New("the certificate in service has no RSA key, and from 3.8 on MAAS loads no other: a region that starts anew serves nothing"),
			"set key_type: rsa3072 in this certificate's section, then: maascert renew --force")))
	case !version.AtLeast(3, 8) && (servesEC || !cert.KeyType.IsRSA()):
		items = append(items, report.Warning("ec-key", "MAAS 3.8 loads RSA keys alone: after an upgrade, regions would not serve this certificate", why,
			"before that upgrade set key_type: rsa3072 in this certificate's section, then: maascert renew"))
	case cert.KeyType.IsRSA():
		items = append(items, report.Asked("ec-key", "this and later versions of MAAS load keys of this type", why, nil))
	}
	if !slices.ContainsFunc(items, func(item report.Item) bool { return item.Code == "version" }) {
		items = append(items, report.Asked("version", "no fault of this version of MAAS is in the way", evidence, nil))
	}
	return items
}

// upgrade is what brings MAAS to the last release of a series.
func (h Host) upgrade(series string) string {
	const everywhere = " # on every region host, as MAAS's release notes say"
	if h.MAAS.Kind == "snap" {
		return "snap refresh maas --channel=" + series + "/stable" + everywhere
	}
	return "apt-get install --only-upgrade maas-region-api" + everywhere
}

// CheckStage tells whether the snap can read what is staged for it (MAAS fact 5.1).
func (h Host) CheckStage() []report.Item {
	dir := h.MAAS.StageDir
	if h.MAAS.Kind != "snap" {
		return nil
	}
	within := func(folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") }
	switch {
	case within("/var/snap/maas/common"):
		return []report.Item{report.Asked("stage-place", "the snap can read what is staged", dir, nil)}
	case within("/var/snap/maas"):
		return []report.Item{report.Warning("stage-place", "the stage is in a folder that each refresh of the snap copies, with what is in it", dir, "take maas.stage_dir out of the configuration")}
	default:
		return []report.Item{report.Asked("stage-place", "", dir, hint.Add(fmt.Errorf("the snap cannot read %s: maas config-tls would find no file there", dir), "take maas.stage_dir out of the configuration"))}
	}
}

// settingsMode is what MAAS's security guide asks for: its group reads, nobody else.
const settingsMode fs.FileMode = 0o640

// CheckModes finds files of MAAS's with its secrets that others may read or write (MAAS fact 5.2).
func (h Host) CheckModes() []report.Item {
	var items []report.Item
	var well []string
	for _, path := range h.MAAS.Confidential() {
		info, err := h.Files.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // a host without a rack has no rackd.conf
		case err != nil:
			items = append(items, report.Warning("maas-files", "who gets at MAAS's settings cannot be seen: "+printable.Error(err), path, "run maascert as root"))
		case info.Mode().Perm()&^settingsMode != 0:
			items = append(items, report.Warning("maas-files", fmt.Sprintf("%s has the mode %04o: others get at what is MAAS's and root's alone", path, info.Mode().Perm()), path, fmt.Sprintf("chmod %04o %s", settingsMode, world.Quoted(path))))
		case isOfAPerson(world.OwnerOf(info), h.UID):
			owner := world.OwnerOf(info)
			items = append(items, report.Warning("maas-files", fmt.Sprintf("%s belongs to user %d and group %d: it is MAAS's and root's alone", path, owner.UID, owner.GID), path, "chown "+h.ownerOf(path)+" "+world.Quoted(path)))
		default:
			well = append(well, path)
		}
	}
	if len(items) == 0 && len(well) > 0 {
		items = append(items, report.Asked("maas-files", "nobody but MAAS and root gets at MAAS's settings and its secret", strings.Join(well, ", "), nil))
	}
	return items
}

// isOfAPerson tells whether a file belongs to a person, or to a group of theirs. We are to be trusted.
func isOfAPerson(owner world.Owner, uid int) bool {
	isOurs := uid != 0 && owner.UID == uid
	return !isOurs && (world.IsOrdinary(owner.UID) || world.IsOrdinary(owner.GID))
}

// ownerOf is whose a file of MAAS's has to be: on a deb its own user reads them (MAAS fact 5.2).
func (h Host) ownerOf(path string) string {
	switch {
	case h.MAAS.Kind != "deb":
		return "root:root"
	case filepath.Base(path) == "secret":
		return "maas:maas"
	default:
		return "root:maas"
	}
}

// Keys are looked for in so many files and folders, each file so long at most, in bytes.
const (
	mostFiles   = 2000
	mostFolders = 200
	mostKeyPEM  = 64 << 10
)

// CheckLeftKeys finds private keys that somebody left where a MAAS in a snap can read them; its own are elsewhere (MAAS fact 5.1).
func (h Host) CheckLeftKeys() []report.Item {
	if h.MAAS.Kind != "snap" {
		return nil
	}
	const common = "/var/snap/maas/common"
	if _, err := h.Files.ReadDir(common); err != nil {
		return []report.Item{report.Warning("left-keys", "whether private keys were left for the snap cannot be seen: "+printable.Error(err), common, "run maascert as root")}
	}
	folders := append([]string{common, "/var/snap/maas/certs"}, h.below("/var/snap/maas", "root")...)
	for _, entry := range h.entries(common) {
		path := filepath.Join(common, entry.Name())
		if entry.IsDir() && !slices.Contains([]string{"maas", "log"}, entry.Name()) && path != h.MAAS.StageDir {
			folders = append(folders, path)
		}
	}
	used := string(h.read(h.MAAS.RegiondConf())) // a client's key for its database, say
	var items []report.Item
	seen := 0
	for i := 0; i < len(folders) && i < mostFolders; i++ {
		for _, entry := range h.entries(folders[i]) {
			path := filepath.Join(folders[i], entry.Name())
			if entry.IsDir() && folders[i] != common { // whose own folders are those of above
				folders = append(folders, path)
			}
			if seen++; seen > mostFiles || strings.Contains(used, path) || !h.isKey(path) {
				continue
			}
			if len(items) < mostTold {
				items = append(items, report.Warning("left-keys", "a private key was left where it is not needed: MAAS keeps its own copy of what it is given", path, "rm "+world.Quoted(path)+" # if nothing else uses it"))
			}
		}
	}
	if seen > mostFiles || len(folders) > mostFolders {
		items = append(items, report.Warning("left-keys", fmt.Sprintf("more than %d files or %d folders lie where the snap can read them; the rest was not looked at", mostFiles, mostFolders), common, "look for private keys there yourself: grep -rl 'PRIVATE KEY' "+common))
	}
	if len(items) == 0 {
		items = append(items, report.Asked("left-keys", "no private key lies about where the snap can read it", common, nil))
	}
	return items
}

// below are the folders of a name in the folders of a folder.
func (h Host) below(folder, name string) (found []string) {
	for _, entry := range h.entries(folder) {
		if entry.IsDir() && entry.Name() != "common" {
			found = append(found, filepath.Join(folder, entry.Name(), name))
		}
	}
	return found
}

// entries are what a folder holds, as far as it is looked through; nothing where it cannot be.
func (h Host) entries(folder string) []fs.DirEntry {
	found, err := h.Files.ReadDir(folder)
	if err != nil {
		return nil
	}
	return found[:min(len(found), mostFiles)]
}

// read is the text of a file; nothing where it cannot be read.
func (h Host) read(path string) []byte {
	text, err := h.Files.ReadFile(path)
	if err != nil {
		return nil
	}
	return text
}

// isKey tells whether a file holds a private key.
func (h Host) isKey(path string) bool {
	info, err := h.Files.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() <= mostKeyPEM && bytes.Contains(h.read(path), []byte("PRIVATE KEY-----"))
}

// soon is how long before the end of a certificate that maascert does not renew people are told.
const soon = 30 * 24 * time.Hour

// CheckClusterCertificates looks at the certificates that MAAS's own processes know each other by, which MAAS does not renew either (MAAS fact
// 6.2).
func (h Host) CheckClusterCertificates() []report.Item {
	var items []report.Item
	for _, path := range h.MAAS.ClusterCertificates() {
		certs, err := certstore.ParseCertificates(h.read(path))
		if err != nil {
			continue // up to 3.4 there are none
		}
		for _, cert := range certs {
			items = append(items, h.Lasts("cluster-ca", "MAAS's own certificate "+printable.Phrase(cert.Subject.CommonName), path, cert,
				"MAAS does not renew it: ask Canonical's support, or MAAS's forum, how to replace it in this version before it ends"))
		}
	}
	return items
}

// Lasts judges the end of a certificate that somebody else has to replace.
func (h Host) Lasts(code, what, evidence string, cert *x509.Certificate, fix string) report.Item {
	left := cert.NotAfter.Sub(h.Now())
	words := fmt.Sprintf("%s lasts until %s", what, report.Time{Time: cert.NotAfter})
	switch {
	case left <= 0:
		return report.Warning(code, fmt.Sprintf("%s expired on %s", what, report.Time{Time: cert.NotAfter}), evidence, fix)
	case left < min(soon, cert.NotAfter.Sub(cert.NotBefore)/3):
		return report.Warning(code, words, evidence, fix)
	default:
		return report.Asked(code, words, evidence, nil)
	}
}

// violation is one that maas config-hardening validate prints.
var violation = regexp.MustCompile(`(?m)^\s*\[([A-Z_]+)\] (.*)$(?:\n\s+Resolution: (.*)$)?`)

// hardeningTime bounds the question; the maas command takes some seconds to start.
const hardeningTime = 30 * time.Second

// CheckHardening asks MAAS what it finds itself, where its command can be asked and hardening is on: neither question changes anything (MAAS
// fact 8.1).
func (h Host) CheckHardening(ctx context.Context) []report.Item {
	said, exit, err := h.hardening(ctx, "get", "hardening_enabled")
	switch {
	case err == nil && strings.Contains(said, "invalid choice"):
		return nil
	case err == nil && exit == 0 && !strings.HasSuffix(strings.TrimSpace(said), "= on") && strings.TrimSpace(string(h.read("/proc/sys/crypto/fips_enabled"))) != "1":
		return []report.Item{report.Asked("hardening", "MAAS's hardening is not on, so nothing is asked for by it", printable.Phrase(said), nil)}
	case err == nil:
		said, exit, err = h.hardening(ctx, "validate")
	}
	const command = "maas config-hardening validate"
	found := violation.FindAllStringSubmatch(said, 20)
	switch {
	case err == nil && exit == 0:
		return []report.Item{report.Asked("hardening", "MAAS finds nothing that its hardening asks for and lacks", command, nil)}
	case err != nil || len(found) == 0:
		why := lastLine(said)
		if err != nil {
			why = err.Error()
		}
		return []report.Item{report.Warning("hardening", "MAAS does not say whether it is as hardened as it should be: "+printable.Phrase(why), command, h.MAAS.Status())}
	}
	var items []report.Item
	for _, one := range found {
		fix := strings.TrimPrefix(one[3], "Run: ")
		if strings.HasPrefix(one[1], "MISSING_TLS_") {
			fix = "maascert renew --enable-tls"
		}
		items = append(items, report.Warning("hardening", "MAAS itself finds: "+one[2]+" ("+one[1]+")", command, cmp.Or(fix, command+" says more")))
	}
	return items
}

func (h Host) hardening(ctx context.Context, args ...string) (said string, exit int, err error) {
	result, err := h.Runner.Run(ctx, world.Command{Path: h.MAAS.Command, Args: append([]string{"config-hardening"}, args...), Timeout: hardeningTime})
	return string(result.Stdout) + string(result.Stderr), result.Exit, err
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// CheckPorts tells whether MAAS is there where racks and machines look for it: at port 5240, in plain HTTP (MAAS fact 2.6).
func (h Host) CheckPorts() []report.Item {
	if h.Listening == nil {
		return nil
	}
	const plain = 5240
	listening := h.Listening(plain)
	if len(listening) == 0 {
		return []report.Item{report.Asked("maas-ports", "", "port 5240", hint.Add(fmt.Errorf("nobody listens on port %d, where racks and machines look for MAAS", plain), "is MAAS up? %s", h.MAAS.Status()))}
	}
	var items []report.Item
	for port := plain; port <= lastPort; port++ {
		if maasconfig.IsUsablePort(port) {
			continue
		}
		for _, one := range h.Listening(port) {
			if world.IsOrdinary(one.Owner) && len(items) < mostTold {
				program := one.Program()
				items = append(items, report.Warning("maas-ports", fmt.Sprintf("port %d is MAAS's, and user %d, who is no service, listens there", port, one.Owner), fmt.Sprintf("port %d: %s", port, program), cmp.Or(hasProgram(program), fmt.Sprintf("find that program, and end it: ss -ltnp 'sport = :%d'", port))))
			}
		}
	}
	if len(items) == 0 {
		items = append(items, report.Asked("maas-ports", "somebody listens at port 5240, where racks and machines look for MAAS, and no ordinary user has a port of MAAS's", "port 5240: "+listening[0].Program(), nil))
	}
	return items
}

func hasProgram(program string) string {
	if program == "" {
		return ""
	}
	return "end that program: " + program
}

// mostTold bounds how many of a kind are told of.
const mostTold = 10

// lastPort is the last of the ports that MAAS takes (MAAS fact 2.6).
const lastPort = 5284
