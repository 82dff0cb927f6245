package maasconfig_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/sourcetest"
)

var (
	factHeading  = regexp.MustCompile(`(?m)^### (\d+\.\d+) `)
	factMention  = regexp.MustCompile(`MAAS (?:fact|observation)s?(?:\s|//)+(\d+(?:\.\d+)?)`)
	testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	factTests    = regexp.MustCompile(`(?m)^Tests: (.+)$`)
)

// Code refers to facts by number. Each number is in facts.md, among those that are used, with tests that exist.
func TestEachFactThatCodeRefersToIsThereAndTested(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("facts.md")
	require.NoError(t, err)
	used, unused, ok := strings.Cut(string(text), "\n# Not used yet\n")
	require.True(t, ok)
	mentioned, tests := map[string]string{}, map[string]bool{}
	for path, text := range sourcetest.GoFiles(t, "..") {
		for _, found := range factMention.FindAllStringSubmatch(text, -1) {
			mentioned[found[1]] = path
		}
		for _, found := range testFunction.FindAllStringSubmatch(text, -1) {
			tests[found[1]] = true
		}
	}
	require.NotEmpty(t, mentioned)

	facts := map[string]string{}
	headings := factHeading.FindAllStringSubmatchIndex(used, -1)
	for i, at := range headings {
		end := len(used)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		facts[used[at[2]:at[3]]] = used[at[0]:end]
	}
	for number, path := range mentioned {
		require.Contains(t, facts, number, "%s refers to MAAS fact %s", path, number)
	}
	for number, fact := range facts {
		require.Contains(t, mentioned, number, "nothing refers to MAAS fact %s: it belongs under \"Not used yet\"", number)
		named := factTests.FindStringSubmatch(fact)
		require.NotNil(t, named, "MAAS fact %s names no test", number)
		for test := range strings.SplitSeq(named[1], ", ") {
			require.True(t, tests[test], "MAAS fact %s names %s, which is no test", number, test)
		}
	}
	require.NotContains(t, unused, "\nTests: ")
	for _, found := range factHeading.FindAllStringSubmatch(unused, -1) {
		require.NotContains(t, facts, found[1], "MAAS fact %s is there twice", found[1])
	}
}
