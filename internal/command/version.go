package command

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

func (a *app) versionCommand() *cli.Command {
	return a.command(cli.Command{Name: "version", Usage: "what was built", Action: func(*cli.Context) error {
		_, err := fmt.Fprintf(a.stdout, "maascert %s %s/%s %s\n", version(), runtime.GOOS, runtime.GOARCH, runtime.Version())
		return err
	}})
}

// version returns the version that the build was stamped with.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	setting := map[string]string{}
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	text := info.Main.Version
	if revision := setting["vcs.revision"]; revision != "" && !strings.Contains(text, revision[:12]) {
		text = fmt.Sprintf("%s (%s)", text, revision[:12])
	}
	return text
}
