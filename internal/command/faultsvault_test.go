//go:build faults && vault

package command

import (
	"testing"
	"time"

	"maascert/certstore/vaultkeys/vaulttest"
)

// The same with keys in Vault: wherever it is asked, and, where every single time is wanted, at every other point as well.
func TestFaultsWithVault(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"files", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			walkFaults(t, kind, vaulttest.Start(t, time.Hour))
		})
	}
}

// The same with keys in Vault, which is sealed and stopped at the end.
func TestNoSecretGetsOutWithVault(t *testing.T) {
	t.Parallel()
	noSecretGetsOut(t, vaulttest.Start(t, time.Hour))
}
