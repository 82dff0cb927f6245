//go:build e2e && vault

package e2e

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/fleettest"
)

// What TestChaos says holds with keys in Vault as well, to which things happen too.
func TestChaosWithVault(t *testing.T) {
	c := newChaos(t, fleettest.Options{Sync: true, Vault: true}, append(slices.Clone(everything), "Vault sealed", "Vault sealed", "Vault restarted", "token revoked"))
	if c == nil {
		return
	}
	c.run(number("MAASCERT_SOAK_ROUNDS", 25))
	require.Empty(t, c.lost())
}
