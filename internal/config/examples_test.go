package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore/certtest"
)

// example loads an example with its roots put beside it.
func example(t *testing.T, name string) (string, []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", name))
	require.NoError(t, err)
	dir := t.TempDir()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue("ec256", 0, time.Hour, "ca.example")
	require.NoError(t, err)
	roots := regexp.MustCompile(`/etc/maascert/[a-z_-]+\.(pem|crt)`)
	for _, path := range roots.FindAllString(string(text), -1) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), bundle.FullChainPEM(), 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "eab"), []byte("Nct7Wj63aDEyky48OYJjeKh1yIo-ewxn2R5dICdjyS5nDenHBrjpi8YYe6YyeMgK"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tsig"), []byte("c2VjcmV0"), 0o600))
	text = []byte(strings.ReplaceAll(string(text), "/etc/maascert/", ""))
	path := filepath.Join(dir, "maascert.yaml")
	require.NoError(t, os.WriteFile(path, text, 0o640))
	return path, text
}

func TestExamplesLoad(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"maascert.yaml", "step-ca/maascert.yaml", "caddy/maascert.yaml", "letsencrypt/maascert.yaml"} {
		path, _ := example(t, name)
		config, err := Load(path)
		require.NoError(t, err, name)
		require.NotEmpty(t, config.Certificates, name)
	}
	path, _ := example(t, "letsencrypt/maascert.yaml")
	config, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, Presets["letsencrypt"], config.ACME.Directory)
	require.Equal(t, Presets["letsencrypt-staging"], config.ACME.DryRun.Directory, "a rehearsal of Let's Encrypt goes to its staging CA")
}

// The reference names every key there is.
func TestTheReferenceNamesEveryKey(t *testing.T) {
	t.Parallel()
	_, text := example(t, "maascert.yaml")
	var config Config
	doc := decodeYAML("maascert.yaml", text, &config)
	require.Empty(t, doc.errors)
	named := map[string]bool{}
	find(doc, "", reflect.TypeFor[Config](), named)
	for key, ok := range named {
		require.True(t, ok, "the reference does not name %s", key)
	}
}

// find notes of every key of a type, and of the types below it, whether a document has it at any place; a list is looked
// at in its first element, a map in its key "maas".
func find(doc *document, path string, shape reflect.Type, named map[string]bool) {
	switch shape.Kind() {
	case reflect.Slice:
		find(doc, path+"[0]", shape.Elem(), named)
	case reflect.Map:
		find(doc, path+".maas", shape.Elem(), named)
	case reflect.Struct:
		for i := range shape.NumField() {
			switch name := shape.Field(i).Tag.Get("yaml"); name {
			case "":
			case inline:
				find(doc, path, shape.Field(i).Type, named)
			default:
				key := shape.Name() + "." + name
				named[key] = named[key] || doc.has(below(path, name))
				find(doc, below(path, name), shape.Field(i).Type, named)
			}
		}
	}
}
