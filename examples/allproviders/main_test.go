package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/acme/providers"
)

func TestAllProvidersAreKnown(t *testing.T) {
	add()
	require.Greater(t, len(providers.Names()), 190)
	for name, prefixes := range prefixes {
		require.NoError(t, providers.CheckName(name))
		require.NoError(t, providers.CheckSetting(name, prefixes[0]+"X"), name)
		require.Error(t, providers.CheckSetting(name, "PATH"), name)
	}
	_, err := providers.Connect(t.Context(), "hetzner", nil, nil, providers.Parts{})
	require.ErrorContains(t, err, "HETZNER_API")
}

func TestTheTableIsThatOfLegosSource(t *testing.T) {
	fresh := t.TempDir()
	out, err := exec.Command("go", "run", "generate.go", fresh).CombinedOutput()
	require.NoError(t, err, string(out))
	want, err := os.ReadFile(filepath.Join(fresh, "prefixes.go"))
	require.NoError(t, err)
	have, err := os.ReadFile("prefixes.go")
	require.NoError(t, err)
	require.Equal(t, string(want), string(have), "go generate")
}
