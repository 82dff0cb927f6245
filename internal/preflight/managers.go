package preflight

import (
	"fmt"
	"strings"

	"maascert/internal/lineage"
	"maascert/internal/report"
)

// CheckManagers finds what else on this host gives MAAS a certificate: hooks of other clients, and whatever runs by itself.
func (h Host) CheckManagers() []report.Item {
	var items []report.Item
	for _, one := range lineage.Managers(h.Files) {
		items = append(items, report.Warning("managers", fmt.Sprintf("%s gives MAAS a certificate as well, and the two would replace each other's", one.Client), one.File, one.Off))
	}
	if len(items) == 0 {
		items = append(items, report.Asked("managers", "nothing else on this host was seen to give MAAS a certificate", "hooks of "+strings.Join(lineage.KnownHooks, ", ")+"; crontabs, systemd's units", nil))
	}
	return items
}
