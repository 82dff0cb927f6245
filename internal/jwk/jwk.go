// Package jwk names public keys by their thumbprint as a JSON Web Key (RFC 7638), as ACME does (RFC 8555 section 8.1).
//
// It promises that the same key has the same thumbprint everywhere, and that a thumbprint tells nothing that the public key does not.
//
// Start reading at [Thumbprint].
package jwk

import (
	"crypto"
	"crypto/sha256"

	"github.com/go-jose/go-jose/v4"
)

// Thumbprint is a public key's, by SHA-256 (RFC 7638 section 3). A kind of key that JSON Web Keys do not have is an error.
func Thumbprint(public crypto.PublicKey) (sum [sha256.Size]byte, err error) {
	text, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	copy(sum[:], text)
	return sum, err
}
