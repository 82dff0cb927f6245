// Package command is maascert as its users meet it: flags, configuration file, wiring, words, exit codes. It is a package
// of its own so that a program can be built with more in it, such as all of lego's DNS providers.
//
// The rules of its face: results go to standard output, everything else to standard error; an error is one line,
// "maascert: WHAT: WHY", and where there is something to do about it a second one, "hint: WHAT TO DO"; the exit code says
// the same as the words; nothing is asked but the first enabling of TLS, and that only on a terminal.
package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// The exit codes, as the help says them.
const (
	exitOK          = 0
	exitAttention   = 1
	exitUsage       = 2
	exitNotNow      = 3
	exitInterrupted = 130
)

const exitCodes = `Exit codes:
   0    as it should be, or made so
   1    something could not be made so (renew), or needs attention (check, status, verify)
   2    usage or configuration: nothing was tried
   3    not now: another run holds the lock, the CA limits the rate, a back-off is in force
   130  interrupted (SIGINT or SIGTERM)`

// Main is the program.
func Main() {
	limitMemory()
	os.Exit(newApp().run(os.Args))
}

// The garbage collector works harder when the program takes more than usualMemory, in bytes. What it keeps is a
// few megabytes; what strangers send and it drops should not add up beside a MAAS.
const usualMemory = 48 << 20

func limitMemory() { debug.SetMemoryLimit(usualMemory) }

func newApp() *app {
	return &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, fsys: world.OS{}, types: maasconfig.KnownTypes(), chat: chatProgram(), now: time.Now}
}

// app is one run of the program.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	fsys           world.FS
	types          maasconfig.Types              // of targets
	reach          world.Dial                    // to whoever answers challenges; nil: the network
	observe        func(host string, status int) // requests to CAs; nil: nobody does
	chat           []string                      // the program that sends chat messages
	now            func() time.Time
	log            *slog.Logger
}

// outcome ends a command that has said all it has to say: with an exit code.
type outcome int

func (o outcome) Error() string { return fmt.Sprintf("exit %d", int(o)) }

func (a *app) run(args []string) int {
	// Whoever reads what is printed may go away; that ends nothing. A write that fails then is no reason to stop.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := a.cli().RunContext(ctx, args)
	if ctx.Err() != nil {
		return exitInterrupted
	}
	var end outcome
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &end):
		return int(end)
	default:
		a.complain(err)
		return exitUsage
	}
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print a JSON document"} }

func attentionUnless(healthy bool) error {
	if healthy {
		return nil
	}
	return outcome(exitAttention)
}

// complain writes an error and its hint.
func (a *app) complain(err error) {
	var config *config.Errors
	if errors.As(err, &config) {
		for _, line := range config.Lines(true) {
			fmt.Fprintf(a.stderr, "maascert: config: %s\n", line)
		}
		fmt.Fprintln(a.stderr, "hint: nothing was tried; examples/maascert.yaml names every key and says what it takes")
		return
	}
	fmt.Fprintf(a.stderr, "maascert: %s\n", printable.Error(err))
	if h := hint.Of(err); h != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", printable.Text(h))
	}
}

func (a *app) cli() *cli.App {
	return &cli.App{
		Name:                 "maascert",
		Usage:                "keeps the TLS certificate of a MAAS deployment alive",
		Description:          exitCodes,
		Version:              version(),
		HideVersion:          true,
		Writer:               a.stdout,
		ErrWriter:            a.stderr,
		Reader:               a.stdin,
		ExitErrHandler:       func(*cli.Context, error) {},
		OnUsageError:         usageError,
		EnableBashCompletion: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Value: "/etc/maascert/maascert.yaml", EnvVars: []string{"MAASCERT_CONFIG"}, Usage: "the configuration `FILE`"},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "text or json"},
			&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error (default: error; run: info)"},
		},
		Commands: []*cli.Command{
			a.checkCommand(), a.renewCommand(), a.runCommand(), a.respondCommand(), a.statusCommand(), a.verifyCommand(),
			a.deployCommand(), a.rollbackCommand(), a.historyCommand(), a.revokeCommand(), a.deleteCommand(), a.accountCommand(), a.storeCommand(), a.notifyCommand(), a.completionCommand(), a.versionCommand(),
		},
		Before: a.setUp,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return hint.Add(fmt.Errorf("there is no command %q", c.Args().First()), "maascert --help lists the commands")
			}
			return hint.Add(errors.New("no command is given"), "the commands are: %s; maascert --help says more", strings.Join(commandNames(c.App), ", "))
		},
	}
}

func commandNames(app *cli.App) []string {
	var names []string
	for _, command := range app.VisibleCommands() {
		names = append(names, command.Name)
	}
	return names
}

func usageError(_ *cli.Context, err error, _ bool) error {
	return hint.Add(err, "maascert --help lists the commands, maascert COMMAND --help a command's options")
}

// command fills in what all commands share.
func (a *app) command(c cli.Command) *cli.Command {
	c.OnUsageError = usageError
	c.Description = joinParagraphs(c.Description, exitCodes)
	c.HideHelpCommand = true
	action := c.Action
	wantsArgs := c.ArgsUsage != ""
	c.Action = func(ctx *cli.Context) error {
		if !wantsArgs && ctx.Args().Present() {
			return hint.Add(fmt.Errorf("%s takes no argument %q", c.Name, ctx.Args().First()), "maascert %s --help", c.Name)
		}
		if c.Name == daemonName {
			return action(ctx)
		}
		return a.untilHangUp(ctx, action)
	}
	return &c
}

func joinParagraphs(paragraphs ...string) string {
	var kept []string
	for _, p := range paragraphs {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, "\n\n")
}

// untilHangUp ends a command whose terminal is gone as SIGTERM would, so that it leaves nothing behind. Whoever started it
// under nohup does not want that.
func (a *app) untilHangUp(c *cli.Context, action cli.ActionFunc) error {
	if signal.Ignored(syscall.SIGHUP) {
		return action(c)
	}
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGHUP)
	defer stop()
	c.Context = ctx
	if err := action(c); ctx.Err() == nil {
		return err
	}
	return outcome(exitInterrupted)
}

func (a *app) setUp(c *cli.Context) error {
	level, otherwise := slog.LevelError, "error"
	if c.Args().First() == daemonName {
		otherwise = "info"
	}
	if err := level.UnmarshalText([]byte(cmp.Or(c.String("log-level"), otherwise))); err != nil {
		return fmt.Errorf("--log-level: %q is none of debug, info, warn, error", c.String("log-level"))
	}
	options := &slog.HandlerOptions{Level: level}
	switch format := c.String("log-format"); format {
	case "text":
		a.log = slog.New(slog.NewTextHandler(a.stderr, options))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(a.stderr, options))
	default:
		return fmt.Errorf("--log-format: %q is none of text, json", format)
	}
	return nil
}

// config loads the configuration that the flags name.
func (a *app) config(c *cli.Context) (*config.Config, error) {
	path := c.String("config")
	if path == "" {
		return nil, hint.Add(errors.New("--config: no file is named"), "maascert --config FILE %s", c.Command.Name)
	}
	config, err := config.Load(path, a.types)
	if errors.Is(err, os.ErrNotExist) {
		return nil, hint.Add(fmt.Errorf("config: %w", err), "write one (the README shows how), or name it: maascert --config FILE")
	}
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if err := doubt(path); err != nil && c.Command.Name != daemonName {
		a.warnAll([]error{err})
	}
	return config, nil
}

// isTerminal tells whether a person sits at both ends.
func (a *app) isTerminal() bool {
	out, ok := a.stdout.(*os.File)
	return ok && a.stdin != nil && term.IsTerminal(int(a.stdin.Fd())) && term.IsTerminal(int(out.Fd()))
}
