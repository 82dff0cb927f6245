package command

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/world"
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
}
