package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/maasconfig"
)

// What keeps keys from who reads the store is a text, or several, or Vault; a key with nothing behind it is no seal.
func TestSeals(t *testing.T) {
	t.Parallel()
	const vault = "vault: {address: \"https://vault.example:8200\", role_id: file:role_id, secret_id: file:secret_id}"
	path := filepath.Join(t.TempDir(), "maascert.yaml")
	load := func(seal string) (*Config, error) {
		require.NoError(t, os.WriteFile(path, []byte("acme: {directory: https://ca.example/d}\ncertificates: [{name: maas, names: [maas.example]}]\nstore: {type: file, seal: "+seal+"}\n"), 0o640))
		return LoadAlone(path, maasconfig.KnownTypes())
	}
	for seal, texts := range map[string]int{"": 0, "null": 0, "file:a": 1, `["file:a"]`: 1, `["file:a", "file:b"]`: 2, "{" + vault + "}": 0} {
		config, err := load(seal)
		require.NoError(t, err, seal)
		require.Len(t, config.Store.Seal.Texts, texts, seal)
		require.Equal(t, len(seal) > 20, config.Store.Seal.Vault != nil, seal)
	}
	config, err := load("{" + vault + "}")
	require.NoError(t, err)
	section := config.Store.Seal.Vault
	require.Equal(t, []string{"secret", "maascert", "approle"}, []string{section.Mount, section.Path, section.AppRole})
	require.Len(t, config.Store.Secrets(), 2)

	for seal, want := range map[string]string{
		"{}":                      "seal names nothing",
		"[]":                      "seal names nothing",
		"{vault: }":               "seal names nothing",
		"{texts: [file:a]}":       `unknown key "texts"`,
		"{vault: {}}":             "address is missing",
		"{vault: https://vault}":  "expected",
		"{vault: [file:role_id]}": "expected",
		"{vault: {address: \"http://vault.example:8200\", role_id: file:r, secret_id: file:s}}":               "is no https URL",
		"{vault: {address: \"https://u:p@vault.example\", role_id: file:r, secret_id: file:s}}":               "is no https URL",
		"{vault: {address: \"https://vault.example/ui\", role_id: file:r, secret_id: file:s}}":                "is no https URL",
		"{vault: {address: \"https://vault.example\", role_id: file:r}}":                                      "secret_id is missing",
		"{vault: {address: \"https://vault.example\", role_id: file:r, secret_id: hunter2}}":                  "a secret is not written here",
		"{vault: {address: \"https://vault.example\", mount: ../sys, role_id: file:r, secret_id: file:s}}":    "is no path in Vault",
		"{vault: {address: \"https://vault.example\", path: /maascert, role_id: file:r, secret_id: file:s}}":  "is no path in Vault",
		"{vault: {address: \"https://vault.example\", path: maas/../x, role_id: file:r, secret_id: file:s}}":  "is no path in Vault",
		"{vault: {address: \"https://vault.example\", token: file:t, role_id: file:r, secret_id: file:s}}":    `unknown key "token"`,
		"{vault: {address: \"https://vault.example\", approle: \"a b\", role_id: file:r, secret_id: file:s}}": "is no path in Vault",
	} {
		_, err := load(seal)
		require.ErrorContains(t, err, want, seal)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
