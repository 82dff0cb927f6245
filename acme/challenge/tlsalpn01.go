package challenge

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"maascert/internal/hint"
	"maascert/internal/world"
)

// TLSResponder answers tls-alpn-01 challenges (RFC 8737) with a certificate that holds the answer. It listens while an
// order needs it, or it stands by for other hosts' orders. It is safe for concurrent use.
type TLSResponder struct {
	Address string       // where to listen, ":443" for example
	Listen  world.Listen // nil: net.Listen
	Dial    world.Dial   // nil: the network; to see who answers when the address is taken
	Fleet   Fleet        // that gives our answers as well, and whose answers StandBy gives; nil: there is none

	mu       sync.Mutex
	users    int  // orders of this process
	standing bool // it answers for the fleet's
	listener net.Listener
	done     chan struct{}
	certs    map[string]*tls.Certificate // by SNI, for this process's own orders
	known    latest[Known]               // by the fleet
}

var _ Solver = (*TLSResponder)(nil)

// alpn is the protocol that a validator asks for.
const alpn = "acme-tls/1"

// acmeIdentifier is the extension that holds the digest of the key authorization.
var acmeIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

// Type is tls-alpn-01.
func (r *TLSResponder) Type() string { return "tls-alpn-01" }

// Open listens. An address that is taken is fine where another run on this host stands by there, which Present sees.
func (r *TLSResponder) Open(context.Context, crypto.PublicKey) (func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.start(); err != nil && !(r.Fleet != nil && errors.Is(err, syscall.EADDRINUSE)) {
		return nil, r.explain(err)
	}
	r.users++
	return sync.OnceFunc(func() {
		r.release(func() { r.users-- })
	}), nil
}

func (r *TLSResponder) explain(err error) error {
	return hint.Add(fmt.Errorf("tls-alpn-01: %w", err), "free the address, run as a user that may listen there, or set the challenge's listen")
}

// StandBy gives the answers of the fleet, whichever host orders.
func (r *TLSResponder) StandBy() (release func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.start(); err != nil {
		return nil, r.explain(err)
	}
	r.standing = true
	return sync.OnceFunc(func() {
		r.release(func() { r.standing = false })
	}), nil
}

// IsAnswered is not known of an address of which no answer is expected just now.
func (r *TLSResponder) IsAnswered(context.Context) bool { return false }

// start listens, unless it does. The caller holds the mutex.
func (r *TLSResponder) start() error {
	if r.certs == nil {
		r.certs = map[string]*tls.Certificate{}
	}
	if r.listener != nil {
		return nil
	}
	listen := r.Listen
	if listen == nil {
		listen = net.Listen
	}
	listener, err := listen("tcp", r.Address)
	if err != nil {
		return err
	}
	r.listener, r.done = newCrowd(listener), make(chan struct{})
	go r.serve(r.listener, r.done)
	return nil
}

func (r *TLSResponder) serve(listener net.Listener, done chan struct{}) {
	defer close(done)
	config := &tls.Config{GetCertificate: r.certificate, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS12}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // closed by release; one that breaks shows as a failed validation
		}
		go func() {
			defer conn.Close()
			ctx, cancel := context.WithTimeout(context.Background(), answerTime)
			defer cancel()
			// The handshake is the answer; what becomes of it is the validator's to say.
			_ = tls.Server(conn, config).HandshakeContext(ctx)
		}()
	}
}

func (r *TLSResponder) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	r.mu.Lock()
	cert, standing := r.certs[name], r.standing
	r.mu.Unlock()
	if cert != nil {
		return cert, nil
	}
	if standing {
		for _, p := range r.known.get(hello.Context(), r.Fleet.Known).Published[r.Type()] {
			if serverName(p.Name) == name {
				return challengeCertificate(p)
			}
		}
	}
	return nil, errors.New("no challenge for this name")
}

// release ends a use, and listening with the last.
func (r *TLSResponder) release(end func()) {
	r.mu.Lock()
	end()
	var done chan struct{}
	if r.users == 0 && !r.standing && r.listener != nil {
		// There is nothing to lose.
		_ = r.listener.Close()
		done, r.listener, r.certs = r.done, nil, nil
	}
	r.mu.Unlock()
	if done != nil {
		<-done
	}
}

func (r *TLSResponder) Lasts() bool { return false }

func (r *TLSResponder) Remedy() string {
	return "the CA must reach this host under each name on port 443, which must not be served by anybody else meanwhile; check DNS, firewall and the challenge's listen"
}

func (r *TLSResponder) Place(context.Context, string) (string, error) { return "", nil }

func (r *TLSResponder) Present(ctx context.Context, p Proof) error {
	cert, err := challengeCertificate(p)
	if err != nil {
		return fmt.Errorf("tls-alpn-01: %w", err)
	}
	r.mu.Lock()
	isOurs := r.listener != nil
	r.certs[serverName(p.Name)] = cert
	r.mu.Unlock()
	if r.Fleet == nil {
		return nil
	}
	if err := r.Fleet.Publish(ctx, r.Type(), p); err != nil {
		return fmt.Errorf("tls-alpn-01: %w", err)
	}
	if !isOurs && !r.answersAlready(ctx, p) {
		return r.explain(fmt.Errorf("listen tcp %s: %w, and whoever holds it does not answer for us", r.Address, syscall.EADDRINUSE))
	}
	return nil
}

func (r *TLSResponder) Retract(ctx context.Context, p Proof) error {
	r.mu.Lock()
	delete(r.certs, serverName(p.Name))
	r.mu.Unlock()
	if r.Fleet == nil {
		return nil
	}
	return r.Fleet.Withdraw(ctx, r.Type(), p)
}

// answersAlready asks whoever listens at the address for an answer, as a CA would.
func (r *TLSResponder) answersAlready(ctx context.Context, p Proof) bool {
	address, ok := localAddress(r.Address)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	dial := r.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	// What is looked at is the answer, which no CA has signed.
	client := tls.Client(conn, &tls.Config{ServerName: serverName(p.Name), NextProtos: []string{alpn}, InsecureSkipVerify: true})
	if err := client.HandshakeContext(ctx); err != nil {
		return false
	}
	state := client.ConnectionState()
	want, err := answerOf(p)
	return err == nil && state.NegotiatedProtocol == alpn && slices.ContainsFunc(state.PeerCertificates[0].Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(acmeIdentifier) && bytes.Equal(e.Value, want)
	})
}

// answerOf is the digest of a key authorization as the extension holds it (RFC 8737 section 3).
func answerOf(p Proof) ([]byte, error) {
	digest := sha256.Sum256([]byte(p.KeyAuthorization()))
	return asn1.Marshal(digest[:])
}

// challengeCertificate is self-signed, names exactly the one name, and holds the digest (RFC 8737 section 3).
func challengeCertificate(p Proof) (*tls.Certificate, error) {
	value, err := answerOf(p)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ACME challenge"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: acmeIdentifier, Critical: true, Value: value}},
	}
	if address, err := netip.ParseAddr(p.Name); err == nil {
		template.IPAddresses = []net.IP{address.AsSlice()}
	} else {
		template.DNSNames = []string{p.Name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// serverName returns the name that a validator sends as SNI: the name itself, or an address's reverse name (RFC 8738 section
// 6), because an address cannot be sent.
func serverName(name string) string {
	address, err := netip.ParseAddr(name)
	if err != nil {
		return name
	}
	octets := address.AsSlice()
	var labels []string
	for _, octet := range slices.Backward(octets) {
		if address.Is4() {
			labels = append(labels, fmt.Sprint(octet))
		} else {
			labels = append(labels, fmt.Sprintf("%x", octet&0xf), fmt.Sprintf("%x", octet>>4))
		}
	}
	zone := "ip6.arpa"
	if address.Is4() {
		zone = "in-addr.arpa"
	}
	return strings.Join(labels, ".") + "." + zone
}
