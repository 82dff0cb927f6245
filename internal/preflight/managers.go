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
	found, closed := lineage.Managers(h.Files)
	for _, one := range found {
		items = append(items, report.Warning("managers", fmt.Sprintf("%s gives MAAS a certificate as well, and the two would replace each other's", one.Client), one.File, one.Off))
	}
	if len(closed) > 0 {
		items = append(items, report.Warning("managers", "whether anything else gives MAAS a certificate is not known: "+closed[0]+" may not be looked at", strings.Join(closed, ", "), "run maascert as root"))
	}
	if len(items) == 0 {
		items = append(items, report.Asked("managers", "nothing else on this host was seen to give MAAS a certificate", "hooks of "+strings.Join(lineage.KnownHooks, ", ")+"; root's crontabs; systemd's timers, paths and services that are enabled", nil))
	}
	return items
}
