package command

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/preflight"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/internal/setup"
	"maascert/internal/world"
	"maascert/maasconfig"
)

func (a *app) initCommand() *cobra.Command {
	return a.command(spec{
		name: "init", group: acting,
		short: "looks at this region host, asks what it cannot see, and writes a commented configuration",
		long: "Every question has an option, and what an option says is not asked. With --yes nothing is asked: what is proposed is taken, and what\n" +
			"nobody can propose (the CA, whom to trust, its terms) has to be said by options.",
		options: []option{
			textOption("directory", "", "`URL` of the CA's ACME directory; or letsencrypt, letsencrypt-staging"),
			textOption("root", "", "PEM `FILE` with the root of the CA, where the system does not trust it"),
			textOption("root-fingerprint", "", "`SHA256` of the CA's root certificate, which is fetched from the CA (step-ca, Caddy) then"),
			textOption("issuer-root", "", "PEM `FILE` with the root of what the CA issues, where it is another one"),
			switchOption("accept-terms", "agree to the CA's terms of service"),
			textOption("email", "", "`ADDRESS` that the CA may write to"),
			textOption("profile", "", "`NAME` of the CA's certificate profile"),
			textOption("eab-key-id", "", "`ID` of the external account, where the CA wants accounts to be bound"),
			textOption("eab-hmac", "", "a `REFERENCE` to its key: file:PATH"),
			listOption("name", "`NAME` or address that the certificate is for (may be repeated); default: what leads to this MAAS"),
			a.completed("key-type", textOption("key-type", string(certstore.RSA3072), "the `TYPE` of the key"), oneOf(keyTypes()...)),
			a.completed("challenge", textOption("challenge", "", "the `TYPE` of proof: http-01, tls-alpn-01, or dns-01 by MAAS's own DNS"), oneOf("http-01", "tls-alpn-01", "dns-01")),
			textOption("webroot", "", "`DIR` of a web server on port 80 in which answers to http-01 are put"),
			listOption("endpoint", "`ADDRESS` of a region (may be repeated); default: the regions that run now"),
			textOption("api-user", "", "make an API key of the MAAS administrator `USER`, so that MAAS tells which regions there are"),
			textOption("haproxy", "", "PEM `FILE` from which an HAProxy on this host is to serve the certificate too"),
			textOption("haproxy-endpoint", "", "`HOST:PORT` at which that HAProxy is asked; default: as its configuration says"),
			switchOption("force", "replace the configuration file; what is replaced stays beside it, with .old at its end"),
			switchOption("rehearse", "rehearse the first renewal at the end; changes nothing"),
			switchOption("yes", "ask nothing"),
		},
		action: a.initialize,
	})
}

func keyTypes() []string {
	return []string{string(certstore.RSA2048), string(certstore.RSA3072), string(certstore.RSA4096), string(certstore.EC256), string(certstore.EC384)}
}

// usageError says that an option is missing or wrong.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func (a *app) initialize(c *call) error {
	file, err := a.configFile(c)
	if err != nil {
		return err
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	i := &interview{app: a, c: c, file: file, folder: filepath.Dir(file), roots: map[string][]byte{}}
	if _, err := a.fsys.Stat(file); err == nil && !c.isOn("force") {
		return hint.Add(fmt.Errorf("init: %s is there already", file), "maascert check looks at it; init --force writes another, and keeps this one beside it")
	}
	for _, path := range []string{i.folder, file} {
		if err := world.Replaceable(path, os.Geteuid()); err != nil {
			return hint.Add(fmt.Errorf("init: a configuration there would not be safe: %w", err), "have it in a folder that only root may write, such as /etc/maascert")
		}
	}
	switch {
	case c.isOn("yes"):
	case !a.isTerminal():
		return hint.Add(errors.New("init: there is no terminal to ask at"), "maascert init --yes asks nothing; maascert init --help lists what can be said by options")
	default:
		i.ask = newForm(a.stdin, a.stdout)
	}
	err = i.run()
	var end outcome
	var usage usageError
	switch {
	case errors.As(err, &end):
		return end
	case errors.As(err, &usage):
		return fmt.Errorf("init: %w", err)
	case errors.Is(err, errEnded):
		a.complain(errors.New("init: ended; nothing was written"))
		return outcome(exitInterrupted)
	case err != nil:
		a.complain(fmt.Errorf("init: %w", err))
		return outcome(exitAttention)
	}
	return nil
}

func (i *interview) run() error {
	if err := i.look(); err != nil {
		return err
	}
	for _, step := range []func() error{i.findCA, i.findTrust, i.meetCA, i.findAPI, i.findNames, i.findChallenge, i.findEndpoints, i.findProxy} {
		if err := step(); err != nil {
			return err
		}
	}
	conf, err := i.write()
	if err != nil {
		return err
	}
	return i.prove(conf)
}

// look finds out what is so here, and tells it.
func (i *interview) look() error {
	here := maasconfig.InstallationConfig{StateDir: config.UsualStateDir, FS: i.fsys, Runner: i.runner()}
	found, err := maasconfig.Detect(i.c.Context, here)
	if err != nil {
		return err
	}
	host := preflight.Host{Files: i.fsys, Runner: here.Runner, Dial: i.dial, Listening: i.listening, Now: i.now, UID: os.Geteuid(), MAAS: found}
	i.facts = setup.Look(i.c.Context, host, here)
	for _, line := range i.facts.Words() {
		fmt.Fprintln(i.words, line)
	}
	return nil
}

// write shows the configuration, and writes it with the files that it names.
func (i *interview) write() (*config.Config, error) {
	text, err := i.answers.YAML(i.now())
	if err != nil {
		return nil, err
	}
	if err := config.CheckAlone(i.file, []byte(text), i.types); err != nil {
		return nil, usageError{fmt.Errorf("what was said makes no configuration: %s", printable.Phrase(err.Error()))}
	}
	if i.ask != nil {
		fmt.Fprintf(i.words, "\n%s\n", text)
		isRight := true
		if err := i.ask.agree(i.c.Context, "Write that to "+i.file+"?", "", &isRight); err != nil {
			return nil, err
		}
		if !isRight {
			return nil, errors.New("nothing was written")
		}
	}
	before, _ := i.fsys.ReadFile(i.file) // where there was one
	undo, err := i.writeBeside()
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	conf, err := i.putConfig(i.file, text, i.c.isOn("force"))
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	fmt.Fprintf(i.words, "wrote %s\n", i.file)
	if lost := config.Sections(before, []byte(text)); len(lost) > 0 {
		i.warnAll([]error{fmt.Errorf("not taken over from the configuration before: %s", strings.Join(lost, ", "))})
	}
	return conf, nil
}

// writeBeside writes the files that the configuration names: the API key, which MAAS makes now, and roots. undo puts back what was there; the key
// stays in MAAS.
func (i *interview) writeBeside() (undo func() error, err error) {
	var undone []func() error
	undo = func() error {
		var failures []error
		for _, one := range slices.Backward(undone) {
			failures = append(failures, one())
		}
		return errors.Join(failures...)
	}
	if err := i.fsys.MkdirAll(i.folder, 0o755); err != nil {
		return undo, err
	}
	put := func(path string, text []byte, mode fs.FileMode) error {
		back, err := i.replace(path, text, mode)
		undone = append(undone, back)
		return err
	}
	if i.apiUser != "" {
		key, err := maasconfig.MakeAPIKey(i.c.Context, i.runner(), i.facts.MAAS, i.apiUser)
		if err != nil {
			return undo, err
		}
		path := i.answers.APIKey.File(i.folder)
		if err := put(path, []byte(key+"\n"), 0o600); err != nil {
			return undo, err
		}
		fmt.Fprintf(i.words, "made an API key of %s, called maascert in MAAS: %s\n", printable.Phrase(i.apiUser), path)
	}
	for path, text := range i.roots {
		if err := put(path, text, 0o644); err != nil {
			return undo, err
		}
	}
	return undo, nil
}

// replace writes a file. What was there before, and was another, stays beside it. back puts it back.
func (a *app) replace(path string, text []byte, mode fs.FileMode) (back func() error, err error) {
	back = func() error { return nil }
	before, err := a.fsys.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		back = func() error { return a.fsys.Remove(path) }
	case err != nil:
		return back, err
	case bytes.Equal(before, text):
		return back, nil
	default:
		if err := a.keep(path, before, mode); err != nil {
			return back, err
		}
		back = func() error { return a.fsys.Replace(path, before, mode) }
	}
	if err := a.fsys.Replace(path, text, mode); err != nil {
		return func() error { return nil }, err
	}
	return back, nil
}

// mostKept bounds how many files are kept that were replaced by others.
const mostKept = 100

// keep writes what was in a file beside it, as FILE.old, or FILE.old2 where there is one, and so on.
func (a *app) keep(path string, text []byte, mode fs.FileMode) error {
	for n := 1; n <= mostKept; n++ {
		kept := path + ".old"
		if n > 1 {
			kept += strconv.Itoa(n)
		}
		if err := a.fsys.Create(kept, text, mode); !errors.Is(err, fs.ErrExist) {
			if err == nil {
				fmt.Fprintf(a.words, "what was in %s is in %s\n", path, kept)
			}
			return err
		}
	}
	return fmt.Errorf("%s.old, %[1]s.old2 and so on are all there", path)
}

// prove looks whether it would work, rehearses where that is wanted, and says what is left.
func (i *interview) prove(conf *config.Config) error {
	p := i.assemble(conf)
	defer p.close()
	doc := report.NewChecklist(conf.Node, checks(i.c.Context, p, func(string) bool { return true }))
	fmt.Fprintln(i.words)
	shown := i.show(doc, false, doc.OK)
	rehearses := i.c.isOn("rehearse")
	if i.ask != nil && !rehearses {
		rehearses = doc.OK
		if err := i.ask.agree(i.c.Context, "Rehearse the first renewal?", "The CA proves every name; nothing is changed.", &rehearses); err != nil {
			i.printLeft(doc)
			i.complain(fmt.Errorf("init: ended; %s is written, and was not rehearsed", i.file))
			return outcome(exitInterrupted)
		}
	}
	if rehearses {
		options := lifecycle.Options{ByHand: true, Accept: maasconfig.Accept{maasconfig.FirstEnable: true}}
		if rehearsed := i.rehearse(i.c.Context, p, options, false); rehearsed != nil {
			shown = rehearsed // which says more than the checks before it
		}
	}
	i.printLeft(doc)
	return shown
}

// units are where systemd would find ours.
var units = []string{"/etc/systemd/system/maascert.service", "/usr/lib/systemd/system/maascert.service", "/lib/systemd/system/maascert.service"}

// printLeft says what a person has to do yet, in the order in which it has to be done.
func (i *interview) printLeft(doc report.Checklist) {
	fmt.Fprintln(i.words, "\nwhat is left:")
	program := "maascert"
	if i.c.isSaid("config") {
		program += " --config " + world.Quoted(i.file)
	}
	if !doc.OK {
		fmt.Fprintf(i.words, "  %s check   # once what failed above is mended\n", program)
	}
	for _, item := range doc.Checks {
		if item.Code == "reachable" && item.State == report.CheckWarn {
			fmt.Fprintf(i.words, "  maascert respond --thumbprint T   # on the host that %s leads to; %s account show prints T\n", item.Evidence, program)
		}
	}
	renew := program + " renew"
	if i.facts.Juju != "" {
		renew += " --accept juju"
	}
	if i.facts.TLSKnown && i.facts.TLSPort == 0 {
		renew += " --enable-tls   # browsers remember for up to two years that this MAAS is to be reached by HTTPS only"
	} else if !i.facts.TLSKnown {
		renew += "   # with --enable-tls where MAAS serves no TLS yet"
	}
	fmt.Fprintf(i.words, "  %s\n  systemctl enable --now maascert", renew)
	if !slices.ContainsFunc(units, func(path string) bool { _, err := i.fsys.Stat(path); return err == nil }) {
		fmt.Fprint(i.words, "   # there is no such unit here yet: it comes with maascert, and goes to "+units[0])
		if i.facts.MAAS.Kind == "deb" {
			fmt.Fprint(i.words, ", with maascert.service.d beside it")
		}
	}
	fmt.Fprintln(i.words)
	if i.c.isSaid("config") {
		fmt.Fprintf(i.words, "  systemctl edit maascert   # before that: ExecStart= and then ExecStart=… %s run, for the daemon reads another file as a rule\n", program)
	}
	for _, one := range i.facts.Managers {
		fmt.Fprintf(i.words, "  %s   # %s gives MAAS a certificate as well\n", printable.Text(one.Off), one.Client)
	}
}

// putConfig writes a configuration file and reads it. One that would not be right is printed instead. Where it may be replaced, the one before stays
// beside it.
func (a *app) putConfig(file, text string, mayReplace bool) (*config.Config, error) {
	if err := a.fsys.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	tried := fmt.Sprintf("%s.%s", file, rand.Text())
	if err := a.fsys.Create(tried, []byte(text), 0o640); err != nil {
		return nil, err
	}
	if _, err := config.Load(tried, a.types); err != nil {
		fmt.Fprint(a.words, text)
		why := fmt.Errorf("this is not right yet, and was not written to %s: %s", file, printable.Phrase(strings.ReplaceAll(err.Error(), tried, file)))
		return nil, errors.Join(why, a.fsys.Remove(tried))
	}
	before, err := a.fsys.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil && mayReplace:
		err = a.keep(file, before, 0o640)
	case err == nil:
		err = fmt.Errorf("%s is there meanwhile", file)
	}
	if err == nil {
		err = a.fsys.Rename(tried, file)
	}
	if err != nil {
		return nil, errors.Join(err, a.fsys.Remove(tried))
	}
	return config.Load(file, a.types)
}
