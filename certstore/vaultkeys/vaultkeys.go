// Package vaultkeys keeps private keys in HashiCorp Vault: in the second version of its key-value store (KV v2), under a role of the AppRole
// method.
//
// It promises that a key is written once and never changed, by check-and-set; that a deleted key leaves nothing behind, metadata included;
// that a key is called missing only when Vault itself says so; that no error tells a key, a token, or what one logs in with; that a token which
// has expired or was revoked costs another login and no failure; and that Vault's answer is waited for and read in bounds.
//
// Start reading at [Keys]; gate.go says what counts as an answer, login.go how a token is had, errors.go what is said when there is none.
package vaultkeys

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"maascert/certstore"
	"maascert/internal/hint"
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
const requestTime = 5 * time.Second

// Keys are those that Vault keeps. They are safe for concurrent use.
type Keys struct {
	config   Config
	client   *api.Client // has no token: each question brings its own
	gate     *gate
	entering chan struct{} // is full while somebody sees to another token

	hung      atomic.Pointer[time.Time] // when it did not answer in time
	isMounted atomic.Bool               // it was seen that the mount is there and keeps versions

	mu     sync.Mutex
	token  token
	sent   []string // what was logged in with last, and tokens of late: no error tells them
	logins logins
}

var _ certstore.KeyKeeper = (*Keys)(nil)

// New asks nobody yet. The environment of the vault program (VAULT_TOKEN and its like) counts for nothing, but must be one that can be read.
func New(config Config) (*Keys, error) {
	g := &gate{RoundTripper: &http.Transport{
		DialContext: config.Dial, TLSClientConfig: &tls.Config{RootCAs: config.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: requestTime, ResponseHeaderTimeout: requestTime, IdleConnTimeout: time.Minute,
	}}
	client, err := api.NewClient(&api.Config{Address: config.Address, HttpClient: &http.Client{Transport: g}, Timeout: requestTime, DisableRedirects: true, ReadYourWrites: true})
	if err != nil {
		return nil, hint.Add(fmt.Errorf("vault: %w", err), "is there a variable VAULT_… in the environment that cannot be read? maascert needs none of them")
	}
	if err := client.SetAddress(config.Address); err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	client.SetMaxRetries(0)
	client.ClearToken()
	client.SetHeaders(http.Header{"X-Vault-Request": {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	if config.Namespace != "" {
		client.SetNamespace(config.Namespace)
	}
	return &Keys{config: config, client: client, gate: g, entering: make(chan struct{}, 1)}, nil
}

func (k *Keys) store() *api.KVv2 { return k.client.KVv2(k.config.Mount) }

// at is where a key or a folder is, below the mount.
func (k *Keys) at(name string) (string, error) {
	if err := certstore.CheckName(name); err != nil {
		return "", err
	}
	return k.config.Path + "/" + name, nil
}

// field is under which a key stands in its secret.
const field = "key"

// Put keeps a key under a name that has none; it is there when it returns nil.
func (k *Keys) Put(ctx context.Context, name string, key []byte) error {
	at, err := k.at(name)
	if err != nil {
		return err
	}
	err = k.put(ctx, at, key, 0)
	if errors.Is(err, errShortLived) {
		return errors.Join(err, k.Delete(ctx, name)) // it would be believed to be kept
	}
	if !isCheckAndSet(err) {
		return err
	}
	switch have, err := k.Get(ctx, name); {
	case err == nil && string(have) == string(key):
		known, err := k.known(ctx, at)
		if err == nil && !known.Versions[fmt.Sprint(known.CurrentVersion)].DeletionTime.IsZero() {
			err = k.explain(errShortLived, nil)
		}
		return err
	case err == nil:
		return fmt.Errorf("vault: %s: %w", at, certstore.ErrOtherKey)
	case !errors.Is(err, certstore.ErrNotFound):
		return err
	}
	// A person deleted it and Vault still knows of it: the next version is the same key again.
	known, err := k.known(ctx, at)
	if err == nil {
		err = k.put(ctx, at, key, known.CurrentVersion)
	}
	if isCheckAndSet(err) || errors.Is(err, certstore.ErrNotFound) {
		return k.away(fmt.Errorf("%s is being changed by somebody else", at), "")
	}
	return err
}

// put writes a version of a secret over that version alone; 0: over none.
func (k *Keys) put(ctx context.Context, at string, key []byte, over int) error {
	return k.ask(ctx, []string{string(key)}, func(ctx context.Context) error {
		kept, err := k.store().Put(ctx, at, map[string]any{field: string(key)}, api.WithCheckAndSet(over))
		switch {
		case isMissing(err):
			return errOldMount
		case err == nil && kept.VersionMetadata != nil && !kept.VersionMetadata.DeletionTime.IsZero():
			return errShortLived
		}
		return err
	})
}

// Get returns a key.
func (k *Keys) Get(ctx context.Context, name string) ([]byte, error) {
	at, err := k.at(name)
	if err != nil {
		return nil, err
	}
	var secret *api.KVSecret
	err = k.ask(ctx, nil, func(ctx context.Context) (err error) {
		secret, err = k.store().Get(ctx, at)
		return err
	})
	if err != nil {
		return nil, err
	}
	key, isText := secret.Data[field].(string)
	switch {
	case isText:
		return []byte(key), nil
	case secret.Data == nil:
		return nil, fmt.Errorf("vault: %s was deleted: %w", at, certstore.ErrNotFound)
	default:
		return nil, k.away(fmt.Errorf("%s is not what maascert wrote there", at), "who else writes there? maascert needs a path of its own")
	}
}

// Delete removes all versions of a key and what is known of them.
func (k *Keys) Delete(ctx context.Context, name string) error {
	at, err := k.at(name)
	if err != nil {
		return err
	}
	err = k.ask(ctx, nil, func(ctx context.Context) error { return k.store().DeleteMetadata(ctx, at) })
	if errors.Is(err, certstore.ErrNotFound) {
		return nil
	}
	return err
}

// List lists a folder.
func (k *Keys) List(ctx context.Context, folder string) (keys, folders []string, err error) {
	at, err := k.at(folder)
	if err != nil {
		return nil, nil, err
	}
	var listed *api.Secret
	err = k.ask(ctx, nil, func(ctx context.Context) (err error) {
		listed, err = k.client.Logical().ListWithContext(ctx, k.config.Mount+"/metadata/"+at)
		return err
	})
	if err != nil || listed == nil {
		return nil, nil, err
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

// known is what Vault knows of a secret.
func (k *Keys) known(ctx context.Context, at string) (known *api.KVMetadata, err error) {
	err = k.ask(ctx, nil, func(ctx context.Context) (err error) {
		known, err = k.store().GetMetadata(ctx, at)
		return err
	})
	return known, err
}

// Age is how long ago a key was put, by Vault's clock.
func (k *Keys) Age(ctx context.Context, name string) (age time.Duration, err error) {
	at, err := k.at(name)
	if err != nil {
		return 0, err
	}
	var known *api.KVMetadata
	var now time.Time
	err = k.ask(ctx, nil, func(ctx context.Context) (err error) {
		known, err = k.store().GetMetadata(ctx, at)
		now = ctx.Value(passedKey{}).(*passed).date
		return err
	})
	if err != nil {
		return 0, err
	}
	newest, isThere := known.Versions[fmt.Sprint(known.CurrentVersion)]
	// A mount may delete what is old at a time to come. A Date header counts whole seconds.
	isDeleted := !newest.DeletionTime.IsZero() && newest.DeletionTime.Before(now.Add(2*time.Second))
	if !isThere || newest.Destroyed || isDeleted {
		return 0, fmt.Errorf("vault: %s was deleted: %w", at, certstore.ErrNotFound)
	}
	if now.IsZero() {
		return 0, nil // nobody says how late it is there
	}
	return now.Sub(newest.CreatedTime), nil
}

// Close gives the token back, so that it is good for nobody any more.
func (k *Keys) Close() {
	k.mu.Lock()
	have := k.token
	k.token = token{}
	k.mu.Unlock()
	if have.text != "" {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		// It expires by itself where Vault is away.
		_ = k.client.Auth().Token().RevokeSelfWithContext(with(ctx, &passed{token: have.text}), "")
	}
	k.client.CloneConfig().HttpClient.CloseIdleConnections()
}

// host is Vault's, for people.
func (k *Keys) host() string {
	if parsed, err := url.Parse(k.config.Address); err == nil {
		return parsed.Host
	}
	return k.config.Address
}
