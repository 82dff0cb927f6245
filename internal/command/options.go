package command

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/similar"
)

// The help lists commands in the order in which they are added.
func init() { cobra.EnableCommandSorting = false }

// spec is a command as its help shows it.
type spec struct {
	name     string
	args     string // what it takes beside options, as the usage line shows it; empty: nothing
	short    string // what it does, in a line
	long     string // what else is to be known, for its own help
	group    string // of commands among which the help lists it
	hidden   bool
	options  []option
	values   func(c *call) []string // what the first of args may be, for completion; nil: files
	action   func(c *call) error    // nil: it is there for its commands
	commands []*cobra.Command
}

// call is a command as somebody typed it.
type call struct {
	Context context.Context
	Args    []string // beside options
	command *cobra.Command
}

// name is the command's, "account show" for example.
func (c *call) name() string { return nameOf(c.command) }

func nameOf(command *cobra.Command) string {
	return strings.TrimPrefix(strings.TrimPrefix(command.CommandPath(), command.Root().Name()), " ")
}

// arg is the first argument; empty: there is none.
func (c *call) arg() string {
	if len(c.Args) == 0 {
		return ""
	}
	return c.Args[0]
}

func (c *call) text(option string) string { return c.command.Flag(option).Value.String() }
func (c *call) isOn(option string) bool   { return c.text(option) == "true" }
func (c *call) isSaid(option string) bool { return c.command.Flag(option).Changed }
func (c *call) duration(option string) time.Duration {
	return time.Duration(*value[*duration](c, option))
}
func (c *call) number(option string) int    { return int(*value[*number](c, option)) }
func (c *call) list(option string) []string { return value[pflag.SliceValue](c, option).GetSlice() }

func value[T any](c *call, option string) T { return c.command.Flag(option).Value.(T) }

// option adds an option to a command. What is in back quotes in its usage stands for the value.
type option func(command *cobra.Command)

func textOption(name, usual, usage string) option {
	return func(command *cobra.Command) { command.Flags().String(name, usual, usage) }
}

func switchOption(name, usage string) option {
	return func(command *cobra.Command) { command.Flags().Bool(name, false, usage) }
}

func listOption(name, usage string) option {
	return func(command *cobra.Command) { command.Flags().StringSlice(name, nil, usage) }
}

func durationOption(name string, usual time.Duration, usage string) option {
	return func(command *cobra.Command) {
		d := duration(usual)
		command.Flags().Var(&d, name, usage)
	}
}

func numberOption(name, usage string) option {
	return func(command *cobra.Command) { command.Flags().Var(new(number), name, usage) }
}

// completed has a shell complete an option's value.
func (a *app) completed(name string, add option, values func(c *call) []string) option {
	return func(command *cobra.Command) {
		add(command)
		// It is there: it was just added.
		_ = command.RegisterFlagCompletionFunc(name, a.completing(values))
	}
}

func (a *app) completing(values func(c *call) []string) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if values == nil {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx, cancel := context.WithTimeout(context.Background(), completionTime)
		defer cancel()
		return values(&call{Context: ctx, Args: args, command: command}), cobra.ShellCompDirectiveNoFileComp
	}
}

// completionTime bounds finding out what may come next: somebody waits at a keyboard.
const completionTime = 2 * time.Second

// oneOf completes a value that is one of a few.
func oneOf(values ...string) func(*call) []string {
	return func(*call) []string { return values }
}

func jsonOption() option { return switchOption("json", "print a JSON document") }

func (a *app) certOption(usage string) option {
	return a.completed("cert", textOption("cert", "", usage), a.certificateNames)
}

// chosen are the certificates that a command is for: those that --cert names, or all.
func chosen(c *call, config *config.Config) (isChosen func(cert string) bool, err error) {
	names := c.list("cert")
	for _, name := range names {
		if config.Certificate(name).Name == "" {
			return nil, hint.Add(fmt.Errorf("--cert: there is no certificate %q", name), "the configuration has: %s", certificateList(config))
		}
	}
	return func(cert string) bool { return len(names) == 0 || slices.Contains(names, cert) }, nil
}

// assembleChosen puts together the parts of a command that is for the certificates which --cert names. Whoever gets them closes them.
func (a *app) assembleChosen(c *call) (p *assembly, isChosen func(cert string) bool, err error) {
	config, err := a.config(c)
	if err != nil {
		return nil, nil, err
	}
	if isChosen, err = chosen(c, config); err != nil {
		return nil, nil, err
	}
	return a.assemble(config), isChosen, nil
}

func (a *app) certsOption() option {
	return a.completed("cert", listOption("cert", "only the certificate called `NAME` (may be repeated)"), a.certificateNames)
}

func (a *app) acceptOption(codes ...string) option {
	return a.completed("accept", listOption("accept", "override the guard called `CODE`: "+strings.Join(codes, ", ")+" (may be repeated)"), oneOf(codes...))
}

func waitOption() option {
	return durationOption("wait", 0, "wait as long as `D` for another run's lock")
}

func enableOption() option {
	return switchOption("enable-tls", "allow the first enabling of TLS, which browsers do not forget (the same as --accept first-enable)")
}

// duration is the value of an option that takes one.
type duration time.Duration

func (d *duration) Type() string { return "duration" }

func (d *duration) String() string {
	if *d == 0 {
		return "" // the help says nothing of it
	}
	return time.Duration(*d).String()
}

func (d *duration) Set(text string) error {
	parsed, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return fmt.Errorf("%q is no duration; write 30s, 5m or 12h", text)
	case parsed < 0:
		return errors.New("a duration cannot be negative")
	}
	*d = duration(parsed)
	return nil
}

// number is the value of an option that takes one.
type number int

func (n *number) Type() string { return "number" }

func (n *number) String() string { return strconv.Itoa(int(*n)) }

func (n *number) Set(text string) error {
	parsed, err := strconv.ParseUint(text, 10, 31)
	if err != nil || parsed == 0 {
		return fmt.Errorf("%q is no number; write 1 or more", text)
	}
	*n = number(parsed)
	return nil
}

// command makes a command of its spec.
func (a *app) command(s spec) *cobra.Command {
	command := &cobra.Command{
		Use: strings.TrimSpace(s.name + " [OPTION]... " + s.args), DisableFlagsInUseLine: true, Short: s.short, Long: joinParagraphs(s.short, s.long, exitCodesOf(s.name)), Hidden: s.hidden, GroupID: s.group,
		Args: cobra.ArbitraryArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, args []string) error {
			c := &call{Context: command.Context(), Args: args, command: command}
			switch {
			case s.action == nil:
				return c.wrongCommand()
			case s.args == "" && len(args) > 0:
				return hint.Add(fmt.Errorf("%s takes no argument %q", c.name(), args[0]), "maascert %s --help", c.name())
			case s.name == daemonName:
				return s.action(c)
			}
			return untilHangUp(c, s.action)
		},
	}
	if s.args != "" {
		command.ValidArgsFunction = a.completing(s.values)
	}
	for _, add := range s.options {
		add(command)
	}
	command.AddCommand(s.commands...)
	return command
}

// wrongCommand says that a command which is there for its commands was called without one, or with one that is none of them.
func (c *call) wrongCommand() error {
	var names []string
	for _, one := range c.command.Commands() {
		if one.IsAvailableCommand() && one.Name() != "help" {
			names = append(names, one.Name())
		}
	}
	at := strings.TrimSpace("maascert " + c.name())
	if len(c.Args) == 0 {
		return hint.Add(errors.New(strings.TrimSpace(c.name()+" no command is given")), "the commands are: %s; %s --help says more", strings.Join(names, ", "), at)
	}
	err := fmt.Errorf("there is no command %q", strings.TrimSpace(c.name()+" "+c.Args[0]))
	return hint.Add(err, "%s%s --help lists the commands", meant(c.Args[0], names), at)
}

// meant is what somebody may have meant who typed a word that is none of some.
func meant(word string, words []string) string {
	found := similar.To(word, words)
	if len(found) == 0 {
		return ""
	}
	return fmt.Sprintf("did you mean %s? ", strings.Join(found, " or "))
}

// wrongOption says what is wrong with an option, in our own words.
func wrongOption(command *cobra.Command, err error) error {
	name := nameOf(command)
	help := strings.TrimSpace("maascert "+name) + " --help lists the options"
	var unknown *pflag.NotExistError
	var lonely *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		typed := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			return hint.Add(fmt.Errorf("there is no option -%s", typed), "%s", help)
		}
		var names []string
		command.Flags().VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
		slices.Sort(names)
		words := meant(typed, names)
		if words != "" {
			words = strings.ReplaceAll(strings.Replace(words, "mean ", "mean --", 1), " or ", " or --")
		}
		return hint.Add(fmt.Errorf("there is no option --%s", typed), "%s%s", words, help)
	case errors.As(err, &lonely):
		return hint.Add(fmt.Errorf("--%s: a value is missing", lonely.GetFlag().Name), "%s", help)
	case errors.As(err, &invalid):
		cause := errors.Unwrap(invalid)
		if invalid.GetFlag().Value.Type() == "bool" {
			cause = errors.New("it takes no value")
		}
		return hint.Add(fmt.Errorf("--%s: %w", invalid.GetFlag().Name, cause), "%s", help)
	default:
		return hint.Add(err, "%s", help)
	}
}

// exitCodesOf says what a command ends with; monitoring systems have codes of their own.
func exitCodesOf(name string) string {
	if name == monitorName {
		return ""
	}
	return exitCodesInShort
}

func joinParagraphs(paragraphs ...string) string {
	return strings.Join(slices.DeleteFunc(paragraphs, func(p string) bool { return p == "" }), "\n\n")
}

// untilHangUp ends a command whose terminal is gone as SIGTERM would, so that it leaves nothing behind. Whoever started it
// under nohup does not want that.
func untilHangUp(c *call, action func(*call) error) error {
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

// certificateNames completes the name of a certificate that the configuration has.
func (a *app) certificateNames(c *call) []string {
	config, err := a.config(c)
	if err != nil {
		return nil
	}
	var names []string
	for _, cert := range config.Certificates {
		names = append(names, cert.Name)
	}
	return names
}
