package lineage

import (
	"path/filepath"
	"strings"

	"maascert/internal/printable"
)

// schedules are where what runs by itself is written down, by root alone: the folders of cron and systemd, and tables of cron's.
var schedules = []string{
	"/etc/crontab", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly", "/var/spool/cron/crontabs/root",
	"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
}

// Timers are the lines of this host's crontabs and systemd units that run a client, as hooks: the file and the line; twenty at most. A
// file that cannot be read is passed over. root is the folder that the host is in, / as a rule.
func Timers(files FS, root, client string) []Hook {
	var found []Hook
	for _, schedule := range schedules {
		at := filepath.Join(root, schedule)
		names, err := entries(files, at)
		if err != nil || names == nil { // a file
			found = append(found, timersIn(files, at, client)...)
			continue
		}
		for _, name := range names {
			found = append(found, timersIn(files, filepath.Join(at, name), client)...)
		}
	}
	return found[:min(len(found), mostListed)]
}

func timersIn(files FS, file, client string) []Hook {
	isUnit := filepath.Ext(file) == ".service"
	if filepath.Ext(file) != "" && !isUnit {
		return nil // cron takes no file with a dot in its name, and systemd runs nothing else
	}
	text, err := files.ReadFile(file)
	if err != nil {
		return nil
	}
	var found []Hook
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || isUnit && !strings.HasPrefix(line, "ExecStart") || !runs(line, client) {
			continue
		}
		found = append(found, Hook{file, printable.Line(line, mostValue)})
		timer := strings.TrimSuffix(file, ".service") + ".timer"
		if _, err := files.Stat(timer); isUnit && err == nil {
			found = append(found, Hook{timer, "systemctl disable --now " + filepath.Base(timer)})
		}
	}
	return found
}

// runs tells whether a line names a program by one of its words, with or without its folder.
func runs(line, program string) bool {
	for _, word := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\"';&|()=", r) }) {
		if name := filepath.Base(word); name == program || name == program+".renew" { // as the snap calls it
			return true
		}
	}
	return false
}
