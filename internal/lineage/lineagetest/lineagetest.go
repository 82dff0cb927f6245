// Package lineagetest lays certificates out as other ACME clients do, for tests: certbot 2 and 5, acme.sh 3, lego 4 and dehydrated 0.7.
package lineagetest

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	jose "github.com/go-jose/go-jose/v4"

	"maascert/certstore"
)

// Kept is what a client keeps of one certificate.
type Kept struct {
	Name       string
	Directory  string
	Bundle     *certstore.Bundle
	AccountKey crypto.Signer
	AccountURL string
	Hook       string // that the client runs after a renewal
}

// Writers lay a certificate out in a client's folder, by client. Each returns the path that leads to it alone.
var Writers = map[string]func(folder string, k Kept) (path string, err error){"certbot": certbot, "acme.sh": acmeSH, "lego": lego, "dehydrated": dehydrated}

// write writes files by their names below a folder.
func write(folder string, files map[string]string) error {
	for name, text := range files {
		file := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func certbot(folder string, k Kept) (string, error) {
	key, err := jose.JSONWebKey{Key: k.AccountKey}.MarshalJSON()
	if err != nil {
		return "", err
	}
	server, err := url.Parse(k.Directory)
	if err != nil {
		return "", err
	}
	live, archive := filepath.Join(folder, "live", k.Name), filepath.Join(folder, "archive", k.Name)
	account := filepath.Join("accounts", server.Host, server.Path, "0123456789abcdef0123456789abcdef")
	conf := fmt.Sprintf("# renew_before_expiry = 30 days\nversion = 5.1.0\narchive_dir = %s\nprivkey = %s\nfullchain = %s\n\n# Options used in the renewal process\n[renewalparams]\n"+
		"account = %s\nauthenticator = webroot\nwebroot_path = /var/www/html,\nserver = %s\nkey_type = ecdsa\nrenew_hook = %s\n[[webroot_map]]\n%s = /var/www/html\n",
		archive, filepath.Join(live, "privkey.pem"), filepath.Join(live, "fullchain.pem"), filepath.Base(account), k.Directory, k.Hook, k.Name)
	err = write(folder, map[string]string{
		filepath.Join("renewal", k.Name+".conf"):             conf,
		filepath.Join("archive", k.Name, "privkey1.pem"):     string(k.Bundle.KeyPEM()),
		filepath.Join("archive", k.Name, "cert1.pem"):        string(k.Bundle.LeafPEM()),
		filepath.Join("archive", k.Name, "chain1.pem"):       string(k.Bundle.ChainPEM()),
		filepath.Join("archive", k.Name, "fullchain1.pem"):   string(k.Bundle.FullChainPEM()),
		filepath.Join(account, "private_key.json"):           string(key),
		filepath.Join(account, "regr.json"):                  fmt.Sprintf(`{"body": {}, "uri": %q}`, k.AccountURL),
		filepath.Join("renewal-hooks", "deploy", "maas-tls"): "#!/bin/sh\n",
	})
	if err != nil {
		return "", err
	}
	if err := os.Chmod(filepath.Join(folder, "renewal-hooks", "deploy", "maas-tls"), 0o700); err != nil {
		return "", err
	}
	if err := os.MkdirAll(live, 0o700); err != nil {
		return "", err
	}
	for _, name := range []string{"privkey", "cert", "chain", "fullchain"} {
		if err := os.Symlink(filepath.Join("..", "..", "archive", k.Name, name+"1.pem"), filepath.Join(live, name+".pem")); err != nil {
			return "", err
		}
	}
	return live, nil
}

func acmeSH(folder string, k Kept) (string, error) {
	key, err := certstore.MarshalKey(k.AccountKey)
	if err != nil {
		return "", err
	}
	server, err := url.Parse(k.Directory)
	if err != nil {
		return "", err
	}
	account, at := filepath.Join("ca", server.Hostname(), server.Path), k.Name+"_ecc"
	conf := fmt.Sprintf("Le_Domain='%s'\nLe_Alt='no'\nLe_Webroot='dns_nsupdate'\nLe_Keylength='ec-256'\nLe_API='%s'\nLe_ReloadCmd='__ACME_BASE64__START_%s__ACME_BASE64__END_'\n",
		k.Name, k.Directory, base64.StdEncoding.EncodeToString([]byte(k.Hook)))
	return filepath.Join(folder, at), write(folder, map[string]string{
		filepath.Join(at, k.Name+".conf"):        conf,
		filepath.Join(at, k.Name+".key"):         string(k.Bundle.KeyPEM()),
		filepath.Join(at, k.Name+".cer"):         string(k.Bundle.LeafPEM()),
		filepath.Join(at, "fullchain.cer"):       string(k.Bundle.FullChainPEM()),
		filepath.Join(account, "account.key"):    string(key),
		filepath.Join(account, "ca.conf"):        fmt.Sprintf("ACCOUNT_URL='%s'\nCA_EMAIL='ops@example.com'\n", k.AccountURL),
		"account.conf":                           "LOG_FILE='/root/.acme.sh/acme.sh.log'\n",
		filepath.Join("dnsapi", "nsupdate.conf"): "",
	})
}

func lego(folder string, k Kept) (string, error) {
	key, err := certstore.MarshalKey(k.AccountKey)
	if err != nil {
		return "", err
	}
	server, err := url.Parse(k.Directory)
	if err != nil {
		return "", err
	}
	type document = map[string]any
	known, err := json.Marshal(document{"domain": k.Name, "certUrl": "https://" + server.Host + "/certZ/1"})
	if err != nil {
		return "", err
	}
	registered, err := json.Marshal(document{"email": "ops@example.com", "registration": document{"body": document{"status": "valid"}, "uri": k.AccountURL}})
	if err != nil {
		return "", err
	}
	account := filepath.Join("accounts", strings.ReplaceAll(server.Host, ":", "_"), "ops@example.com")
	at := filepath.Join("certificates", k.Name)
	return filepath.Join(folder, at+".json"), write(folder, map[string]string{
		at + ".crt":                            string(k.Bundle.LeafPEM()),
		at + ".issuer.crt":                     string(k.Bundle.ChainPEM()),
		at + ".key":                            string(k.Bundle.KeyPEM()),
		at + ".json":                           string(known),
		filepath.Join(account, "account.json"): string(registered),
		filepath.Join(account, "keys", filepath.Base(account)+".key"): string(key),
	})
}

func dehydrated(folder string, k Kept) (string, error) {
	key, err := certstore.MarshalKey(k.AccountKey)
	if err != nil {
		return "", err
	}
	account, at := filepath.Join("accounts", base64.RawURLEncoding.EncodeToString([]byte(k.Directory+"\n"))), filepath.Join("certs", k.Name)
	err = write(folder, map[string]string{
		filepath.Join(account, "account_key.pem"):        string(key),
		filepath.Join(account, "account_id.json"):        fmt.Sprintf(`{"url":%q}`, k.AccountURL),
		filepath.Join(account, "registration_info.json"): `{"contact": ["mailto:ops@example.com"], "status": "valid"}`,
		filepath.Join(at, "privkey-1700000000.pem"):      string(k.Bundle.KeyPEM()),
		filepath.Join(at, "cert-1700000000.pem"):         string(k.Bundle.LeafPEM()),
		filepath.Join(at, "chain-1700000000.pem"):        string(k.Bundle.ChainPEM()),
		filepath.Join(at, "fullchain-1700000000.pem"):    string(k.Bundle.FullChainPEM()),
		"config":      fmt.Sprintf("BASEDIR=%s\nCA=%q\nWELLKNOWN=\"${BASEDIR}/acme-challenges\"\nHOOK=%q\n", folder, k.Directory, k.Hook),
		"domains.txt": k.Name + "\n",
	})
	for _, name := range []string{"privkey", "cert", "chain", "fullchain"} {
		if err == nil {
			err = os.Symlink(name+"-1700000000.pem", filepath.Join(folder, at, name+".pem"))
		}
	}
	return filepath.Join(folder, at), err
}
