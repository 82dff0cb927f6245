package preflight

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// connectTime bounds one connection to what MAAS needs.
const connectTime = 5 * time.Second

// CheckDatabase tells whether MAAS's database, which config-tls writes to, can be reached from here, and looks at its certificate.
func (h Host) CheckDatabase(ctx context.Context, regiond maasconfig.Regiond) []report.Item {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	network, address := regiond.Database()
	conn, err := h.Dial(ctx, network, address)
	if err != nil {
		return []report.Item{report.Asked("database", "", address, hint.Add(fmt.Errorf("MAAS's database cannot be reached, and maas config-tls stores nothing without it: %w", err),
			"is PostgreSQL up there, and is database_host in %s right?", h.MAAS.RegiondConf()))}
	}
	defer conn.Close()
	leaf, err := postgresCertificate(ctx, conn)
	if err != nil {
		return []report.Item{report.Asked("database", "", address, hint.Add(fmt.Errorf("who answers at the address of MAAS's database is no PostgreSQL that takes connections: %w", err),
			"is PostgreSQL up there, and is database_host in %s right?", h.MAAS.RegiondConf()))}
	}
	items := []report.Item{report.Asked("database", "somebody answers as PostgreSQL does where MAAS's database is", address, nil)}
	host, _, _ := net.SplitHostPort(address)
	switch {
	case leaf != nil:
		items = append(items, h.Lasts("database-tls", "the certificate of MAAS's database", address, leaf, "have PostgreSQL's administrator renew it: maascert does not touch it"))
	case network == "tcp" && !world.IsThisHost(host):
		items = append(items, report.Warning("database-tls", "MAAS's database takes no TLS: keys and passwords travel where others can read them", address, "set ssl = on in PostgreSQL, with a certificate"))
	}
	return items
}

// postgresCertificate asks a PostgreSQL for TLS (its frontend/backend protocol, SSLRequest) and returns the certificate that it shows; nil: it
// takes no TLS.
func postgresCertificate(ctx context.Context, conn net.Conn) (*x509.Certificate, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	const length, request = 8, 80877103
	message := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), request)
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, err
	}
	switch answer[0] {
	case 'N':
		return nil, nil
	case 'S':
	default:
		return nil, errors.New("it does not answer as PostgreSQL does")
	}
	// Whether the certificate is to be trusted is MAAS's affair; its end is what is looked at.
	secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secured.ConnectionState().PeerCertificates[0], nil
}

// vaultStates are what a Vault's health can be beside well (its API, /sys/health): the status, and what it means.
var vaultStates = map[int]struct{ what, fix string }{http.StatusNotImplemented: {"it is not initialised", "vault operator init"}, http.StatusServiceUnavailable: {"it is sealed", "vault operator unseal"}}

// CheckVault tells whether the Vault in which MAAS keeps its secrets answers, as MAAS asks it: by the system's trust (MAAS fact 7.1).
func (h Host) CheckVault(ctx context.Context, regiond maasconfig.Regiond) []report.Item {
	if regiond.Vault == "" {
		return nil
	}
	base, err := url.Parse(regiond.Vault)
	if err != nil {
		return []report.Item{report.Asked("vault", "", "", hint.Add(errors.New("vault_url is no URL"), "mend it in %s", h.MAAS.RegiondConf()))}
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("v1/sys/health").String()+"?standbyok=true", nil)
	if err != nil {
		return []report.Item{report.Asked("vault", "", base.Host, err)}
	}
	client := &http.Client{
		Transport:     &http.Transport{DialContext: h.Dial, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, TLSClientConfig: &tls.Config{RootCAs: h.Roots, MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(request)
	if err != nil {
		return []report.Item{report.Asked("vault", "", base.Host, hint.Add(fmt.Errorf("MAAS keeps its secrets in Vault, which cannot be asked: %w", errors.Unwrap(err)),
			"is Vault up, and does this host trust its certificate (update-ca-certificates)?"))}
	}
	// Its status says it all.
	_ = answer.Body.Close()
	var items []report.Item
	isWell := slices.Contains([]int{http.StatusOK, http.StatusTooManyRequests, 472, 473}, answer.StatusCode)
	if state, isWrong := vaultStates[answer.StatusCode]; !isWell && !isWrong {
		items = append(items, report.Warning("vault", "whether MAAS's Vault is well cannot be told: it answers "+printable.Phrase(answer.Status), base.Host, "vault status"))
	} else if isWrong {
		items = append(items, report.Asked("vault", "", base.Host, hint.Add(errors.New("MAAS keeps its secrets in Vault, and "+state.what), "%s", state.fix)))
	} else {
		says := fmt.Sprintf("MAAS's Vault answers; MAAS's secrets are at mount %s and path %s", regiond.Mount(), regiond.VaultPath)
		items = append(items, report.Asked("vault", printable.Phrase(says), base.Host+", "+printable.Phrase(answer.Status), nil))
	}
	if regiond.VaultRole == "" || regiond.VaultSecret == "" {
		items = append(items, report.Warning("vault", "this region is not configured to log in to MAAS's Vault: where MAAS uses it (sudo maas config-vault status says enabled), maas config-tls fails here", h.MAAS.RegiondConf(), "sudo maas config-vault configure URL APPROLE_ID WRAPPED_TOKEN SECRETS_PATH"))
	}
	switch {
	case answer.TLS != nil:
		items = append(items, h.Lasts("vault-tls", "the certificate of MAAS's Vault", base.Host, answer.TLS.PeerCertificates[0], "have Vault's administrator renew it: maascert does not touch it"))
	case !world.IsThisHost(base.Hostname()):
		items = append(items, report.Warning("vault-tls", "MAAS asks Vault without TLS: its secrets travel where others can read them", base.Host, "have Vault listen with TLS, and vault_url begin with https://"))
	}
	return items
}
