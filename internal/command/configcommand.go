package command

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"maascert/internal/config"
	"maascert/internal/hint"
)

func (a *app) configCommand() *cobra.Command {
	return a.command(spec{name: "config", group: looking, short: "the configuration file: is it right, and what is in force", commands: []*cobra.Command{
		a.command(spec{
			name: "test", short: "checks the file alone, offline: no file that it names is read, nobody is asked", action: a.configTest,
			long: "For tests and for whatever writes the file, such as Ansible: validate: maascert config test --config %s",
		}),
		a.command(spec{
			name: "show", short: "the values in force, with their defaults, offline; secrets are references", action: a.configShow,
		}),
	}})
}

func (a *app) configTest(c *call) error {
	config, err := a.configAlone(c)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.words, "%s is right: %s\n", c.text("config"), certificateList(config))
	return nil
}

func (a *app) configShow(c *call) error {
	config, err := a.configAlone(c)
	if err != nil {
		return err
	}
	text, err := config.Effective()
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	_, err = a.stdout.Write(text)
	return err
}

// configAlone loads the configuration that the options name, and nothing that it refers to.
func (a *app) configAlone(c *call) (*config.Config, error) {
	file, err := a.configFile(c)
	if err != nil {
		return nil, err
	}
	config, err := config.LoadAlone(file, a.types)
	if err != nil {
		return nil, notLoaded(err)
	}
	return config, nil
}

// configFile is the configuration file that the options name.
func (a *app) configFile(c *call) (string, error) {
	file := c.text("config")
	if file == "" {
		return "", hint.Add(errors.New("--config: no file is named"), "maascert --config FILE %s", c.name())
	}
	return file, nil
}

// notLoaded is why a configuration could not be loaded.
func notLoaded(err error) error {
	err = fmt.Errorf("config: %w", err)
	if errors.Is(err, os.ErrNotExist) {
		return hint.Add(err, "write one (the README shows how), or name it: maascert --config FILE")
	}
	return err
}

// config loads the configuration that the options name.
func (a *app) config(c *call) (*config.Config, error) {
	file, err := a.configFile(c)
	if err != nil {
		return nil, err
	}
	config, err := config.Load(file, a.types)
	if err != nil {
		return nil, notLoaded(err)
	}
	if err := doubt(file); err != nil && c.name() != daemonName {
		a.warnAll([]error{err})
	}
	return config, nil
}

func certificateList(config *config.Config) string {
	var names []string
	for _, cert := range config.Certificates {
		names = append(names, cert.Name)
	}
	return strings.Join(names, ", ")
}
