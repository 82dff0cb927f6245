package certstore_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/world"
)

// The golden files hold every field that there is, under the name that it has had since it was added: a field that is added comes into
// one of them, and one that is renamed or gone fails here.
func TestGoldenFilesHoldEveryField(t *testing.T) {
	t.Parallel()
	for pattern, document := range map[string]any{
		"state/*": certstore.Record{}, "nodes/*": certstore.Node{}, "answers/*": certstore.Answers{}, "account": certstore.Account{}, "rollover/account": certstore.Account{},
	} {
		files, err := filepath.Glob(filepath.Join("testdata", "v1", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		var golden []any
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			var one any
			require.NoError(t, json.Unmarshal(text, &one))
			golden = append(golden, one)
		}
		missing, unknown := compareFields(reflect.TypeOf(document), golden, pattern)
		if pattern != "account" {
			require.Empty(t, missing, "fields that no golden file has")
		}
		require.Empty(t, unknown, "fields of golden files that are not known any more")
	}
}

// compareFields tells which fields of a type none of some values has, and which fields of values the type does not have. Those that are
// called later stand for what is not known yet.
func compareFields(of reflect.Type, values []any, path string) (missing, unknown []string) {
	switch {
	case of.Kind() == reflect.Pointer:
		return compareFields(of.Elem(), values, path)
	case of == reflect.TypeFor[time.Time](), of == reflect.TypeFor[json.RawMessage]():
		return nil, nil
	case of.Kind() == reflect.Slice, of.Kind() == reflect.Map:
		return compareFields(of.Elem(), elements(values), path+".*")
	case of.Kind() != reflect.Struct:
		return nil, nil
	}
	known := []string{"later"}
	for field := range of.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() {
			continue
		}
		known = append(known, name)
		var below []any
		for _, value := range values {
			if object, isObject := value.(map[string]any); isObject && object[name] != nil {
				below = append(below, object[name])
			}
		}
		if len(below) == 0 {
			missing = append(missing, path+"."+name)
			continue
		}
		less, more := compareFields(field.Type, below, path+"."+name)
		missing, unknown = append(missing, less...), append(unknown, more...)
	}
	for _, value := range values {
		object, _ := value.(map[string]any)
		for name := range object {
			if !slices.Contains(known, name) {
				unknown = append(unknown, path+"."+name)
			}
		}
	}
	return missing, unknown
}

// elements are those of all lists and objects of some values.
func elements(values []any) (all []any) {
	for _, value := range values {
		switch value := value.(type) {
		case []any:
			all = append(all, value...)
		case map[string]any:
			for _, element := range value {
				all = append(all, element)
			}
		}
	}
	return all
}

// What a maascert that has every field wrote is read and written again as it was.
func TestEveryFieldSurvivesARewrite(t *testing.T) {
	t.Parallel()
	for name, document := range map[string]any{
		"state/whole": new(certstore.Record), "nodes/region1": new(certstore.Node), "answers/region1": new(certstore.Answers), "rollover/account": new(certstore.Account),
	} {
		want, err := os.ReadFile(filepath.Join("testdata", "v1", name))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(want, document))
		got, err := json.MarshalIndent(document, "", " ")
		require.NoError(t, err)
		require.Equal(t, string(want), string(got)+"\n", name)
	}
}

// A document of a later format is refused, whichever it is, but for the answers of another host, which are one host's and an hour's.
func TestEveryDocumentOfALaterFormatIsRefused(t *testing.T) {
	t.Parallel()
	store := certstore.NewFileStore(world.OS{}, t.TempDir())
	ctx := t.Context()
	for name, load := range map[string]func() error{
		"state/maas":      func() error { _, _, err := certstore.LoadRecord(ctx, store, "maas"); return err },
		"account":         func() error { _, _, err := certstore.LoadAccount(ctx, store); return err },
		"nodes/region1":   func() error { _, _, err := certstore.LoadNode(ctx, store, "region1"); return err },
		"versions/maas/1": func() error { _, err := certstore.LoadVersion(ctx, store, "maas", 1); return err },
	} {
		_, err := store.Write(ctx, name, []byte(`{"v": 2, "number": 1}`), "")
		require.NoError(t, err)
		err = load()
		require.ErrorContains(t, err, fmt.Sprintf("store: %s was written by a later maascert (format 2, this one knows 1)", name))
	}
}

// A version with every field is read, and written again as it was.
func TestAVersionSurvivesARewrite(t *testing.T) {
	t.Parallel()
	store, _ := goldenStore(t)
	ctx := t.Context()
	version, err := certstore.LoadVersion(ctx, store, "whole", 1)
	require.NoError(t, err)
	require.Equal(t, []string{"shortlived", "https://ca.example/acme/directory", "https://ca.example/acme/account/1", "acme"},
		[]string{version.Profile, version.Directory, version.Account, string(version.Origin)})
	other := certstore.NewFileStore(world.OS{}, t.TempDir())
	ledger, err := certstore.OpenLedger(ctx, other, "whole")
	require.NoError(t, err)
	_, err = ledger.Add(ctx, version)
	require.NoError(t, err)
	want, _, err := store.Read(ctx, "versions/whole/1")
	require.NoError(t, err)
	got, _, err := other.Read(ctx, "versions/whole/1")
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}
