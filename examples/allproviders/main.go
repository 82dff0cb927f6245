// Command allproviders is maascert with all of lego's DNS providers, for those whose zone is kept by none of the eleven
// that maascert has itself. It is a module of its own, so that what those providers need stays out of maascert:
//
//	cd examples/allproviders && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o maascert .
package main

import (
	"github.com/go-acme/lego/v4/challenge"
	"github.com/go-acme/lego/v4/providers/dns"

	"maascert/acme/providers"
	"maascert/internal/command"
)

//go:generate go run generate.go .

func main() {
	add()
	command.Main()
}

// add makes those of lego's providers known that maascert does not know itself.
func add() {
	for name, prefixes := range prefixes {
		if providers.CheckName(name) == nil {
			continue
		}
		providers.Add(name, providers.Provider{Prefixes: prefixes, New: func() (challenge.Provider, error) {
			return dns.NewDNSChallengeProviderByName(name)
		}})
	}
}
