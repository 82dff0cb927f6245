package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// What describe writes beside the packages.
const (
	modulesName  = "modules.txt"
	licencesName = "third-party-licences.txt"
)

// bill is as much of a CycloneDX document as is read again.
type bill struct {
	Components []struct {
		Name, Version string
		Evidence      struct {
			Licenses []struct{ License struct{ ID string } }
		}
	}
}

// read are licences that no program recognises, by those who read them.
var read = map[string]string{
	"github.com/juju/collections":  linkable,
	"github.com/juju/errors":       linkable,
	"github.com/juju/gomaasapi/v2": linkable,
	"github.com/juju/loggo":        linkable,
	"github.com/juju/mgo/v2":       "BSD-2-Clause",
	"github.com/juju/schema":       linkable,
	"github.com/juju/version":      linkable,
	"gopkg.in/mgo.v2":              "BSD-2-Clause",
}

// linkable is Canonical's: a program may be linked to it without its objects being passed on.
const linkable = "LGPL-3.0-only WITH LGPL-3.0-linking-exception"

// toolHashes are those of the tool in the document, with what stands before them.
var toolHashes = regexp.MustCompile(`(?s)("tools": \[\s*\{[^{}\[\]]*?),\s*"hashes": \[[^\]]*\]`)

// describe writes what is in a program: a CycloneDX document, the modules with their licences, and these in full.
func (b *build) describe(program, name string) error {
	path := filepath.Join(b.out, name+".cdx.json")
	if err := run(nil, filepath.Join(b.tools, "cyclonedx-gomod"), "bin", "-json", "-noserial", "-notimestamp", "-licenses", "-output", path, program); err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	// The tool writes down its own hashes, which differ from one machine to another.
	text = toolHashes.ReplaceAll(text, []byte("$1"))
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	var all bill
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	var modules, licences bytes.Buffer
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	fmt.Fprintln(&modules, "the Go standard library: BSD-3-Clause")
	failures := []error{appendLicences(&licences, "the Go standard library", strings.TrimSpace(string(root)))}
	for _, module := range all.Components {
		names := []string{}
		for _, one := range module.Evidence.Licenses {
			names = append(names, one.License.ID)
		}
		if name, known := read[module.Name]; known && len(names) == 0 {
			names = []string{name}
		}
		if len(names) == 0 {
			return fmt.Errorf("%s %s has a licence that is not recognised: read it, and list it in packaging", module.Name, module.Version)
		}
		fmt.Fprintf(&modules, "%s %s: %s\n", module.Name, module.Version, strings.Join(names, ", "))
		dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module.Name).Output()
		if err != nil {
			return fmt.Errorf("where is %s: %w", module.Name, err)
		}
		failures = append(failures, appendLicences(&licences, module.Name, strings.TrimSpace(string(dir))))
	}
	return errors.Join(append(failures, os.WriteFile(filepath.Join(b.out, modulesName), modules.Bytes(), 0o644), os.WriteFile(filepath.Join(b.out, licencesName), licences.Bytes(), 0o644))...)
}

// isLicence recognises the files that a module wants passed on.
var isLicence = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)`)

// appendLicences adds the licences in a module's folder.
func appendLicences(to *bytes.Buffer, module, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("the licence of %s: %w", module, err)
	}
	found := false
	for _, entry := range entries {
		if entry.IsDir() || !isLicence.MatchString(entry.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(to, "%s, %s:\n\n%s\n\n", module, entry.Name(), bytes.TrimSpace(text))
		found = true
	}
	if !found {
		return fmt.Errorf("%s has no licence in %s", module, dir)
	}
	return nil
}
