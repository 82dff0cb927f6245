package command

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/report"
	"maascert/internal/world"
	"maascert/maasconfig/maastest"
)

// neutral hides what differs from run to run, so that the form of a document can be compared byte for byte.
func neutral(s *site, text string) string {
	for i, region := range s.maas.Regions {
		text = strings.ReplaceAll(text, region.Address.String(), "10.0.0.1"+string(rune('1'+i)))
	}
	text = strings.ReplaceAll(text, s.dir, "/site")
	text = strings.ReplaceAll(text, s.ca.Directory, "https://ca.example/directory")
	for pattern, stand := range map[string]string{
		`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`:         "2026-11-22T10:00:00Z",
		`sha256:[0-9a-f]{64}`:                     "sha256:…",
		`"machine_id": "[0-9a-f]*"`:               `"machine_id": "…"`,
		`"version": "[^"]+"`:                      `"version": "…"`,
		`"clock_skew_ms": -?\d+`:                  `"clock_skew_ms": 0`,
		`"serial": "[0-9a-f]+"`:                   `"serial": "…"`,
		`Pebble Intermediate CA [0-9a-f]+`:        "Pebble Intermediate CA",
		`"converged_seconds": [0-9.e-]+`:          `"converged_seconds": 1`,
		`"duration_ms": \d+`:                      `"duration_ms": 1`,
		`"acme_requests": \d+`:                    `"acme_requests": 13`,
		`127\.0\.0\.1:\d+`:                        "127.0.0.1:80",
		`https://127\.0\.0\.1:\d+/my-account/\w+`: "https://ca.example/account/1",
		`https://127\.0\.0\.1:80/my-account/\w+`:  "https://ca.example/account/1",
		`"user \d+"`:                              `"user 0"`,
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, stand)
	}
	return text
}

// The documents are a promise: scripts and monitoring read them. The golden files change only by additions.
func TestJSONDocuments(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	for _, step := range []struct {
		golden string
		code   int
		args   []string
	}{
		{"status-missing", exitAttention, []string{"status", "--json"}},
		{"check", exitOK, []string{"check", "--json"}},
		{"renew-guard", exitAttention, []string{"renew", "--json"}},
		{"renew-dry-run", exitOK, []string{"renew", "--dry-run", "--enable-tls", "--json"}},
		{"renew", exitOK, []string{"renew", "--enable-tls", "--json"}},
		{"renew-nothing", exitOK, []string{"renew", "--json"}},
		{"status", exitOK, []string{"status", "--json"}},
		{"verify", exitOK, []string{"verify", "--json"}},
		{"history", exitOK, []string{"history", "--json"}},
	} {
		code, stdout, stderr := inSite(t, s, world.OS{}, step.args...)
		require.Equal(t, step.code, code, stderr)
		path := filepath.Join("testdata", "json", step.golden+".json")
		isGolden(t, path, neutral(s, stdout))
	}
	public, err := os.ReadFile(filepath.Join(s.dir, "state", "public", "status.json"))
	require.NoError(t, err)
	isGolden(t, filepath.Join("testdata", "json", "public.json"), neutral(s, string(public)))
}

// How long MAAS took to serve a certificate is counted from when it was told to when the last region did, and remembered.
func TestHowLongItTookIsCountedFromTheTelling(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	const slow = 300 * time.Millisecond
	s.maas.Regions[1].Break(maastest.Fault{Slow: slow})
	var first float64
	for round, args := range [][]string{{"renew", "--enable-tls"}, {"renew"}, {"renew", "--force"}} {
		code, _, stderr := inSite(t, s, world.OS{}, args...)
		require.Equal(t, exitOK, code, stderr)
		text, err := os.ReadFile(filepath.Join(s.dir, "state", "public", "status.json"))
		require.NoError(t, err)
		var doc report.Public
		require.NoError(t, json.Unmarshal(text, &doc))
		took := doc.Certificates[0].Targets[0].ConvergedSeconds
		require.GreaterOrEqual(t, took, slow.Seconds())
		require.Less(t, took, 60.0)
		record, _, err := certstore.LoadRecord(t.Context(), storeOf(s), "maas")
		require.NoError(t, err)
		require.Equal(t, record.Current, record.Deployments["maas"].Took.Version, "each version has its own")
		switch round {
		case 0:
			first = took
		case 1:
			require.Equal(t, first, took, "it is counted once")
		default:
			require.Equal(t, 2, record.Current)
		}
		for _, e := range doc.Certificates[0].Targets[0].Endpoints {
			require.Equal(t, took, e.ConvergedSeconds)
		}
	}
}

// Whoever reads the documents of the first day reads today's: each field that they had is there, and holds the same kind of value.
func TestDocumentsHaveWhatTheyHadOnTheFirstDay(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("testdata", "json", "first", "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 8)
	for _, file := range files {
		var first, today any
		for path, into := range map[string]*any{file: &first, filepath.Join("testdata", "json", filepath.Base(file)): &today} {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(text, into))
		}
		require.Empty(t, lost([]any{first}, []any{today}, filepath.Base(file)))
	}
}

// lost tells what former values have and none of today's has: fields of objects, and kinds of values. What is null today was not seen in that
// test, and may be of any kind.
func lost(former, today []any, path string) (all []string) {
	if len(today) > 0 && !slices.ContainsFunc(today, func(value any) bool { return value != nil }) {
		return nil
	}
	fields := func(values []any) map[string][]any {
		by := map[string][]any{}
		for _, value := range values {
			switch value := value.(type) {
			case map[string]any:
				for name, field := range value {
					by[name] = append(by[name], field)
				}
			case []any:
				by["[]"] = append(by["[]"], value...)
			case nil:
			default:
				by[fmt.Sprintf("(%T)", value)] = nil
			}
		}
		return by
	}
	now := fields(today)
	for name, below := range fields(former) {
		if _, isThere := now[name]; !isThere {
			all = append(all, path+" "+name)
			continue
		}
		all = append(all, lost(below, now[name], path+" "+name)...)
	}
	return all
}
