// Command server is HashiCorp Vault's own core with a file store, for tests: its key-value store and AppRole, and nothing else, over TLS. It has
// a module of its own, because it needs several hundred others. What it is asked for to begin with (sys/init, sys/unseal) it is asked for as
// any Vault is; started again on the same folder it is sealed, as any Vault is.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"

	"github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/vault"
)

// plugins are those that are built in.
type plugins map[consts.PluginType]map[string]logical.Factory

var built = plugins{
	consts.PluginTypeSecrets: {"kv": kv.Factory}, consts.PluginTypeCredential: {"approle": approle.Factory},
}

func (p plugins) Contains(name string, kind consts.PluginType) bool { return p[kind][name] != nil }

func (p plugins) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	factory, isThere := p[kind][name]
	return func() (any, error) { return factory, nil }, isThere
}

func (p plugins) Keys(kind consts.PluginType) []string { return slices.Sorted(maps.Keys(p[kind])) }

func (p plugins) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, p.Contains(name, kind)
}

func (p plugins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }

func main() {
	listen, dir := flag.String("listen", "127.0.0.1:0", "the `ADDRESS` to listen on"), flag.String("dir", "", "the `FOLDER` of its store")
	cert, key := flag.String("cert", "", "its certificate, PEM `FILE`"), flag.String("key", "", "its private key, PEM `FILE`")
	flag.Parse()
	if err := run(*listen, *dir, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(listen, dir, cert, key string) error {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr})
	store, err := file.NewFileBackend(map[string]string{"path": dir}, logger)
	if err != nil {
		return err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: store, Logger: logger, DisableMlock: true, RedirectAddr: "https://" + listen,
		LogicalBackends: built[consts.PluginTypeSecrets], CredentialBackends: built[consts.PluginTypeCredential], BuiltinRegistry: built,
	})
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{}})
	server := &http.Server{Handler: handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}}
	return server.ServeTLS(listener, "", "")
}
