// Package layout keeps the project's shape: which package may know which, and what stands at the top level.
package layout_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/sourcetest"
)

// forbidden are the edges that would turn the architecture round. Test packages (acmetest, maastest, storetest,
// worldtest) are parts of what they test.
var forbidden = []struct{ from, to, why string }{
	{"maascert/certstore", "maascert/acme", "what a certificate is does not depend on how it is obtained"},
	{"maascert/certstore", "maascert/maasconfig", "what a certificate is does not depend on who serves it"},
	{"maascert/certstore", "maascert/internal/lifecycle", "the engine stands on the nouns, not the other way round"},
	{"maascert/acme", "maascert/maasconfig", "who obtains and who serves meet only in the engine"},
	{"maascert/acme", "maascert/internal/lifecycle", "the engine drives the client"},
	{"maascert/acme/challenge", "maascert/acme", "the client drives the solvers, whose kinds it does not know"},
	{"maascert/acme/challenge", "github.com/go-acme/lego/", "answers are visible without lego"},
	{"maascert/maasconfig", "maascert/acme", "who serves and who obtains meet only in the engine"},
	{"maascert/maasconfig", "maascert/internal/lifecycle", "the engine drives the targets"},
	{"maascert/maasconfig", "maascert/maasconfig/maasapi", "a target wants a list of regions, whoever has it"},
	{"maascert/maasconfig/maasapi", "maascert/acme", "MAAS's API knows nothing of those who put records with it"},
	{"maascert/notify", "maascert/certstore", "who is told hears words, and needs to know nothing of certificates"},
	{"maascert/notify", "maascert/acme", "likewise"},
	{"maascert/notify", "maascert/maasconfig", "MAAS's page is a notice board, whoever has it"},
	{"maascert/notify", "maascert/internal/lifecycle", "the engine says what is worth telling, and others tell it"},
	{"maascert/internal/config", "maascert/internal/lifecycle", "what somebody wants is known before anything is done about it"},
	{"maascert/internal/config", "maascert/internal/command", "the command reads the configuration"},
	{"maascert/internal/config", "maascert/internal/report", "what somebody wants does not depend on what is said of it"},
	{"maascert/internal/report", "maascert/internal/command", "a document is the same whoever shows it"},
	{"maascert/internal/report", "maascert/internal/config", "a document tells what was seen, not what was wished"},
	{"maascert/internal/lifecycle", "maascert/internal/report", "the engine says what it saw, and others put it into words"},
	{"maascert/internal/lifecycle", "maascert/internal/config", "the engine is wired by the command, and knows no file"},
	{"maascert/internal/preflight", "maascert/internal/command", "what a host is like does not depend on who asks"},
	{"maascert/internal/preflight", "maascert/internal/config", "likewise: what is configured is passed in"},
	{"maascert/internal/preflight", "maascert/internal/lifecycle", "what stands around a deployment is looked at without the engine"},
	{"maascert/internal/setup", "maascert/internal/command", "what is proposed does not depend on who asks for it"},
	{"maascert/internal/setup", "maascert/internal/config", "a proposal is a text, which the configuration reads like any other"},
	{"maascert/internal/lineage", "maascert/internal/command", "what another client keeps is there whoever imports it"},
	{"maascert/internal/lineage", "maascert/internal/config", "likewise"},
	{"maascert/internal/world", "maascert/certstore", "the machine knows nothing of certificates"},
	{"maascert/internal/hint", "maascert/", "a hint knows nothing of what it is about"},
}

// only are packages that exactly one of ours may import, with those below it.
var only = []struct{ to, by, why string }{
	{"github.com/go-acme/lego/", "maascert/acme", "lego is a means of one package and its DNS providers, so that a later version is a change in one place"},
	{"github.com/canonical/gomaasclient/", "maascert/maasconfig/maasapi", "MAAS's API is spoken in one place, which takes care of the key"},
	{"github.com/juju/gomaasapi/", "maascert/maasconfig/maasapi", "likewise"},
	{"github.com/spf13/cobra", "maascert/internal/command", "flags and words belong to the command"},
	{"github.com/jedib0t/go-pretty/v6/progress", "maascert/internal/command", "a renewal is watched at a terminal, which the command has"},
	{"github.com/jedib0t/go-pretty/v6/table", "maascert/internal/report", "documents are drawn where they are put into words"},
	{"charm.land/", "maascert/internal/command", "forms are asked at a terminal, which the command has"},
	{"github.com/letsencrypt/pebble/", "maascert/acme/acmetest", "a CA for tests is no part of the program"},
	{"github.com/jackc/pgx/", "maascert/certstore/postgres", "a database is one of several places to keep documents"},
	{"github.com/wneessen/go-mail", "maascert/notify", "mail is one of several ways to tell people"},
	{"github.com/nicholas-fedor/shoutrrr", "maascert/notify", "so are chats"},
	{"os/exec", "maascert/internal/world", "programs are run through world.Runner, so that tests can make them fail"},
}

func imports(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "maascert/...").Output()
	require.NoError(t, err)
	packages := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		packages[words[0]] = words[1:]
	}
	require.Contains(t, packages, "maascert/cmd/maascert")
	return packages
}

func isTestHelper(pkg string) bool {
	return strings.HasSuffix(pkg, "test") || strings.HasPrefix(pkg, "maascert/examples/") || slices.Contains([]string{"maascert/internal/loopback", "maascert/internal/bench", "maascert/internal/packaging"}, pkg)
}

func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	for pkg, imported := range imports(t) {
		if isTestHelper(pkg) {
			continue
		}
		for _, to := range imported {
			for _, edge := range forbidden {
				if pkg == edge.from && strings.HasPrefix(to, edge.to) {
					t.Errorf("%s imports %s: %s", pkg, to, edge.why)
				}
			}
			for _, edge := range only {
				if strings.HasPrefix(to, edge.to) && pkg != edge.by && !strings.HasPrefix(pkg, edge.by+"/") {
					t.Errorf("%s imports %s, which only %s may: %s", pkg, to, edge.by, edge.why)
				}
			}
			if isTestHelper(to) {
				t.Errorf("%s imports %s, which is for tests", pkg, to)
			}
		}
	}
}

// A certificate that nobody trusts is well only in a rehearsal: one place may say that trust does not count.
func TestOnlyTheWiringOfARehearsalTrustsAnything(t *testing.T) {
	t.Parallel()
	var found []string
	for path, text := range sourcetest.GoFiles(t, "../..") {
		if !strings.HasSuffix(path, "_test.go") && strings.Contains(text, "certstore.Rehearsed(") {
			found = append(found, path)
		}
	}
	require.Equal(t, []string{"internal/command/wire.go"}, found)
}

// The program is one binary for a root shell: nothing of the test CA or the test framework is in it.
func TestTheProgramHoldsNoTestCode(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "maascert/cmd/maascert").Output()
	require.NoError(t, err)
	for pkg := range strings.Lines(string(out)) {
		pkg = strings.TrimSpace(pkg)
		require.False(t, pkg == "testing" || strings.Contains(pkg, "pebble") || strings.Contains(pkg, "testify"), pkg)
	}
}

func TestTheTopLevelIsAsAgreed(t *testing.T) {
	t.Parallel()
	agreed := []string{"cmd", "acme", "certstore", "maasconfig", "notify", "examples", "internal", "go.mod", "go.sum", "Makefile", "README.md"}
	built := "bin"
	entries, err := os.ReadDir("../..")
	require.NoError(t, err)
	for _, entry := range entries {
		name := entry.Name()
		require.True(t, strings.HasPrefix(name, ".") || name == built || slices.Contains(agreed, name), name)
	}
}

// What the README shows is there, and what is there is shown.
func TestTheREADMEShowsThePictures(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	var shown []string
	for _, match := range regexp.MustCompile(`!\[[^]]+\]\((examples/pictures/[^)]+)\)`).FindAllStringSubmatch(string(readme), -1) {
		shown = append(shown, match[1])
	}
	there, err := filepath.Glob("../../examples/pictures/*")
	require.NoError(t, err)
	for i, path := range there {
		there[i] = strings.TrimPrefix(filepath.ToSlash(path), "../../")
	}
	require.NotEmpty(t, there)
	require.ElementsMatch(t, there, shown)
}

// Whatever the README and the pages of the manual lead to is there.
func TestLinksOfTheManualLeadSomewhere(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../command/topics/*.md")
	require.NoError(t, err)
	links := 0
	for _, file := range append(pages, "../../README.md") {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(text), -1) {
			path, anchor, _ := strings.Cut(link[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			links++
			if path != "" {
				_, err := os.Stat(filepath.Join(filepath.Dir(file), path))
				require.NoError(t, err, file)
				continue
			}
			var anchors []string
			for _, heading := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(string(text), -1) {
				letters := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
				anchors = append(anchors, strings.ReplaceAll(letters, " ", "-"))
			}
			require.Contains(t, anchors, anchor, file)
		}
	}
	require.Greater(t, links, 30)
}
