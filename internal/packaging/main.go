// Command packaging makes what is given to others: Debian packages, static tarballs, the list of what is in them (CycloneDX),
// the modules with their licences, and checksums of all. It promises that the same commit gives the same bytes in whichever
// folder it is built, with the same Go and the same tools: every time in them is the commit's. nfpm.yaml beside it says what the package is like.
//
// It begins with main; tree.go makes the files that are installed.
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	syscall.Umask(0o022) // what is installed does not depend on who builds it
	b := build{tree: filepath.Join("bin", "tree")}
	flag.StringVar(&b.out, "out", filepath.Join("bin", "dist"), "folder that gets the packages; what is in it is removed")
	flag.StringVar(&b.tools, "tools", ".tools", "where nfpm and cyclonedx-gomod are installed")
	architectures := flag.String("arch", "amd64,arm64", "what for, as Go and Debian name it")
	program := flag.String("program", "", "take this program, which was built of an earlier commit, and its version, instead of building one")
	flag.Parse()
	if err := b.all(strings.Split(*architectures, ","), *program); err != nil {
		fmt.Fprintln(os.Stderr, "packaging:", err)
		os.Exit(1)
	}
}

type build struct {
	out, tree, tools string

	version string    // of the program, as Debian orders versions
	at      time.Time // of the commit
}

func (b *build) all(architectures []string, program string) error {
	// What is described is what is built, whatever this environment is configured for.
	if err := os.Unsetenv("MAASCERT_CONFIG"); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(b.out), os.MkdirAll(b.out, 0o755)); err != nil {
		return err
	}
	for _, arch := range architectures {
		built := program
		if built == "" {
			built = filepath.Join("bin", "maascert-"+arch)
			if err := run([]string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT="}, "go", "build", "-trimpath", "-buildvcs=auto", "-ldflags", "-s -w", "-o", built, "./cmd/maascert"); err != nil {
				return err
			}
		}
		if err := b.identify(built, arch); err != nil {
			return err
		}
		if err := b.pack(built, arch); err != nil {
			return err
		}
	}
	return b.sum()
}

// identify takes version and time from what the program was stamped with.
func (b *build) identify(program, arch string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	b.version, b.at = debianVersion(info.Main.Version), time.Unix(0, 0).UTC()
	for _, setting := range info.Settings {
		if setting.Key == "GOARCH" && setting.Value != arch {
			return fmt.Errorf("%s is for %s, not for %s", program, setting.Value, arch)
		}
		if setting.Key == "vcs.time" {
			if b.at, err = time.Parse(time.RFC3339, setting.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

// debianVersion is a module's version as Debian writes it: what comes before a release sorts before it (Debian policy 5.6.12).
func debianVersion(version string) string {
	if !strings.HasPrefix(version, "v") {
		return "0~devel" // built outside of a checkout
	}
	release, before, isBefore := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	if isBefore {
		release += "~" + strings.ReplaceAll(before, "-", ".")
	}
	return release
}

// pack makes the package and the tarball for an architecture.
func (b *build) pack(program, arch string) error {
	name := fmt.Sprintf("maascert_%s_%s", b.version, arch)
	if err := b.describe(program, name); err != nil {
		return err
	}
	if err := b.plant(program); err != nil {
		return err
	}
	env := []string{"TREE=" + b.tree, "ARCH=" + arch, "VERSION=" + b.version, "SOURCE_DATE_EPOCH=" + strconv.FormatInt(b.at.Unix(), 10)}
	if err := run(env, filepath.Join(b.tools, "nfpm"), "package", "--config", filepath.Join("internal", "packaging", "nfpm.yaml"), "--packager", "deb", "--target", filepath.Join(b.out, name+".deb")); err != nil {
		return err
	}
	return b.tarball(filepath.Join(b.out, name+".tar.gz"))
}

// tarball packs the tree as it would be installed below /usr/local, where the units among the examples look for the program.
func (b *build) tarball(path string) error {
	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(zipped)
	top := strings.TrimSuffix(filepath.Base(path), ".tar.gz")
	err = filepath.WalkDir(filepath.Join(b.tree, "usr"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		inside, err := filepath.Rel(filepath.Join(b.tree, "usr"), path)
		if err != nil || strings.HasPrefix(inside, "lib"+string(filepath.Separator)) || strings.Contains(inside, "lintian") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".service") {
			text = bytes.ReplaceAll(text, []byte(packagedProgram), []byte(builtProgram))
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		header := &tar.Header{Name: filepath.ToSlash(filepath.Join(top, inside)), Mode: int64(info.Mode().Perm()), Size: int64(len(text)), ModTime: b.at, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err = archive.Write(text)
		return err
	})
	if err := cmp.Or(err, archive.Close(), zipped.Close()); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

// sum writes SHA256SUMS, for sha256sum --check.
func (b *build) sum() error {
	entries, err := os.ReadDir(b.out)
	if err != nil {
		return err
	}
	var lines []string
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(b.out, entry.Name()))
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(text), entry.Name()))
	}
	slices.Sort(lines)
	fmt.Print(strings.Join(lines, ""))
	return os.WriteFile(filepath.Join(b.out, "SHA256SUMS"), []byte(strings.Join(lines, "")), 0o644)
}

// run runs a program, which says something only when it fails.
func run(env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
