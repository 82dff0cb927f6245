package lineage

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"maascert/internal/printable"
	"maascert/internal/world"
)

// schedules are where what runs by itself is written down, by root alone: the folders of cron and systemd, and tables of cron's.
var schedules = []string{
	"/etc/crontab", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly", "/var/spool/cron/crontabs/root",
	"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
}

// Timers are the lines of this host's crontabs and systemd units that run a client, as hooks: the file and the line, or what switches a
// timer off that is on; twenty at most. A file that cannot be read is passed over.
func Timers(files FS, client string) []Hook {
	var found []Hook
	for _, one := range scheduled(files, func(line string) bool { return runs(line, client) }) {
		found = append(found, Hook{one.file, printable.Line(one.line, mostValue)})
		if one.timer != "" {
			found = append(found, Hook{one.timer, disables(one.timer)})
		}
	}
	return found[:min(len(found), mostListed)]
}

// schedule is a line of something that runs by itself.
type schedule struct {
	file, line string
	number     int    // of the line, 1 for the first
	timer      string // the unit that starts it; empty: cron does
}

// manager is a schedule that gives MAAS a certificate.
func (s schedule) manager() Manager {
	switch folder := filepath.Base(filepath.Dir(s.file)); {
	case s.timer != "":
		return Manager{"systemd", s.timer, disables(s.timer)}
	case strings.HasPrefix(folder, "cron.") && folder != "cron.d":
		return Manager{"cron", s.file, "chmod a-x " + world.Quoted(s.file) + " # if it does nothing else"}
	}
	return Manager{"cron", s.file, fmt.Sprintf("sed -i '%ds/^/#/' %s", s.number, world.Quoted(s.file))}
}

func disables(timer string) string {
	return "systemctl disable --now " + world.Quoted(filepath.Base(timer))
}

// scheduled are the lines of all schedules that are meant.
func scheduled(files FS, isMeant func(line string) bool) (found []schedule) {
	on := enabledTimers(files)
	for _, at := range schedules {
		names, err := entries(files, at)
		if err != nil || names == nil { // a file
			found = append(found, scheduledIn(files, at, on, isMeant)...)
			continue
		}
		for _, name := range names {
			found = append(found, scheduledIn(files, filepath.Join(at, name), on, isMeant)...)
		}
	}
	return found
}

// enabledTimers are those that a target wants, by name: systemctl enable links them there.
func enabledTimers(files FS) []string {
	var on []string
	for _, folder := range schedules {
		if filepath.Base(folder) != "system" {
			continue
		}
		for _, wants := range entriesAt(files, folder) {
			if filepath.Ext(wants) == ".wants" {
				for _, unit := range entriesAt(files, wants) {
					on = append(on, filepath.Base(unit))
				}
			}
		}
	}
	return on
}

func scheduledIn(files FS, file string, on []string, isMeant func(line string) bool) (found []schedule) {
	isUnit := filepath.Ext(file) == ".service"
	if filepath.Ext(file) != "" && !isUnit {
		return nil // cron takes no file with a dot in its name, and systemd runs nothing else
	}
	timer := ""
	if isUnit {
		timer = strings.TrimSuffix(file, ".service") + ".timer"
		if _, err := files.Stat(timer); err != nil || !slices.Contains(on, filepath.Base(timer)) {
			return nil // what no timer starts, or one that is off, does not run by itself
		}
	}
	if folder := filepath.Base(filepath.Dir(file)); strings.HasPrefix(folder, "cron.") && folder != "cron.d" && !isProgram(files, file) {
		return nil
	}
	text, err := files.ReadFile(file)
	if err != nil {
		return nil
	}
	number, whole := 0, ""
	for line := range strings.Lines(string(text)) {
		number++
		line = whole + strings.TrimSpace(line)
		if before, goesOn := strings.CutSuffix(line, "\\"); goesOn && len(whole) < mostValue { // with the next line
			whole = before + " "
			continue
		}
		whole = ""
		if !strings.HasPrefix(line, "#") && (!isUnit || strings.HasPrefix(line, "ExecStart")) && isMeant(line) {
			found = append(found, schedule{file, line, number, timer})
		}
	}
	return found
}

func isProgram(files FS, file string) bool {
	info, err := files.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&fs.FileMode(0o111) != 0
}

// words are those of a line, as far as a shell would part them.
func words(line string) []string {
	return strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\"';&|()=", r) })
}

// runs tells whether a line names a program by one of its words, with or without its folder.
func runs(line, program string) bool {
	return slices.ContainsFunc(words(line), func(word string) bool {
		name := filepath.Base(word)
		return name == program || name == program+".renew" // as the snap calls it
	})
}
