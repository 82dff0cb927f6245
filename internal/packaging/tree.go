package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"maascert/internal/command"
)

// Where files go in a Debian system.
const (
	units    = "usr/lib/systemd/system"
	manPages = "usr/share/man"
	docs     = "usr/share/doc/maascert"
	examples = docs + "/examples"
)

// plant makes the files that are installed, below the tree.
func (b *build) plant(program string) error {
	if err := os.RemoveAll(b.tree); err != nil {
		return err
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return errors.Join(
		b.put("usr/bin/maascert", text, 0o755),
		b.putUnits(),
		b.putExamples(),
		b.putManPages(),
		b.putCompletions(),
		b.putDocuments(),
	)
}

// put writes a file of the tree.
func (b *build) put(path string, text []byte, mode fs.FileMode) error {
	path = filepath.Join(b.tree, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, text, mode); err != nil {
		return err
	}
	return errors.Join(os.Chmod(path, mode), os.Chtimes(path, b.at, b.at))
}

// putZipped writes a file of the tree as Debian wants what people read: compressed, without a name or a time.
func (b *build) putZipped(path string, text []byte) error {
	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := zipped.Write(text); err != nil {
		return err
	}
	if err := zipped.Close(); err != nil {
		return err
	}
	return b.put(path+".gz", out.Bytes(), 0o644)
}

// Where the program is that was built by hand or comes with the tarball, and the package's.
const (
	builtProgram    = "/usr/local/bin/maascert"
	packagedProgram = "/usr/bin/maascert"
)

// packaged is a text about a program that was built by hand, said of the one of the package.
func packaged(text []byte) []byte {
	return bytes.ReplaceAll(text, []byte(builtProgram), []byte(packagedProgram))
}

// putUnits installs the units. The drop-in for a MAAS from the deb is an example: the snap needs open what it closes.
func (b *build) putUnits() error {
	entries, err := os.ReadDir(filepath.Join("examples", "systemd"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		text, err := os.ReadFile(filepath.Join("examples", "systemd", entry.Name()))
		if err != nil {
			return err
		}
		if err := b.put(units+"/"+entry.Name(), packaged(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// notInstalled are the examples that are programs of the source, or its pictures.
var notInstalled = []string{"allproviders", "demo", "demo-fleet", "pictures"}

func (b *build) putExamples() error {
	return filepath.WalkDir("examples", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := strings.TrimPrefix(filepath.ToSlash(path), "examples/")
		if entry.IsDir() && slices.Contains(notInstalled, inside) {
			return filepath.SkipDir
		}
		if entry.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return b.put(examples+"/"+inside, packaged(text), 0o644|info.Mode().Perm()&0o111)
	})
}

// putManPages makes one of each command and each topic, of the text of its --help, and one of the configuration file, of the example that
// names every key.
func (b *build) putManPages() error {
	root := command.Tree()
	root.DisableAutoGenTag = true
	if err := b.putManPage(root); err != nil {
		return err
	}
	reference, err := os.ReadFile(filepath.Join("examples", "maascert.yaml"))
	if err != nil {
		return err
	}
	return b.putZipped(manPages+"/man5/maascert.yaml.5", configurationPage(reference, b.version, b.at))
}

// putManPage makes that of a command and of those below it.
func (b *build) putManPage(of *cobra.Command) error {
	var page bytes.Buffer
	section, inWords := "8", asInHelp
	if of.IsAdditionalHelpTopicCommand() {
		section, inWords = "7", asTopic
	}
	header := &doc.GenManHeader{Section: section, Manual: "maascert", Source: "maascert " + released(b.version), Date: &b.at}
	if err := doc.GenMan(of, header, &page); err != nil {
		return err
	}
	words := seeAlso(inWords(page.Bytes(), of), of)
	failures := []error{b.putZipped(manPages+"/man"+section+"/"+strings.ReplaceAll(of.CommandPath(), " ", "-")+"."+section, words)}
	for _, below := range of.Commands() {
		if below.IsAvailableCommand() || below.IsAdditionalHelpTopicCommand() {
			failures = append(failures, b.putManPage(below))
		}
	}
	return errors.Join(failures...)
}

// optionLine is how the library writes an option and its default.
var optionLine = regexp.MustCompile(`(?m)^(.*\\fB--([a-z0-9-]+)\\fP)\[?=.*$`)

// asInHelp writes options as --help does: with what their values are called, and without the defaults of those that are off or empty.
func asInHelp(page []byte, of *cobra.Command) []byte {
	return optionLine.ReplaceAllFunc(page, func(line []byte) []byte {
		parts := optionLine.FindSubmatch(line)
		flag := of.Flag(string(parts[2]))
		if flag == nil {
			return line
		}
		if value, _ := pflag.UnquoteUsage(flag); value != "" {
			return fmt.Appendf(nil, `%s \fI%s\fP`, parts[1], value)
		}
		return parts[1]
	})
}

// notOfTopics are parts of a manual page that are about how a command is called.
var notOfTopics = regexp.MustCompile(`(?s)\.SH SYNOPSIS.*?(\.SH DESCRIPTION)|\.SH OPTIONS.*?(\.SH SEE ALSO)`)

// asTopic leaves out what a topic, which is no command, does not have, and says where the examples are installed.
func asTopic(page []byte, of *cobra.Command) []byte {
	page = notOfTopics.ReplaceAll(page, []byte("$1$2"))
	page = bytes.ReplaceAll(page, []byte("(examples/"), []byte("(/"+examples+"/"))
	return bytes.ReplaceAll(page, []byte(of.Root().Name()+"(7)"), []byte(of.Root().Name()+"(8)"))
}

// seeAlso adds to the last section of a page, in which the library lists commands, what else there is to read: the configuration's page, and
// to that of the program the topics.
func seeAlso(page []byte, of *cobra.Command) []byte {
	if of.HasParent() && !of.IsAdditionalHelpTopicCommand() {
		return page
	}
	more := []string{"maascert.yaml(5)"}
	for _, below := range of.Commands() {
		if below.IsAdditionalHelpTopicCommand() {
			more = append(more, fmt.Sprintf("%s-%s(7)", of.Name(), below.Name()))
		}
	}
	page = bytes.TrimRight(page, "\n")
	for _, name := range more {
		page = fmt.Appendf(page, `, \fB%s\fP`, strings.ReplaceAll(name, "-", `\-`))
	}
	return append(page, '\n')
}

// released is a version without the commit that it was built from, which has no room at the foot of a page.
func released(version string) string {
	short, _, _ := strings.Cut(version, "~")
	return short
}

// literal has roff show a text as it is.
var literal = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

func configurationPage(reference []byte, version string, at time.Time) []byte {
	var page bytes.Buffer
	fmt.Fprintf(&page, ".TH MAASCERT.YAML 5 %q %q maascert\n", at.Format("Jan 2006"), "maascert "+released(version))
	page.WriteString(".SH NAME\nmaascert.yaml \\- configuration of maascert\n")
	page.WriteString(".SH DESCRIPTION\n/etc/maascert/maascert.yaml says which certificates there are, where they come from, and who serves them.\n" +
		".BR maascert\\-init (8)\nwrites one,\n.BR maascert\\-config\\-test (8)\nchecks it. This is every key, with what it is for; what is left out is as said here.\n.SH KEYS\n.nf\n")
	for line := range strings.Lines(string(reference)) {
		line = literal.Replace(strings.TrimSuffix(line, "\n"))
		if strings.HasPrefix(line, ".") {
			line = `\&` + line
		}
		page.WriteString(line + "\n")
	}
	page.WriteString(".fi\n.SH SEE ALSO\n.BR maascert (8)\n")
	return page.Bytes()
}

func (b *build) putCompletions() error {
	root := command.Tree()
	var bash, zsh, fish bytes.Buffer
	if err := errors.Join(root.GenBashCompletionV2(&bash, true), root.GenZshCompletion(&zsh), root.GenFishCompletion(&fish, true)); err != nil {
		return err
	}
	return errors.Join(
		b.put("usr/share/bash-completion/completions/maascert", bash.Bytes(), 0o644),
		b.put("usr/share/zsh/vendor-completions/_maascert", zsh.Bytes(), 0o644),
		b.put("usr/share/fish/vendor_completions.d/maascert.fish", fish.Bytes(), 0o644),
	)
}

// putDocuments writes what Debian asks each package for, with what describe found out about the modules in the program.
func (b *build) putDocuments() error {
	overrides, err := os.ReadFile(filepath.Join("internal", "packaging", "lintian-overrides"))
	if err != nil {
		return err
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		return err
	}
	modules, err := os.ReadFile(filepath.Join(b.out, modulesName))
	if err != nil {
		return err
	}
	texts, err := os.ReadFile(filepath.Join(b.out, licencesName))
	if err != nil {
		return err
	}
	changes := fmt.Sprintf("maascert (%s) unstable; urgency=medium\n\n  * What changed is told by the history of the source.\n\n -- The maascert authors <root@localhost>  %s\n", b.version, b.at.Format(time.RFC1123Z))
	copyright := fmt.Sprintf("Copyright (C) %d the maascert authors. No licence was chosen yet.\n\n", b.at.Year()) +
		"The program holds modules of others, whose licences, in full, are in\nthird-party-licences.gz beside this file. On Debian systems the GNU Lesser\n" +
		"General Public License is in /usr/share/common-licenses/LGPL-3, the Apache\nLicense in Apache-2.0, the Mozilla Public License in MPL-2.0.\n\n" + string(modules)
	return errors.Join(
		b.put("usr/share/lintian/overrides/maascert", overrides, 0o644),
		b.put(docs+"/copyright", []byte(copyright), 0o644),
		b.putZipped(docs+"/changelog", []byte(changes)),
		b.putZipped(docs+"/third-party-licences", texts),
		b.putZipped(docs+"/README.md", readme),
	)
}
