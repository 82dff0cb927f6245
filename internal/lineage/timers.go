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

// crontabs are where cron's lines and programs are written down, by root alone.
var crontabs = []string{
	"/etc/crontab", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly", "/var/spool/cron/crontabs/root",
}

// unitFolders are where systemd's units are, those that count before others first.
var unitFolders = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"}

// Timers are the lines of this host's crontabs and systemd units that run a client, as hooks: the file and the line, or what switches a
// timer off that is on; twenty at most. A file that cannot be read is passed over.
func Timers(files FS, client string) []Hook {
	var found []Hook
	for _, one := range scheduled(files, func(line string) bool { return runs(line, client) }) {
		found = append(found, Hook{one.file, printable.Line(one.line, mostValue)})
		if one.unit != "" {
			found = append(found, Hook{one.unit, disables(one.unit)})
		}
	}
	return found[:min(len(found), mostListed)]
}

// schedule is a line of something that runs by itself.
type schedule struct {
	file, line string
	number     int    // of the line, 1 for the first
	unit       string // of systemd that is enabled and starts it; empty: cron does
}

// manager is a schedule that gives MAAS a certificate.
func (s schedule) manager() Manager {
	switch folder := filepath.Base(filepath.Dir(s.file)); {
	case s.unit != "":
		return Manager{"systemd", s.file, disables(s.unit)}
	case strings.HasPrefix(folder, "cron.") && folder != "cron.d":
		return Manager{"cron", s.file, "chmod a-x " + world.Quoted(s.file) + " # if it does nothing else"}
	}
	return Manager{"cron", s.file, fmt.Sprintf("sed -i '%ds/^/#/' %s", s.number, world.Quoted(s.file))}
}

func disables(unit string) string { return "systemctl disable --now " + world.Quoted(unit) }

// scheduled are the lines of all schedules that are meant.
func scheduled(files FS, isMeant func(line string) bool) (found []schedule) {
	for _, at := range crontabs {
		names, err := entries(files, at)
		if err != nil || names == nil { // a file
			found = append(found, cronLines(files, at, isMeant)...)
			continue
		}
		for _, name := range names {
			found = append(found, cronLines(files, filepath.Join(at, name), isMeant)...)
		}
	}
	for _, unit := range enabled(files) {
		found = append(found, unitLines(files, unit, isMeant)...)
	}
	return found
}

// cronLines are those of a crontab, or of a program that cron runs.
func cronLines(files FS, file string, isMeant func(line string) bool) (found []schedule) {
	folder := filepath.Base(filepath.Dir(file))
	isProgram := strings.HasPrefix(folder, "cron.") && folder != "cron.d"
	if filepath.Ext(file) != "" || isProgram && !canRun(files, file) {
		return nil // cron takes no file with a dot in its name
	}
	text, err := files.ReadFile(file)
	if err != nil {
		return nil
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") && isMeant(line) {
			found = append(found, schedule{file: file, line: line, number: number})
		}
	}
	return found
}

func canRun(files FS, file string) bool {
	info, err := files.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&fs.FileMode(0o111) != 0
}

// enabled are the timers, paths and services that a target wants, by name: systemctl enable links them there.
func enabled(files FS) (units []string) {
	for _, folder := range unitFolders {
		for _, wants := range entriesAt(files, folder) {
			if filepath.Ext(wants) != ".wants" {
				continue
			}
			for _, unit := range entriesAt(files, wants) {
				name := filepath.Base(unit)
				if slices.Contains([]string{".timer", ".path", ".service"}, filepath.Ext(name)) && !slices.Contains(units, name) {
					units = append(units, name)
				}
			}
		}
	}
	return units
}

// unitLines are the commands of the service that an enabled unit is, or starts.
func unitLines(files FS, unit string, isMeant func(line string) bool) (found []schedule) {
	service := unit
	if filepath.Ext(unit) != ".service" {
		service = strings.TrimSuffix(unit, filepath.Ext(unit)) + ".service"
		for _, file := range unitFiles(files, unit) {
			if said, err := settings(files, file); err == nil && said["Unit"] != "" {
				service = filepath.Base(said["Unit"])
			}
		}
	}
	for _, file := range unitFiles(files, service) {
		text, err := files.ReadFile(file)
		if err != nil {
			continue
		}
		whole := ""
		for line := range strings.Lines(string(text)) {
			line = whole + strings.TrimSpace(line)
			if before, goesOn := strings.CutSuffix(line, "\\"); goesOn && len(whole) < mostValue { // with the next line
				whole = before + " "
				continue
			}
			whole = ""
			if strings.HasPrefix(line, "Exec") && isMeant(line) {
				found = append(found, schedule{file: file, line: line, unit: unit})
			}
		}
	}
	return found
}

// unitFiles are the files of a unit, or of the template that it is an instance of, and what is added to it.
func unitFiles(files FS, unit string) (found []string) {
	names := []string{unit}
	if before, _, isInstance := strings.Cut(unit, "@"); isInstance {
		names = append(names, before+"@"+filepath.Ext(unit))
	}
	isFound := false
	for _, name := range names {
		for _, folder := range unitFolders {
			file := filepath.Join(folder, name)
			if _, err := files.Stat(file); err == nil && !isFound {
				found, isFound = append(found, file), true
			}
			found = append(found, entriesAt(files, file+".d")...)
		}
	}
	return found
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
