package command

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"maascert/internal/config"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// manual is the README and the pages of the manual, by file.
func manual(t *testing.T) map[string]string {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join("topics", "*.md"))
	require.NoError(t, err)
	all := map[string]string{}
	for _, file := range append(pages, filepath.Join("..", "..", "README.md")) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		all[file] = string(text)
	}
	require.Greater(t, len(all), 6)
	return all
}

// A page fits into a terminal, but for what may be copied into a shell, which stays as it is.
func TestTopicsAreShown(t *testing.T) {
	t.Parallel()
	for file, markdown := range manual(t) {
		topic, isPage := strings.CutSuffix(filepath.Base(file), ".md")
		if topic == "README" {
			continue
		}
		require.True(t, isPage)
		for _, args := range [][]string{{"help", topic}, {topic, "--help"}, {"-q", "help", topic}} {
			a := testApp(world.OS{})
			a.columns = 72
			var stdout strings.Builder
			a.stdout = &stdout
			require.Zero(t, a.run(t.Context(), append([]string{"maascert"}, args...)))
			shown := stdout.String()
			for line := range strings.Lines(shown) {
				line = strings.TrimRight(line, "\n")
				if code, isCode := strings.CutPrefix(line, "    "); isCode && strings.Contains(markdown, "\n"+code+"\n") {
					continue
				}
				if strings.Contains(line, " ") { // a word alone is not broken
					require.LessOrEqual(t, len([]rune(line)), 72, line)
				}
			}
			for _, block := range regexp.MustCompile("(?s)```\\w+\n(.*?)```").FindAllStringSubmatch(markdown, -1) {
				require.Contains(t, shown, "    "+strings.ReplaceAll(strings.TrimSpace(block[1]), "\n", "\n    "))
			}
			require.NotContains(t, shown, "](")
			require.NotContains(t, shown, "```")
			require.NotContains(t, shown, "../")
			words := strings.Fields(inPlainText(markdown))
			require.Equal(t, words[len(words)-20:], strings.Fields(shown)[len(strings.Fields(shown))-20:])
		}
	}
}

// What there is nothing to say of is no reason to show something else.
func TestThereIsNoSuchHelp(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"help host": `no topic "host"`, "help renew now": `no topic "renew now"`,
		"monitoring": "maascert help monitoring", "-q monitoring": "maascert help monitoring", "hosts remove region2": "maascert help hosts",
	} {
		a := testApp(world.OS{})
		var stderr strings.Builder
		a.stderr = &stderr
		require.Equal(t, exitUsage, a.run(t.Context(), append([]string{"maascert"}, strings.Fields(args)...)))
		require.Contains(t, stderr.String(), want)

		var stdout strings.Builder
		a = testApp(world.OS{})
		a.stdout = &stdout
		require.Equal(t, exitUsage, a.run(t.Context(), append([]string{"maascert"}, append(strings.Fields(args), "--json")...)))
		require.Contains(t, stdout.String(), `"schema": 1`, "who wants a document gets one: %s", args)
	}
}

// isName tells whether a word may be a command's name, or what it is told; it is no option and no file.
var isName = regexp.MustCompile(`^[a-z]`)

// Whatever command and option the manual names there is.
func TestTheManualNamesWhatThereIs(t *testing.T) {
	t.Parallel()
	root := Tree()
	named := 0
	for file, text := range manual(t) {
		for _, line := range regexp.MustCompile("(?m)(?:^|[` ])maascert ([a-z-][^`#\n|&;]*)").FindAllStringSubmatch(text, -1) {
			words := strings.Fields(line[1])
			if !strings.Contains(text, "`maascert "+line[1]) && !strings.Contains(text, "sudo maascert "+line[1]) {
				continue // it is a sentence
			}
			named++
			var names []string
			for _, word := range words {
				if isName.MatchString(word) {
					names = append(names, word)
				}
			}
			of := root
			if len(names) > 0 {
				if names[0] == "help" {
					names = names[1:]
				}
				found, rest, err := root.Find(names)
				require.NoError(t, err, "%s: maascert %s", file, line[1])
				require.False(t, found.HasAvailableSubCommands() && len(rest) > 0, "%s: maascert %s", file, line[1])
				of = found
			}
			for _, word := range words {
				if option, isOption := strings.CutPrefix(word, "--"); isOption {
					require.NotNil(t, flagOf(of, strings.TrimRight(option, ",.")), "%s: maascert %s", file, line[1])
				}
			}
		}
	}
	require.Greater(t, named, 40)
}

func flagOf(of *cobra.Command, name string) any {
	if flag := of.Flags().Lookup(name); flag != nil {
		return flag
	}
	if flag := of.InheritedFlags().Lookup(name); flag != nil {
		return flag
	}
	return nil
}

// Each piece of a configuration in the manual fits into the whole one that the README begins with.
func TestConfigurationsOfTheManualLoad(t *testing.T) {
	t.Parallel()
	pieces := regexp.MustCompile("(?s)( *)```yaml\n(.*?)```")
	texts := manual(t)
	var whole map[string]any
	readme := pieces.FindStringSubmatch(texts[filepath.Join("..", "..", "README.md")])
	require.NotNil(t, readme)
	require.NoError(t, yaml.Unmarshal([]byte(readme[2]), &whole))
	loaded := 0
	for file, text := range texts {
		for _, piece := range pieces.FindAllStringSubmatch(text, -1) {
			var part map[string]any
			require.NoError(t, yaml.Unmarshal([]byte(piece[2]), &part), file)
			all := maps.Clone(whole)
			maps.Copy(all, part)
			together, err := yaml.Marshal(all)
			require.NoError(t, err)
			path := filepath.Join(t.TempDir(), "maascert.yaml")
			require.NoError(t, os.WriteFile(path, together, 0o640))
			_, err = config.LoadAlone(path, maasconfig.KnownTypes())
			require.NoError(t, err, "%s:\n%s", file, together)
			loaded++
		}
	}
	require.Greater(t, loaded, 3)
}
