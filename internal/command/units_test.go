package command

import (
	"os"
	"strings"
	"testing"
	"time"

	"maascert/internal/lifecycle"

	"github.com/stretchr/testify/require"
)

// The unit must not take from the maas snap what it needs to run (MAAS fact 5.1): nothing filters its mounts, and what is
// closed leaves snap-confine what it does.
func TestTheUnitLetsTheSnapRun(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../examples/systemd/maascert.service")
	require.NoError(t, err)
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		require.NotContains(t, []string{
			"NoNewPrivileges", "PrivateTmp", "ProtectSystem", "ProtectHome", "ReadOnlyPaths", "RootDirectory", "PrivateMounts", "PrivateDevices",
			"ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectProc", "ProcSubset", "DynamicUser", "User",
		}, name)
		values[name] = value
	}
	for _, capability := range []string{"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_NET_BIND_SERVICE"} {
		require.Contains(t, strings.Fields(values["CapabilityBoundingSet"]), capability)
	}
	require.Contains(t, strings.Fields(values["RestrictNamespaces"]), "mnt")
	require.True(t, strings.HasPrefix(values["SystemCallFilter"], "~"), "what is not named stays allowed")
	for _, needed := range []string{"@mount", "@privileged", "@resources", "@setuid", "@process"} {
		require.NotContains(t, strings.Fields(values["SystemCallFilter"]), needed)
	}
	require.Equal(t, "notify", values["Type"])
	require.Equal(t, "130", values["SuccessExitStatus"])
	require.Equal(t, "always", values["Restart"], "R5")
	watchdog, err := time.ParseDuration(values["WatchdogSec"])
	require.NoError(t, err)
	require.Equal(t, 2*lifecycle.PassTime, watchdog)
}

// The unit of one pass is as closed as the daemon's, and gives a pass no other time.
func TestTheUnitOfOnePassIsAsClosed(t *testing.T) {
	t.Parallel()
	read := func(name string) (settings []string) {
		text, err := os.ReadFile("../../examples/systemd/" + name)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); strings.Contains(line, "=") && !strings.HasPrefix(line, "#") {
				settings = append(settings, line)
			}
		}
		return settings
	}
	once := read("maascert-renew.service")
	for _, setting := range read("maascert.service") {
		name, _, _ := strings.Cut(setting, "=")
		switch name {
		case "Type", "ExecStart", "ExecReload", "SuccessExitStatus", "Restart", "RestartSec", "WatchdogSec", "Description", "Documentation", "StartLimitIntervalSec", "WantedBy":
		default:
			require.Contains(t, once, setting)
		}
	}
	require.Contains(t, once, "Type=oneshot")
	require.Contains(t, read("maascert-renew.timer"), "Persistent=true")
}
