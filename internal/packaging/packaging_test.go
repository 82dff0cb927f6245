package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"maascert/internal/command"
)

// What comes before a release sorts before it, and a later commit after an earlier one.
func TestDebianVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"v1.2.3":                             "1.2.3",
		"v1.2.3+dirty":                       "1.2.3+dirty",
		"v1.3.0-rc.1":                        "1.3.0~rc.1",
		"v0.0.0-20261126223921-f6c99a4c2c5a": "0.0.0~20261126223921.f6c99a4c2c5a",
		"v1.2.4-0.20261126223921-f6c99a4c2c5a+dirty": "1.2.4~0.20261126223921.f6c99a4c2c5a+dirty",
		"(devel)": "0~devel",
		"":        "0~devel",
	} {
		require.Equal(t, want, debianVersion(version), version)
	}
}

// roffMarks are those of the pages, which are no part of their words.
var roffMarks = regexp.MustCompile(`\\f[BIRP]|(?m)^\.\w+ ?|\\&`)

// spoken is the text of a manual page, in one line.
func spoken(page string) string {
	page = strings.NewReplacer(`\(bu 2`, "-", `\-`, "-", `\e`, `\`, `\(aq`, "'", `\(ga`, "`", `\(ha`, "^", `\(ti`, "~").Replace(roffMarks.ReplaceAllString(page, ""))
	return strings.Join(strings.Fields(page), " ")
}

// Every command has a manual page, which says what its --help says: the words, each option, what its value is called and what it is
// for.
func TestManPagesSayWhatHelpSays(t *testing.T) {
	b := build{tree: t.TempDir(), version: "1.2.3", at: time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)}
	t.Chdir(filepath.Join("..", ".."))
	require.NoError(t, b.putManPages())
	pages := 0
	var look func(*cobra.Command)
	look = func(of *cobra.Command) {
		section := "8"
		if of.IsAdditionalHelpTopicCommand() {
			section = "7"
		}
		name := strings.ReplaceAll(of.CommandPath(), " ", "-") + "." + section
		page := spoken(unzipped(t, filepath.Join(b.tree, manPages, "man"+section, name+".gz")))
		pages++
		require.Contains(t, page, strings.Join(strings.Fields(of.Short), " "), name)
		require.NotContains(t, page, "maascert(7)", "it is in section 8")
		long := strings.ReplaceAll(of.Long, "`", "")
		if of.IsAdditionalHelpTopicCommand() {
			long = strings.ReplaceAll(long, "(examples/", "(/usr/share/doc/maascert/examples/")
		}
		require.Contains(t, page, strings.Join(strings.Fields(long), " "), name)
		if of.IsAdditionalHelpTopicCommand() {
			require.NotContains(t, page, "--log-level", name)
			return
		}
		of.Flags().VisitAll(func(flag *pflag.Flag) {
			value, usage := pflag.UnquoteUsage(flag)
			require.Contains(t, page, strings.Join(strings.Fields("--"+flag.Name+" "+value+" "+usage), " "), name)
		})
		for _, below := range of.Commands() {
			if below.IsAvailableCommand() || below.IsAdditionalHelpTopicCommand() {
				look(below)
			}
		}
	}
	look(command.Tree())
	require.Contains(t, spoken(unzipped(t, filepath.Join(b.tree, manPages, "man8", "maascert.8.gz"))), "maascert.yaml(5), maascert-challenges(7), maascert-hosts(7)")
	require.Contains(t, spoken(unzipped(t, filepath.Join(b.tree, manPages, "man7", "maascert-challenges.7.gz"))), "/usr/share/doc/maascert/examples/systemd/maascert-respond.service")
	require.Greater(t, pages, 31)

	reference, err := os.ReadFile(filepath.Join("examples", "maascert.yaml"))
	require.NoError(t, err)
	require.Contains(t, spoken(unzipped(t, filepath.Join(b.tree, manPages, "man5", "maascert.yaml.5.gz"))), strings.Join(strings.Fields(string(reference)), " "))
}

func unzipped(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	reader, err := gzip.NewReader(bytes.NewReader(text))
	require.NoError(t, err)
	require.True(t, reader.ModTime.IsZero(), "the same bytes whenever it is built")
	all, err := io.ReadAll(reader)
	require.NoError(t, err)
	return string(all)
}
