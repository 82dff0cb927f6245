package setup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/world"
)

// Root is a root certificate that a CA showed, and that nobody has to trust yet.
type Root struct {
	Cert *x509.Certificate
	From string // URL
}

// PEM is the certificate as files hold it.
func (r Root) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Cert.Raw})
}

// fingerprints are written with or without colons between the digits, and after words such as sha256: or SHA256 Fingerprint=.
var fingerprints = regexp.MustCompile(`^(?i:sha-?256(?: fingerprint)?[:=] ?)?([0-9A-Fa-f]{64})$`)

// betweenDigits are the colons of a fingerprint.
var betweenDigits = regexp.MustCompile(`([0-9A-Fa-f]{2}):`)

// ParseFingerprint reads a SHA-256 fingerprint of a certificate as step, openssl and maascert print it: 64 hex digits.
func ParseFingerprint(text string) (string, error) {
	text = strings.TrimSpace(text)
	match := fingerprints.FindStringSubmatch(text)
	if match == nil && len(text) >= 95 { // with colons, of which a word before it may have one too
		match = fingerprints.FindStringSubmatch(text[:len(text)-95] + betweenDigits.ReplaceAllString(text[len(text)-95:], "$1"))
	}
	if match == nil {
		return "", fmt.Errorf("%q is no SHA-256 fingerprint of a certificate: 64 hex digits, colons between them or not", text)
	}
	return strings.ToLower(match[1]), nil
}

// ErrOtherRoot says that a CA has no root of the fingerprint that somebody gave.
var ErrOtherRoot = errors.New("the CA shows no root certificate of this fingerprint")

const (
	// rootTime bounds one question for a root, and maxRoot the answer, in bytes.
	rootTime = 10 * time.Second
	maxRoot  = 256 << 10
	// mostRoots bounds how many certificates of an answer are looked at, and mostInChain those that the CA's own server may show: each costs
	// signatures.
	mostRoots   = 20
	mostInChain = 10
)

// FindRoot asks a CA for the root of its own server's certificate, at the URLs at which step-ca and Caddy show theirs, and in the handshake. A
// fingerprint (64 hex digits; empty: none) tells which one is meant; without one the first is returned that the server's certificate leads to.
// Nobody vouches for it: without a fingerprint somebody has to compare it with what the CA's operator says.
func FindRoot(ctx context.Context, dial world.Dial, directory, fingerprint string) (Root, error) {
	at, err := url.Parse(directory)
	if err != nil || at.Scheme != "https" || at.Host == "" {
		return Root{}, fmt.Errorf("%q is no https URL of an ACME directory", directory)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*rootTime)
	defer cancel()
	chain, err := shownBy(ctx, dial, at)
	if err != nil {
		return Root{}, err
	}
	asked := rootURLs(at, fingerprint)
	if len(chain) > mostInChain {
		return Root{}, fmt.Errorf("the CA's server shows %d certificates; more than %d are not looked at", len(chain), mostInChain)
	}
	candidates := []Root{{chain[len(chain)-1], directory}}
	for _, address := range asked {
		// One of them answers; which, depends on the CA.
		certs, _ := ask(ctx, dial, address)
		for _, cert := range certs[:min(len(certs), mostRoots)] {
			candidates = append(candidates, Root{cert, address})
		}
	}
	for _, one := range candidates {
		if ctx.Err() != nil {
			return Root{}, context.Cause(ctx)
		}
		if fingerprint != "" && one.Fingerprint() != fingerprint {
			continue
		}
		err := leadsTo(chain, one.Cert, at.Hostname())
		if err == nil {
			return one, nil
		}
		if fingerprint != "" {
			return Root{}, fmt.Errorf("the CA shows the root of this fingerprint, and its own server's certificate does not lead to it: %w", err)
		}
	}
	if fingerprint != "" {
		return Root{}, hint.Add(ErrOtherRoot, "compare it with what the CA's operator says; or bring the file: --root FILE")
	}
	return Root{}, hint.Add(errors.New("the CA does not show its root certificate where step-ca and Caddy do"), "bring the file from the CA's operator: --root FILE")
}

// rootURLs are where CAs show their roots: step-ca at /root/FINGERPRINT and /roots.pem, Caddy's API at /pki/ca/ID/certificates, there or at its
// usual port 2019.
func rootURLs(directory *url.URL, fingerprint string) []string {
	base := "https://" + directory.Host
	urls := []string{base + "/roots.pem"}
	if fingerprint != "" {
		urls = []string{base + "/root/" + fingerprint, urls[0]}
	}
	if parts := strings.Split(strings.Trim(directory.Path, "/"), "/"); len(parts) == 3 && parts[0] == "acme" {
		path := "/pki/ca/" + url.PathEscape(parts[1]) + "/certificates"
		urls = append(urls, base+path, "http://"+net.JoinHostPort(directory.Hostname(), "2019")+path)
	}
	return urls
}

// shownBy is the chain that the CA's own server shows.
func shownBy(ctx context.Context, dial world.Dial, directory *url.URL) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, rootTime)
	defer cancel()
	port := cmp.Or(directory.Port(), "443")
	conn, err := dial(ctx, "tcp", net.JoinHostPort(directory.Hostname(), port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// Whom to trust is the question.
	client := tls.Client(conn, &tls.Config{ServerName: directory.Hostname(), InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return client.ConnectionState().PeerCertificates, nil
}

// ask fetches certificates, whoever shows them.
func ask(ctx context.Context, dial world.Dial, address string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, rootTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxRoot))
	if err != nil {
		return nil, err
	}
	var wrapped struct{ CA string } // as step-ca answers at /root/
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) && json.Unmarshal(text, &wrapped) == nil {
		text = []byte(wrapped.CA)
	}
	return certstore.ParseCertificates(text)
}

// leadsTo tells why a server's chain does not lead to a root, which signed itself, for a host's name; nil: it does.
func leadsTo(chain []*x509.Certificate, root *x509.Certificate, host string) error {
	if !root.IsCA || root.CheckSignatureFrom(root) != nil {
		return errors.New("it is no root certificate")
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	pool.AddCert(root)
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: host, Roots: pool, Intermediates: between})
	return err
}

// Fingerprint is the certificate's SHA-256 as step prints it: 64 hex digits.
func (r Root) Fingerprint() string {
	return strings.TrimPrefix(certstore.Fingerprint(r.Cert), "sha256:")
}

// Pairs is the fingerprint as openssl prints it.
func (r Root) Pairs() string {
	var pairs []string
	for pair := range slices.Chunk([]byte(strings.ToUpper(r.Fingerprint())), 2) {
		pairs = append(pairs, string(pair))
	}
	return strings.Join(pairs, ":")
}
