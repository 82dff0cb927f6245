// Package section is what a package needs to check its own section of the configuration: where a key stands and in which file
// is known to the configuration alone, and what a key means to the package whose key it is.
package section

import (
	"crypto/x509"
	"fmt"
	"net"
	"strconv"
	"strings"

	"maascert/certstore"
	"maascert/internal/secret"
)

// Place is where a section stands in the configuration. Its keys are called by their path below it; "" is the section itself.
type Place interface {
	// Path of the section from the top, such as issuers.public, for people.
	Path() string
	// Fault says what is wrong with a key. All faults are shown together, each with the key's line.
	Fault(key, format string, args ...any)
	// Hide keeps a key's line out of all excerpts.
	Hide(key string)
	// Read reads the file that a key names. That it cannot be read is the key's fault, and gives nothing.
	Read(key, path string) []byte
	// Secret reads the secret that a key refers to. That it cannot be read is the key's fault, and gives nothing.
	Secret(key string, reference secret.Reference) string
	// Again reads a secret once more, later than the configuration: another one may have been put in its place.
	Again(reference secret.Reference) (string, error)
	// Under is the place of a section below this one.
	Under(key string) Place
}

// IsHostPort tells whether a text is an address to listen on: a port, with a host or without.
func IsHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	number, portErr := strconv.Atoi(port)
	return err == nil && portErr == nil && number > 0 && number < 65536 && (host == "" || isHost(host))
}

// IsEndpoint tells whether a text is a host to connect to, with a port or without.
func IsEndpoint(text string) bool {
	host, _, err := net.SplitHostPort(text)
	if err == nil {
		return host != "" && IsHostPort(text)
	}
	return isHost(strings.Trim(text, "[]"))
}

func isHost(text string) bool {
	name, err := certstore.CanonicalName(text)
	return err == nil && !strings.HasPrefix(name, "*.")
}

// CheckServers completes the addresses of name servers with the port of DNS.
func CheckServers(at Place, key string, servers []string) {
	for i, server := range servers {
		if !IsEndpoint(server) {
			at.Fault(fmt.Sprintf("%s[%d]", key, i), "%q is no server; write 10.0.0.53 or 10.0.0.53:53", server)
			continue
		}
		if _, _, err := net.SplitHostPort(server); err != nil {
			servers[i] = net.JoinHostPort(strings.Trim(server, "[]"), "53")
		}
	}
}

// ReadRoots reads a file of trusted roots; nil stands for the system's.
func ReadRoots(at Place, key, file string) (*x509.CertPool, []byte) {
	if file == "" {
		return nil, nil
	}
	text := at.Read(key, file)
	if text == nil {
		return nil, nil
	}
	certs, err := certstore.ParseCertificates(text)
	if err != nil {
		at.Fault(key, "%s: %v", file, err)
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, certstore.EncodeCertificates(certs)
}
