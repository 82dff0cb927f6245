package command

import (
	"cmp"
	"embed"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"maascert/internal/hint"
)

// topicPages are the pages of the manual that belong to no command: on the web as they are, in the terminal after maascert help, and as
// manual pages. Each begins with a heading that says what it is about.
//
//go:embed topics/*.md
var topicPages embed.FS

// topics are those pages as commands that do nothing but show themselves.
func (a *app) topics() []*cobra.Command {
	files, err := topicPages.ReadDir("topics")
	if err != nil {
		panic(err) // they are in the program
	}
	var all []*cobra.Command
	for _, file := range files {
		page, err := topicPages.ReadFile(path.Join("topics", file.Name()))
		if err != nil {
			panic(err) // likewise
		}
		heading, text, _ := strings.Cut(string(page), "\n")
		title := strings.TrimPrefix(heading, "# ")
		topic := &cobra.Command{
			Use: strings.TrimSuffix(file.Name(), ".md"), DisableFlagsInUseLine: true,
			Short: strings.ToLower(title[:1]) + title[1:], Long: inPlainText(text),
		}
		topic.SetHelpFunc(func(topic *cobra.Command, _ []string) {
			prose := newProse(a.stdout, cmp.Or(a.columns, columnsOf(a.stdout)), os.Getenv)
			fmt.Fprintf(prose, "%s\n\n", title)
			for line := range strings.SplitSeq(topic.Long, "\n") {
				to := prose
				if strings.HasPrefix(line, codeIndent) {
					to = a.stdout // as it is: it may be copied into a shell
				}
				fmt.Fprintln(to, line)
			}
		})
		all = append(all, topic)
	}
	return all
}

const codeIndent = "    "

// helpCommand shows what a command does, or a topic.
func (a *app) helpCommand() *cobra.Command {
	return a.command(spec{
		name: "help", args: "[COMMAND|TOPIC]", short: "what a command does, or a page of the manual", group: aside,
		values: func(c *call) (names []string) {
			of, _, err := c.command.Root().Find(c.Args)
			if err != nil {
				return nil
			}
			for _, below := range of.Commands() {
				if below.IsAvailableCommand() || below.IsAdditionalHelpTopicCommand() {
					names = append(names, below.Name())
				}
			}
			return names
		},
		action: func(c *call) error {
			of, rest, err := c.command.Root().Find(c.Args)
			if err != nil || len(rest) > 0 {
				return hint.Add(fmt.Errorf("help: there is no command and no topic %q", strings.Join(c.Args, " ")), "maascert --help lists them")
			}
			of.InitDefaultHelpFlag() // which a command has once it was run
			return of.Help()
		},
	})
}

// noCommand refuses a topic in the place of a command: what runs maascert monitoring by mistake must not be told that all is well.
func noCommand(root *cobra.Command, args []string) error {
	topic, _, err := root.Find(args)
	if err != nil || !topic.IsAdditionalHelpTopicCommand() || slices.ContainsFunc(args, func(arg string) bool { return arg == "-h" || arg == "--help" }) {
		return nil
	}
	return hint.Add(fmt.Errorf("there is no command %q", topic.Name()), "it is a page of the manual: maascert help %s", topic.Name())
}

// markedLink is a link of Markdown. Those to files lead up to the root of the project first.
var markedLink = regexp.MustCompile(`\[([^\]]*)\]\((?:\.\./)*([^)]*)\)`)

// inPlainText is Markdown as a terminal shows it: links with where they lead, code indented, and no marks of headings.
func inPlainText(markdown string) string {
	var lines []string
	isCode := false
	for line := range strings.SplitSeq(strings.TrimSpace(markdown), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			isCode = !isCode
			continue
		case isCode:
			line = codeIndent + line
		case strings.HasPrefix(line, "#"):
			line = strings.TrimLeft(line, "# ") + ":"
		}
		lines = append(lines, markedLink.ReplaceAllString(line, "$1 ($2)"))
	}
	return strings.Join(lines, "\n")
}
