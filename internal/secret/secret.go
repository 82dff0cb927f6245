// Package secret reads secrets from where a configuration says that they are. A configuration holds references, never
// secrets themselves.
package secret

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Reference says where a secret is: "file:PATH", "env:NAME" or "cred:NAME" (a systemd credential).
type Reference string

// Check tells whether the reference is one. A secret that was written down in its place is not repeated in the error.
func (r Reference) Check() error {
	kind, name, found := strings.Cut(string(r), ":")
	if !found || name == "" || kind != "file" && kind != "env" && kind != "cred" {
		return errors.New("a secret is not written here; write file:PATH, env:NAME or cred:NAME")
	}
	if kind == "cred" && filepath.Base(name) != name {
		return errors.New("a credential's name has no slash")
	}
	return nil
}

// File is the path of the file that the reference names; empty where it names none. A relative path is relative to folder.
func (r Reference) File(folder string) string {
	name, isFile := strings.CutPrefix(string(r), "file:")
	switch {
	case !isFile || name == "":
		return ""
	case filepath.IsAbs(name):
		return name
	default:
		return filepath.Join(folder, name)
	}
}

// Read reads the secret without the white space around it. A relative path is relative to folder.
func (r Reference) Read(folder string) (string, error) {
	if err := r.Check(); err != nil {
		return "", err
	}
	kind, name, _ := strings.Cut(string(r), ":")
	switch kind {
	case "env":
		value := strings.TrimSpace(os.Getenv(name))
		if value == "" {
			return "", fmt.Errorf("%s: the variable is empty or not set", r)
		}
		return value, nil
	case "cred":
		folder = os.Getenv("CREDENTIALS_DIRECTORY")
		if folder == "" {
			return "", fmt.Errorf("%s: systemd passed no credentials (LoadCredential=%s:PATH)", r, name)
		}
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(folder, name)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		if path, ok := errors.AsType[*os.PathError](err); ok {
			err = path.Err
		}
		return "", fmt.Errorf("%s: %w", r, err)
	}
	value := strings.TrimSpace(string(text))
	if value == "" {
		return "", fmt.Errorf("%s: it is empty", r)
	}
	return value, nil
}
