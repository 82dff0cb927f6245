package command

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return a.command(spec{name: "version", short: "what was built", group: aside, action: func(*call) error { return a.printVersion() }})
}

func (a *app) printVersion() error {
	_, err := fmt.Fprintf(a.stdout, "maascert %s %s/%s %s\n", version(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	return err
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
