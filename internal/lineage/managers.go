package lineage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"maascert/internal/world"
)

// Manager is something else on this host that gives MAAS a certificate.
type Manager struct {
	Client string // whose it is: certbot, acme.sh, dehydrated, cron or systemd
	File   string // that says so
	Off    string // the command that ends it, and deletes no key and no certificate
}

// KnownHooks are the clients whose hooks are looked at.
var KnownHooks = []string{"certbot", "acme.sh", "dehydrated"}

// takes is the command by which MAAS takes a certificate, on a line that is no comment; whoever writes it down means to give it one.
var takes = regexp.MustCompile(`(?m)^[^#\n]*\bconfig-tls\s+enable\b`)

// Managers finds what else gives MAAS a certificate: hooks that call config-tls, by themselves or in a script that they name, and lines of
// crontabs and systemd's units that do; twenty at most are told of. closed are the places that may not be looked at.
func Managers(looked FS) (found []Manager, closed []string) {
	files := &attentive{FS: looked}
	found = slices.Concat(certbotManagers(files), acmeSHManagers(files), dehydratedManagers(files))
	for _, one := range scheduled(files, func(line string) bool { return gives(files, line) }) {
		found = append(found, one.manager())
	}
	return found[:min(len(found), mostListed)], files.closed
}

// attentive notes what may not be read.
type attentive struct {
	FS
	closed []string
}

func (a *attentive) note(path string, err error) {
	if errors.Is(err, fs.ErrPermission) && len(a.closed) < mostListed {
		a.closed = append(a.closed, path)
	}
}

func (a *attentive) ReadFile(path string) ([]byte, error) {
	text, err := a.FS.ReadFile(path)
	a.note(path, err)
	return text, err
}

func (a *attentive) ReadDir(path string) ([]fs.DirEntry, error) {
	found, err := a.FS.ReadDir(path)
	a.note(path, err)
	return found, err
}

func (a *attentive) Stat(path string) (fs.FileInfo, error) {
	info, err := a.FS.Stat(path)
	a.note(path, err)
	return info, err
}

// gives tells whether a line calls config-tls, by itself or in a script that it names.
func gives(files FS, line string) bool {
	return takes.MatchString(line) || slices.ContainsFunc(words(line), func(word string) bool { return filepath.IsAbs(word) && calls(files, word) })
}

// calls tells whether a program is a script with config-tls in it.
func calls(files FS, program string) bool {
	info, err := files.Stat(program)
	if err != nil || !info.Mode().IsRegular() || info.Size() > mostScript {
		return false
	}
	text, err := files.ReadFile(program)
	return err == nil && bytes.HasPrefix(text, []byte("#!")) && takes.Match(text)
}

// mostScript bounds a script that is looked through, in bytes.
const mostScript = 64 << 10

func certbotManagers(files FS) (found []Manager) {
	const folder = "/etc/letsencrypt"
	for _, when := range []string{"pre", "deploy", "post"} {
		for _, program := range entriesAt(files, folder, "renewal-hooks", when) {
			if info, err := files.Stat(program); err == nil && info.Mode()&0o111 != 0 && calls(files, program) {
				found = append(found, Manager{"certbot", program, "chmod a-x " + world.Quoted(program) + " # if it does nothing else"})
			}
		}
	}
	for _, file := range append(entriesAt(files, folder, "renewal"), filepath.Join(folder, "cli.ini")) {
		found = append(found, inSettings(files, "certbot", file, "pre_hook", "renew_hook", "deploy_hook", "post_hook", "pre-hook", "deploy-hook", "post-hook")...)
	}
	return found
}

func acmeSHManagers(files FS) (found []Manager) {
	for _, folder := range readers["acme.sh"].usual {
		for _, certificate := range entriesAt(files, folder) {
			file := filepath.Join(certificate, strings.TrimSuffix(filepath.Base(certificate), "_ecc")+".conf")
			found = append(found, inSettings(files, "acme.sh", file, acmeSHHooks...)...)
		}
	}
	return found
}

func dehydratedManagers(files FS) (found []Manager) {
	read := append([]string{"/etc/dehydrated/config"}, entriesAt(files, "/etc/dehydrated", "conf.d")...)
	for _, folder := range readers["dehydrated"].usual {
		read = append(read, filepath.Join(folder, "config"))
		for _, certificate := range entriesAt(files, folder, "certs") {
			read = append(read, filepath.Join(certificate, "config"))
		}
	}
	slices.Sort(read)
	for _, file := range slices.Compact(read) {
		found = append(found, inSettings(files, "dehydrated", file, "HOOK")...)
	}
	return found
}

// inSettings finds hooks in a client's settings. Its line is what ends it.
func inSettings(files FS, client, file string, keys ...string) (found []Manager) {
	said, err := settings(files, file)
	if err != nil {
		return nil
	}
	for _, key := range keys {
		if gives(files, decoded(said[key])) {
			found = append(found, Manager{client, file, fmt.Sprintf("sed -i '/^ *%s *=/d' %s", key, world.Quoted(file))})
		}
	}
	return found
}

// entriesAt are the paths of what a folder holds.
func entriesAt(files FS, folder ...string) (paths []string) {
	at := filepath.Join(folder...)
	// A folder that cannot be read is passed over.
	names, _ := entries(files, at)
	for _, name := range names {
		paths = append(paths, filepath.Join(at, name))
	}
	return paths
}
