// Package command is maascert as its users meet it: flags, configuration file, wiring, words, exit codes. It is a package
// of its own so that a program can be built with more in it, such as all of lego's DNS providers.
//
// The rules of its face: results go to standard output, everything else to standard error; an error is one line,
// "maascert: WHAT: WHY", and where there is something to do about it a second one, "hint: WHAT TO DO"; the exit code says
// the same as the words; nothing is asked but the first enabling of TLS, and that only on a terminal.
//
// Start reading at [Main]; each command is a file of its name, and wire.go makes the engine from a configuration.
//
// To add a command, write such a file, list it in root, and tell its story in testdata/script.
package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"maascert/certstore"
	"maascert/certstore/postgres"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/report"
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

const exitCodesInShort = "Exit codes: 0 as it should be, 1 needs attention, 2 usage or configuration, 3 not now, 130 interrupted."

// Main is the program.
func Main() {
	limitMemory()
	os.Exit(newApp().run(context.Background(), os.Args))
}

// The garbage collector works harder when the program takes more than usualMemory, in bytes. What it keeps is a
// few megabytes; what strangers send and it drops should not add up beside a MAAS.
const usualMemory = 48 << 20

func limitMemory() { debug.SetMemoryLimit(usualMemory) }

func newApp() *app {
	return &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, fsys: world.OS{}, programs: world.Exec{}, dial: new(net.Dialer).DialContext, database: openDatabase, types: maasconfig.KnownTypes(), chat: chatProgram(), now: time.Now, listening: world.Listeners}
}

// app is one run of the program.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	words          io.Writer // stdout, for people, as far as they want to read what is as it should be
	complaints     io.Writer // stderr, for people
	columns        int       // of a terminal that a test wants; 0: as it is
	fsys           world.FS
	programs       world.Runner
	dial           world.Dial
	database       func(postgres.Config) (certstore.Store, error)
	types          maasconfig.Types              // of targets
	reach          world.Dial                    // to whoever answers challenges; nil: the network
	observe        func(host string, status int) // requests to CAs; nil: nobody does
	chat           []string                      // the program that sends chat messages
	now            func() time.Time
	sleep          func(context.Context, time.Duration) error // between two requests to a CA about the same; nil: world.Sleep
	listening      func(port int) []world.Listening           // who takes connections on this host; nil: nobody knows
	log            *slog.Logger

	isQuiet   bool  // only what is wrong is to be printed
	isJSON    bool  // a document for machines is wanted
	isWritten bool  // a document for machines is on standard output
	complaint error // what was complained of first
}

// outcome ends a command that has said all it has to say: with an exit code.
type outcome int

func (o outcome) Error() string { return fmt.Sprintf("exit %d", int(o)) }

// run runs the command that the arguments name until it ends, is interrupted by a signal, or the context ends, which is the same.
func (a *app) run(ctx context.Context, args []string) int {
	// Whoever reads what is printed may go away; that ends nothing. A write that fails then is no reason to stop.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	a.words = newFace(a.stdout, cmp.Or(a.columns, columnsOf(a.stdout)), os.Getenv)
	a.complaints = newFace(a.stderr, cmp.Or(a.columns, columnsOf(a.stderr)), os.Getenv)
	root := a.root()
	root.SetArgs(args[1:])
	command, err := root, noCommand(root, args[1:])
	if err == nil {
		command, err = root.ExecuteContextC(ctx)
	}
	if command.Name() == monitorName {
		return a.monitored(err)
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	code := exitOK
	var end outcome
	switch {
	case err == nil:
	case errors.As(err, &end):
		code = int(end)
	default:
		a.complain(err)
		code = exitUsage
	}
	if code != exitOK && !a.isWritten && slices.ContainsFunc(args, isJSON) {
		// Whoever reads it is told by the exit code that there is nothing to read.
		_ = report.WriteJSON(a.stdout, report.NewFailed(a.complaint))
	}
	return code
}

func attentionUnless(healthy bool) error {
	if healthy {
		return nil
	}
	return outcome(exitAttention)
}

// complain writes an error and its hint.
func (a *app) complain(err error) {
	if a.complaint == nil {
		a.complaint = err
	}
	if config, ok := errors.AsType[*config.Errors](err); ok {
		for _, line := range config.Lines(true) {
			fmt.Fprintf(a.stderr, "maascert: config: %s\n", line) // which fits, with a mark below a column
		}
		fmt.Fprintln(a.complaints, "hint: nothing was tried; mend that, then: maascert config test")
		return
	}
	fmt.Fprintf(a.complaints, "maascert: %s\n", printable.Error(err))
	if h := hint.Of(err); h != "" {
		fmt.Fprintf(a.complaints, "hint: %s\n", printable.Text(h))
	}
}

// The groups in which the help lists commands.
const (
	looking = "looking"
	acting  = "acting"
	aside   = "aside"
)

// ownWords are those of the help instead of the library's.
var ownWords = strings.NewReplacer("Global Flags:", "Options of every command:", "Flags:", "Options:", "Available Commands:", "Commands:", "[command]", "COMMAND",
	"Additional help topics:", "More to read, with maascert help TOPIC:", "{{rpad .CommandPath .CommandPathPadding}}", "{{rpad .Name .NamePadding}}")

// Tree are all commands, for whoever writes about them.
func Tree() *cobra.Command { return newApp().root() }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "maascert [OPTION]... COMMAND", DisableFlagsInUseLine: true, Short: "keeps the TLS certificate of a MAAS deployment alive", SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs, ValidArgsFunction: cobra.NoFileCompletions, CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(command *cobra.Command, _ []string) error { return a.setUp(&call{command: command}) },
		RunE: func(command *cobra.Command, args []string) error {
			c := &call{Args: args, command: command}
			if c.isOn("version") {
				return a.printVersion()
			}
			return c.wrongCommand()
		},
	}
	root.Long = joinParagraphs("maascert "+root.Short+".", exitCodes)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetIn(a.stdin)
	root.SetFlagErrorFunc(wrongOption)
	root.SetUsageTemplate(ownWords.Replace(root.UsageTemplate()))
	everywhere := root.PersistentFlags()
	everywhere.String("config", cmp.Or(os.Getenv("MAASCERT_CONFIG"), "/etc/maascert/maascert.yaml"), "the configuration `FILE`")
	everywhere.String("log-format", "text", "`F` is text or json")
	everywhere.String("log-level", "", "`L` is debug, info, warn or error (default: error; run: info)")
	everywhere.BoolP("quiet", "q", false, "print only what is wrong")
	everywhere.BoolP("verbose", "v", false, "the same as --log-level info")
	root.Flags().Bool("version", false, "print what was built")
	for option, values := range map[string][]string{"log-format": {"text", "json"}, "log-level": {"debug", "info", "warn", "error"}} {
		// They are there: they were just added.
		_ = root.RegisterFlagCompletionFunc(option, a.completing(oneOf(values...)))
	}
	root.AddGroup(&cobra.Group{ID: looking, Title: "Commands that look and change nothing:"}, &cobra.Group{ID: acting, Title: "Commands that keep certificates alive:"},
		&cobra.Group{ID: aside, Title: "Further commands:"})
	root.SetHelpCommand(a.helpCommand())
	root.AddCommand(
		a.statusCommand(), a.verifyCommand(), a.checkCommand(), a.monitorCommand(), a.showCommand(), a.historyCommand(), a.configCommand(),
		a.renewCommand(), a.runCommand(), a.deployCommand(), a.rollbackCommand(), a.revokeCommand(), a.initCommand(), a.importCommand(), a.deleteCommand(),
		a.accountCommand(), a.notifyCommand(), a.storeCommand(), a.respondCommand(), a.completionCommand(), a.versionCommand(),
	)
	root.AddCommand(a.topics()...)
	return root
}

func (a *app) setUp(c *call) error {
	if c.isOn("quiet") {
		a.words, a.isQuiet = io.Discard, true
	}
	a.isJSON = c.command.Flag("json") != nil && c.isOn("json")
	asked := c.text("log-level")
	switch {
	case asked != "":
	case c.isOn("verbose"), c.name() == daemonName:
		asked = "info"
	default:
		asked = "error"
	}
	level := slog.LevelError
	if err := level.UnmarshalText([]byte(asked)); err != nil {
		return fmt.Errorf("--log-level: %q is none of debug, info, warn, error", asked)
	}
	options := &slog.HandlerOptions{Level: level}
	switch format := c.text("log-format"); format {
	case "text":
		a.log = slog.New(slog.NewTextHandler(a.stderr, options))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(a.stderr, options))
	default:
		return fmt.Errorf("--log-format: %q is none of text, json", format)
	}
	return nil
}

// invocation is systemd's ID of what it started, which this is a part of; empty: it is none.
func (a *app) invocation() string { return os.Getenv("INVOCATION_ID") }

// isJSON tells whether an argument asks for a document, wherever it stands and however else the arguments are wrong.
func isJSON(arg string) bool { return arg == "--json" || arg == "--json=true" }

// isTerminal tells whether a person sits at both ends.
func (a *app) isTerminal() bool {
	out, ok := a.stdout.(*os.File)
	return ok && a.stdin != nil && term.IsTerminal(int(a.stdin.Fd())) && term.IsTerminal(int(out.Fd()))
}
