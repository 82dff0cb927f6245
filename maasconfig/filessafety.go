package maasconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/world"
)

// Whose the files are. They hold a private key and are written by root, so neither they nor their folder may be anybody's who could lead
// root elsewhere: by a link, by a file of his own, or by a name that he takes first.

// errUnsafe says that a file may neither be read nor replaced.
type errUnsafe struct{ error }

func (e *errUnsafe) Unwrap() error { return e.error }

// read reads one of the files, if it is one that we may trust.
func (f *Files) read(path string) ([]byte, error) {
	if err := f.isSafe(path); err != nil {
		return nil, err
	}
	return f.parts.FS.ReadFile(path)
}

// isSafe explains why a file may neither be read nor replaced: somebody else could have laid a link there, or put his own.
func (f *Files) isSafe(path string) error {
	dir := filepath.Dir(path)
	// Of a name in it: the folder itself could be one in which everybody may make files.
	if err := world.Replaceable(beside(path, freeBeside), f.parts.UID); err != nil {
		return &errUnsafe{hint.Add(fmt.Errorf("%s is not safe for a key: %w", dir, err), "keep the files in a folder that only root may write; owner and mode let the service read them")}
	}
	info, err := f.parts.FS.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	user, _, _ := strings.Cut(f.keys.Owner, ":")
	owner, err := f.owner(world.OwnerOf(info))
	switch has := world.OwnerOf(info); {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return &errUnsafe{hint.Add(fmt.Errorf("%s is a link", path), "name the file that it leads to, or remove the link: maascert keeps the files itself")}
	case !info.Mode().IsRegular():
		return &errUnsafe{fmt.Errorf("%s is no file", path)}
	case has.UID != 0 && has.UID != f.parts.UID && (user == "" || has.UID != owner.UID):
		return &errUnsafe{hint.Add(fmt.Errorf("%s belongs to user %d", path, has.UID), "chown root %s, or say in targets.%s.owner that it is that user's", path, f.parts.Name)}
	default:
		return nil
	}
}

// areSafe asks that of all files. It is asked under the lock as well: meanwhile somebody may have had time.
func (f *Files) areSafe() error {
	for _, one := range f.keys.paths() {
		if err := f.isSafe(one.path); err != nil {
			return err
		}
	}
	return nil
}

// owner is who a file belongs to that belonged to somebody before.
func (f *Files) owner(before world.Owner) (world.Owner, error) {
	name, group, _ := strings.Cut(f.keys.Owner, ":")
	if name != "" {
		id, err := idOf(name, func(name string) (string, error) {
			found, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return found.Uid, nil
		})
		if err != nil {
			return before, fmt.Errorf("there is no user %q on this host", name)
		}
		before.UID = id
	}
	if group != "" {
		id, err := idOf(group, func(name string) (string, error) {
			found, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return found.Gid, nil
		})
		if err != nil {
			return before, fmt.Errorf("there is no group %q on this host", group)
		}
		before.GID = id
	}
	return before, nil
}

func idOf(name string, lookUp func(string) (string, error)) (int, error) {
	if id, err := strconv.Atoi(name); err == nil {
		return id, nil
	}
	text, err := lookUp(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}
