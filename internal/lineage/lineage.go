// Package lineage reads what other ACME clients left on this host: the certificates that they keep alive, each with its key, its CA
// and the account that orders it. It writes nothing and runs nothing.
//
// Start reading at [Find]; each client is a file that is called like it.
package lineage

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// FS is the part of a file system that is read. ReadFile bounds what it reads.
type FS interface {
	ReadFile(name string) ([]byte, error)
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
}

// Lineage is one certificate as another client keeps it.
type Lineage struct {
	Client    string // one of Clients
	Name      string // that the client gave it
	Folder    string // of the client
	Directory string // URL of the CA's ACME directory; empty: the client does not write it down
	Host      string // of the CA, with its port where that is written down; empty: unknown
	Webroot   string // folder of a web server in which http-01 answers are put; empty: they are not
	Proof     string // how names are proven, in the client's own words; empty: unknown
	Others    int    // certificates that the same client keeps beside this one

	Names     []string // canonical; of the certificate, also of one that cannot be used
	BadNames  []string // of the certificate, which no CA would take
	Bundle    *certstore.Bundle
	Broken    error // why there is no bundle
	Account   *Account
	NoAccount error // why there is no account

	Hooks []Hook // that the client runs around a renewal
	Stop  string // what has the client renew this certificate no more
}

// Path leads to this lineage alone.
func (l Lineage) Path() string {
	switch l.Client {
	case "certbot":
		return filepath.Join(l.Folder, "live", l.Name)
	case "dehydrated":
		return filepath.Join(l.Folder, "certs", l.Name)
	case "lego":
		return filepath.Join(l.Folder, "certificates", l.Name+".json")
	}
	return filepath.Join(l.Folder, l.Name)
}

// IsProvenByHTTP tells whether the client answers http-01, or does not say what it answers.
func (l Lineage) IsProvenByHTTP() bool {
	return l.Proof == "" || l.Proof == "standalone" || l.Proof == "webroot"
}

// Account is an ACME account (RFC 8555 section 7.1.2) of another client.
type Account struct {
	Key   crypto.Signer
	URL   string // empty: the CA tells it to whoever has the key
	Email string // empty: none is known
}

// Hook is a program that a client runs around a renewal, and the file that says so.
type Hook struct{ File, Command string }

// Clients are those whose lineages can be read.
var Clients = []string{"certbot", "acme.sh", "lego", "dehydrated"}

var readers = map[string]struct {
	usual []string // folders of the client, the first that exists
	read  func(files FS, path string) ([]Lineage, error)
}{
	"certbot":    {[]string{"/etc/letsencrypt"}, certbot},
	"acme.sh":    {[]string{"/root/.acme.sh", "/etc/acme.sh"}, acmeSH},
	"lego":       {[]string{"/var/lib/lego", "/root/.lego"}, lego},
	"dehydrated": {[]string{"/var/lib/dehydrated", "/etc/dehydrated"}, dehydrated},
}

// Find reads the only lineage of a client: in its usual folder, or in path, which is the client's folder or leads to one lineage in it.
// Where there are several an error names them.
func Find(files FS, client, path string) (Lineage, error) {
	reader := readers[client]
	if path == "" {
		path = reader.usual[0]
		for _, folder := range slices.Backward(reader.usual) {
			if _, err := files.Stat(folder); err == nil {
				path = folder
			}
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return Lineage{}, err
	}
	if _, err := files.Stat(path); err != nil {
		return Lineage{}, hint.Add(err, "where is %[1]s's folder? maascert import %[1]s PATH", client)
	}
	found, err := reader.read(files, path)
	if err != nil {
		return Lineage{}, err
	}
	switch len(found) {
	case 0:
		return Lineage{}, hint.Add(fmt.Errorf("%s keeps no certificate in %s", client, path), "is that its folder? maascert import %s PATH", client)
	case 1:
		return found[0], nil
	}
	var paths []string
	for _, one := range found[:min(len(found), mostListed)] {
		paths = append(paths, one.Path())
	}
	if more := len(found) - len(paths); more > 0 {
		paths = append(paths, fmt.Sprintf("and %d more", more))
	}
	return Lineage{}, hint.Add(fmt.Errorf("%s keeps %d certificates in %s", client, len(found), path), "name one: maascert import %s PATH, of: %s", client, strings.Join(paths, ", "))
}

// A client's folder is looked through as far as this.
const (
	mostListed  = 20
	mostEntries = 2000
)

// entries are what a folder holds; nothing where there is none.
func entries(files FS, folder string) ([]string, error) {
	found, err := files.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range found[:min(len(found), mostEntries)] {
		names = append(names, entry.Name())
	}
	return names, nil
}

// withEnding are the names that have an ending, without it.
func withEnding(names []string, ending string) (found []string) {
	for _, name := range names {
		if bare, has := strings.CutSuffix(name, ending); has {
			found = append(found, bare)
		}
	}
	return found
}

// choose reads one of the lineages that a client keeps; all, where only is empty.
func choose(kept []string, only string, read func(name string) (Lineage, error)) (chosen []Lineage, err error) {
	for _, name := range kept {
		if only != "" && name != only {
			continue
		}
		one, err := read(name)
		if err != nil {
			return nil, err
		}
		one.Others = len(kept) - 1
		chosen = append(chosen, one)
	}
	return chosen, nil
}

// take reads the certificate, with its chain, and its key. No error repeats what stands in them.
func (l *Lineage) take(files FS, keyFile string, certFiles ...string) {
	l.Bundle, l.Broken = nil, nil
	var chain []byte
	for _, file := range certFiles {
		text, err := files.ReadFile(file)
		if err != nil {
			l.Broken = err
			return
		}
		chain = append(append(chain, text...), '\n')
	}
	// What is wrong with it is said below.
	if certs, _ := certstore.ParseCertificates(chain); len(certs) > 0 {
		l.Take(certs[0])
	}
	key, err := files.ReadFile(keyFile)
	if err != nil {
		l.Broken = err
		return
	}
	if l.Bundle, err = certstore.Parse(key, chain); err != nil {
		l.Broken = fmt.Errorf("%s and %s: %w", keyFile, strings.Join(certFiles, ", "), err)
	} else if len(l.Names) == 0 {
		l.Bundle, l.Broken = nil, ErrNoNames
	}
}

// ErrNoNames says that a certificate has no name under which a client would trust it.
var ErrNoNames = errors.New("it has no names: clients ignore what stands in its subject alone")

// Take takes the names of a certificate.
func (l *Lineage) Take(leaf *x509.Certificate) {
	l.Names, l.BadNames = nil, nil
	for _, name := range certstore.CertificateNames(leaf) {
		if _, err := certstore.CanonicalName(name); err != nil {
			l.BadNames = append(l.BadNames, name)
		} else {
			l.Names = append(l.Names, name)
		}
	}
}

// setting is a line of a client's settings: NAME=VALUE, around which may be spaces and quotes.
var setting = regexp.MustCompile(`(?m)^[ \t]*([\w-]+)[ \t]*=[ \t]*(.*?)[ \t\r]*$`)

// settings reads a file of settings. Of one that stands there twice the last counts.
func settings(files FS, file string) (map[string]string, error) {
	text, err := files.ReadFile(file)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, match := range setting.FindAllSubmatch(text, -1) {
		value := string(match[2])
		for _, quote := range []string{"'", `"`} {
			if len(value) >= 2 && strings.HasPrefix(value, quote) && strings.HasSuffix(value, quote) {
				value = value[1 : len(value)-1]
				break
			}
		}
		found[string(match[1])] = printable.Line(value, mostValue)
	}
	return found, nil
}

// mostValue bounds a setting that is shown, in bytes.
const mostValue = 1000
