package layout_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// inBrackets is a name of the package itself in its comment.
var inBrackets = regexp.MustCompile(`\[([A-Z]\w*(?:\.\w+)?)\]`)

// Each package has a comment. Those of larger ones say where to start reading, and what a comment names of its own package is there.
func TestPackagesSayWhereToStart(t *testing.T) {
	t.Parallel()
	larger := 0
	for pkg := range imports(t) {
		if isTestHelper(pkg) || pkg == "maascert/cmd/maascert" || pkg == "maascert/internal/layout" {
			continue
		}
		dir := filepath.Join("..", "..", strings.TrimPrefix(pkg, "maascert/"))
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		files, lines := token.NewFileSet(), 0
		var parsed []*ast.File
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(files, path, nil, parser.ParseComments)
			require.NoError(t, err)
			parsed = append(parsed, file)
			lines += files.File(file.Pos()).LineCount()
		}
		documented, err := doc.NewFromFiles(files, parsed, pkg)
		require.NoError(t, err)
		require.NotEmpty(t, documented.Doc, pkg)
		names := namesOf(documented)
		for _, name := range inBrackets.FindAllStringSubmatch(documented.Doc, -1) {
			require.Contains(t, names, name[1], pkg)
		}
		if lines >= 600 {
			larger++
			require.Contains(t, documented.Doc, "Start reading at [", pkg)
		}
	}
	require.Greater(t, larger, 10)
}

// namesOf are a package's functions and types, and their methods as Type.Method.
func namesOf(pkg *doc.Package) (names []string) {
	for _, f := range pkg.Funcs {
		names = append(names, f.Name)
	}
	for _, of := range pkg.Types {
		names = append(names, of.Name)
		for _, f := range slices.Concat(of.Funcs, of.Methods) {
			if f.Recv == "" {
				names = append(names, f.Name)
			} else {
				names = append(names, of.Name+"."+f.Name)
			}
		}
	}
	return names
}
