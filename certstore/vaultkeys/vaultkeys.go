// Package vaultkeys keeps private keys in HashiCorp Vault: in the second version of its key-value store (KV v2), under a role of the AppRole
// method.
//
// It promises that a key is written once and never changed, by check-and-set; that a deleted key leaves nothing behind, metadata included;
// that no error tells a key, a token, or what one logs in with; that a token which has expired or was revoked costs another login and no
// failure; and that Vault's answer is waited for and read in bounds.
//
// Start reading at [Keys]; login.go says how it gets a token, errors.go what it says when it does not.
package vaultkeys

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"maascert/certstore"
	"maascert/internal/world"
)

// Config says where in Vault keys are kept, and who asks.
type Config struct {
	Address   string                 // URL of Vault, https://vault.example.internal:8200
	Namespace string                 // of Vault Enterprise; empty: none
	Mount     string                 // of the KV v2 store, such as secret
	Path      string                 // below it, where the keys are, such as maascert
	AppRole   string                 // path of the AppRole method, approle
	RoleID    func() (string, error) // read at each login
	SecretID  func() (string, error) // likewise, so that one which is replaced counts at once
	Roots     *x509.CertPool         // that Vault's certificate leads to; nil: the system's
	Dial      world.Dial
	Now       func() time.Time
}

// requestTime is how long Vault may take for one answer.
const requestTime = 10 * time.Second

// mostAnswer is how many bytes of an answer are read: a key has a few thousand.
const mostAnswer = 1 << 20

// Keys are those that Vault keeps. They are safe for concurrent use.
type Keys struct {
	config Config
	client *api.Client

	mu    sync.Mutex
	token token
	sent  []string // secrets that Vault was told, or told us: no error tells them
}

var _ certstore.KeyKeeper = (*Keys)(nil)

// New asks nobody yet. The environment of the vault program (VAULT_TOKEN and its like) counts for nothing.
func New(config Config) (*Keys, error) {
	transport := &http.Transport{
		DialContext: config.Dial, TLSClientConfig: &tls.Config{RootCAs: config.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: requestTime, ResponseHeaderTimeout: requestTime, IdleConnTimeout: time.Minute,
	}
	client, err := api.NewClient(&api.Config{
		Address: config.Address, HttpClient: &http.Client{Transport: bounded{transport}, CheckRedirect: stay}, Timeout: requestTime, DisableRedirects: true,
	})
	if err != nil {
		return nil, err
	}
	if err := client.SetAddress(config.Address); err != nil {
		return nil, err
	}
	client.SetMaxRetries(0)
	client.ClearToken()
	client.ClearNamespace()
	if config.Namespace != "" {
		client.SetNamespace(config.Namespace)
	}
	return &Keys{config: config, client: client}, nil
}

// stay leads nobody elsewhere: what one logs in with, and tokens, go to the configured address alone.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// bounded reads no more of an answer than mostAnswer.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(answer.Body, mostAnswer), answer.Body}
	}
	return answer, err
}

func (k *Keys) store() *api.KVv2 { return k.client.KVv2(k.config.Mount) }

// at is where a key or a folder is, below the mount.
func (k *Keys) at(name string) string { return k.config.Path + "/" + name }

// field is under which a key stands in its secret.
const field = "key"

// Put keeps a key under a name that has none; it is there when it returns nil.
func (k *Keys) Put(ctx context.Context, name string, key []byte) error {
	encoded, err := json.Marshal(string(key))
	if err != nil {
		return err
	}
	err = k.ask(ctx, func(ctx context.Context) error {
		_, err := k.store().Put(ctx, k.at(name), map[string]any{field: string(key)}, api.WithCheckAndSet(0))
		return err
	})
	if !isCheckAndSet(err) {
		return k.explain(err, string(key), strings.Trim(string(encoded), `"`))
	}
	have, err := k.Get(ctx, name)
	switch {
	case errors.Is(err, certstore.ErrNotFound):
		// A person deleted its last version and kept its metadata. Nothing is written over what is not understood.
		return fmt.Errorf("vault: %s was deleted by somebody else and is still listed: %w", k.at(name), certstore.ErrConflict)
	case err != nil:
		return err
	case string(have) != string(key):
		return fmt.Errorf("vault: %s: %w", k.at(name), certstore.ErrConflict)
	}
	return nil
}

// Get returns a key.
func (k *Keys) Get(ctx context.Context, name string) ([]byte, error) {
	var secret *api.KVSecret
	err := k.ask(ctx, func(ctx context.Context) (err error) {
		secret, err = k.store().Get(ctx, k.at(name))
		return err
	})
	if err != nil {
		return nil, k.explain(err)
	}
	key, isText := secret.Data[field].(string)
	if !isText {
		return nil, fmt.Errorf("vault: %s: %w", k.at(name), certstore.ErrNotFound)
	}
	return []byte(key), nil
}

// Delete removes all versions of a key and what is known of them.
func (k *Keys) Delete(ctx context.Context, name string) error {
	err := k.ask(ctx, func(ctx context.Context) error { return k.store().DeleteMetadata(ctx, k.at(name)) })
	if errors.Is(k.explain(err), certstore.ErrNotFound) {
		return nil
	}
	return k.explain(err)
}

// List lists a folder.
func (k *Keys) List(ctx context.Context, folder string) (keys, folders []string, err error) {
	var listed *api.Secret
	err = k.ask(ctx, func(ctx context.Context) (err error) {
		listed, err = k.client.Logical().ListWithContext(ctx, k.config.Mount+"/metadata/"+k.at(folder))
		return err
	})
	if err != nil || listed == nil {
		return nil, nil, k.explain(err)
	}
	names, _ := listed.Data["keys"].([]any)
	for _, one := range names {
		name, _ := one.(string)
		if below, isFolder := strings.CutSuffix(name, "/"); isFolder {
			folders = append(folders, below)
		} else if name != "" {
			keys = append(keys, name)
		}
	}
	slices.Sort(keys)
	slices.Sort(folders)
	return keys, folders, nil
}

// Since is when a key was put, by Vault's clock.
func (k *Keys) Since(ctx context.Context, name string) (time.Time, error) {
	var known *api.KVMetadata
	err := k.ask(ctx, func(ctx context.Context) (err error) {
		known, err = k.store().GetMetadata(ctx, k.at(name))
		return err
	})
	if err != nil {
		return time.Time{}, k.explain(err)
	}
	return known.CreatedTime, nil
}

// Ready tells without changing anything whether keys can be put and got now: Vault is there, unsealed, and lets us in.
func (k *Keys) Ready(ctx context.Context) error {
	return k.explain(k.ask(ctx, func(ctx context.Context) error {
		_, err := k.client.Auth().Token().LookupSelfWithContext(ctx)
		return err
	}))
}

// Close gives the token back, so that it is good for nobody any more.
func (k *Keys) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token.isSet() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		// It expires by itself where Vault is away.
		_ = k.client.Auth().Token().RevokeSelfWithContext(ctx, "")
		k.forget()
	}
}

// host is Vault's, for people.
func (k *Keys) host() string {
	if parsed, err := url.Parse(k.config.Address); err == nil {
		return parsed.Host
	}
	return k.config.Address
}
