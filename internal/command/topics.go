package command

import (
	"embed"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
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
			for _, line := range strings.Split(topic.Long, "\n") {
				to := a.words
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

// markedLink is a link of Markdown. Those to files lead up to the root of the project first.
var markedLink = regexp.MustCompile(`\[([^\]]*)\]\((?:\.\./)*([^)]*)\)`)

// inPlainText is Markdown as a terminal shows it: links with where they lead, code indented, and no marks of headings.
func inPlainText(markdown string) string {
	var lines []string
	isCode := false
	for _, line := range strings.Split(strings.TrimSpace(markdown), "\n") {
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
