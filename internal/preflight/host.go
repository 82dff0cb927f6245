// Package preflight looks at a region host, and at what stands around it, for what would keep a certificate from being renewed, undo a
// renewal, or lead people away from what is served. It reads, runs programs that only show something, and connects; it changes nothing.
//
// Start reading at [Host]; each file is one kind of thing that is looked at.
package preflight

import (
	"crypto/x509"
	"time"

	"maascert/internal/world"
	"maascert/maasconfig"
)

// Host is a region host, and what it is looked at with.
type Host struct {
	Files     world.FS
	Runner    world.Runner
	Dial      world.Dial
	Listening func(port int) []world.Listening // who takes connections at a TCP port
	Roots     *x509.CertPool                   // that this host trusts; nil: as the system has them
	Now       func() time.Time
	UID       int                     // the user that we are
	MAAS      maasconfig.Installation // zero: there is none
	Port      int                     // on which MAAS serves TLS; 0: it does not
	PortKnown bool
}

// programTime bounds one program that shows something.
const programTime = 10 * time.Second

// exists tells whether a file or folder is there, as far as we may see it.
func (h Host) exists(path string) bool {
	_, err := h.Files.Stat(path)
	return err == nil
}
