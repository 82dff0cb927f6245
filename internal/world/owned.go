package world

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Replaceable explains why somebody other than root and the user uid could replace what stands at a path, or put something
// there: nil when nobody can. Every folder above it counts, and every link that leads to it. A group in which nobody else
// is does not count; groups that are not in /etc/group are taken for full.
func Replaceable(path string, uid int) error {
	o := owned{uid: uid, seen: map[string]bool{}}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return o.check(absolute)
}

// UnsafeError says of which path somebody else could replace what is there.
type UnsafeError struct {
	Path      string
	IsForeign bool   // it is somebody else's already, and what is in it may be too
	why       string // who, with the path where %s is
}

func (e *UnsafeError) Error() string { return strings.ReplaceAll(e.why, "%s", e.Path) }

type owned struct {
	uid  int
	seen map[string]bool
	open string // the last folder in which others may make files, but not replace ours
}

// check checks a path from the root down to it.
func (o *owned) check(path string) error {
	if path != filepath.Dir(path) {
		if err := o.check(filepath.Dir(path)); err != nil {
			return err
		}
	}
	if o.seen[path] {
		return nil
	}
	o.seen[path] = true
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if folder, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil && o.open == folder {
			return &UnsafeError{path, true, "everybody may make %s"}
		}
		return nil
	}
	if err != nil {
		return err
	}
	if owner := ownerOf(info); owner != 0 && owner != o.uid {
		return &UnsafeError{path, true, "%s belongs to user " + strconv.Itoa(owner)}
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return o.follow(path)
	}
	mode := info.Mode()
	switch {
	case mode.Perm()&0o022 == 0:
		return nil
	case info.IsDir() && mode&fs.ModeSticky != 0:
		o.open = path
		return nil
	case mode.Perm()&0o002 != 0:
		return &UnsafeError{path, false, "everybody may write %s"}
	case !isAlone(groupOf(info), o.uid):
		return &UnsafeError{path, false, fmt.Sprintf("group %d may write %%s", groupOf(info))}
	default:
		return nil
	}
}

func (o *owned) follow(path string) error {
	target, err := os.Readlink(path)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(target) {
		folder, err := filepath.EvalSymlinks(filepath.Dir(path)) // which may be a link itself
		if err != nil {
			return err
		}
		target = filepath.Join(folder, target)
	}
	return o.check(target)
}

// isAlone tells whether a group has no members but root and a user.
func isAlone(gid, uid int) bool {
	if gid == 0 {
		return true
	}
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		return false
	}
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return false
	}
	ids := map[string]string{} // user IDs by name
	for user := range fields(users, 4) {
		ids[user[0]] = user[2]
		if user[3] == strconv.Itoa(gid) && !slices.Contains([]string{"0", strconv.Itoa(uid)}, user[2]) {
			return false
		}
	}
	for group := range fields(groups, 4) {
		if group[2] != strconv.Itoa(gid) {
			continue
		}
		for member := range strings.SplitSeq(group[3], ",") {
			if id := ids[member]; member != "" && id != "0" && id != strconv.Itoa(uid) {
				return false
			}
		}
		return true
	}
	return false
}

// fields are the lines of a file of /etc with at least so many fields.
func fields(text []byte, least int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			if words := strings.Split(lines.Text(), ":"); len(words) >= least && !yield(words) {
				return
			}
		}
	}
}
