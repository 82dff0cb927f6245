package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/world"
)

// Whoever may write the configuration, a program that it names, a secret, the store or the stage may do with it what root
// may. So the daemon, which nobody watches, takes none of them from anybody but root and itself, as sshd does.

// mayRun refuses what somebody else could replace.
func (a *app) mayRun(path string, config *config.Config) error {
	for _, one := range entrusted(path, config, a.programs) {
		err := world.Replaceable(one.path, os.Geteuid())
		if errors.Is(err, fs.ErrPermission) {
			return hint.Add(fmt.Errorf("run: %s cannot be looked at: %w", one.what, err), "run maascert as the user that the store belongs to (root)")
		}
		if err != nil {
			return hint.Add(fmt.Errorf("run: %s is not safe: %w", one.what, err),
				"only root may be able to write it and the folders above it: chown root, chmod go-w")
		}
	}
	return nil
}

// doubt explains why somebody else than the person at the keyboard could have written the configuration; nil when nobody
// could. A person who works as root with a file of his own is told, and not kept from it.
func doubt(path string) error {
	err := world.Replaceable(path, os.Geteuid())
	if err == nil {
		return nil
	}
	if isOfWhoeverBecameRoot(path) {
		return hint.Add(fmt.Errorf("config: %s is yours, not root's; the daemon will not take it", path), "chown root %s", path)
	}
	return nil
}

// isOfWhoeverBecameRoot tells whether nobody could replace a path but root and the person who is root by sudo.
func isOfWhoeverBecameRoot(path string) bool {
	sudo, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	return err == nil && world.Replaceable(path, sudo) == nil
}

// mayImport refuses what somebody else than root and the person at the keyboard could have put there: the account would be his.
func mayImport(path string) error {
	if err := world.Replaceable(path, os.Geteuid()); err != nil && !isOfWhoeverBecameRoot(path) {
		return hint.Add(fmt.Errorf("%s is not safe: %w", path, err), "copy the client's folder to one that only root may write, and import from there")
	}
	return nil
}

type trusted struct{ what, path string }

// entrusted is all that has to be safe, with what it is.
func entrusted(path string, config *config.Config, programs world.Runner) []trusted {
	all := []trusted{{"the configuration", path}, {"state_dir", config.StateDir}}
	add := func(what, path string) {
		if path != "" {
			all = append(all, trusted{what, path})
		}
	}
	add("the store", config.Store.Path)
	add("maas.stage_dir", config.MAAS.StageDir)
	program := func(what, name string) {
		if found, err := programs.LookPath(name); name != "" && err == nil {
			add(what, found)
		}
	}
	program("maas.command", config.MAAS.Command)
	for name, target := range config.Targets {
		for _, one := range target.Entrusted() {
			if filepath.IsAbs(one) {
				add("what targets."+name+" names", one)
			} else {
				program("what targets."+name+" runs", one)
			}
		}
	}
	for _, one := range config.Notify {
		for _, name := range one.Entrusted() {
			program("what notify runs", name)
		}
	}
	for _, issuer := range config.Issuers {
		add("a root certificate", issuer.Root)
		add("a root certificate", issuer.IssuerRoot)
		add("a root certificate", issuer.DryRun.Root)
		for _, way := range issuer.Ways() {
			for _, hook := range [][]string{way.Before, way.After} {
				for i, word := range hook {
					if i == 0 && !filepath.IsAbs(word) {
						program("what a challenge runs", word)
					} else if filepath.IsAbs(word) {
						add("what a challenge runs", word)
					}
				}
			}
			program("EXEC_PATH", way.DNS.Settings["EXEC_PATH"])
			for name, value := range way.DNS.Settings {
				if filepath.IsAbs(value) {
					add(name, value)
				}
			}
		}
	}
	for _, file := range config.SecretFiles() {
		add("a secret", file)
	}
	return all
}
