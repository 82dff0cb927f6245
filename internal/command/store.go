package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/certstore/postgres"
	"maascert/certstore/sealed"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
)

// openStore opens the store that a configuration names. It asks nothing yet. One that cannot be opened now, such as while MAAS's snap is
// refreshed, is opened by whoever asks it first when it can be.
func (a *app) openStore(config *config.Config) certstore.Store {
	late := &lateStore{isOpen: make(chan struct{}), open: func(ctx context.Context) (certstore.Store, error) {
		store, err := a.openSealedStore(ctx, config)
		if err != nil {
			return nil, hint.Add(fmt.Errorf("store: %w", err), "mend the section store: of the configuration")
		}
		return store, nil
	}}
	if store, err := late.opened(context.Background()); err == nil {
		return store
	}
	return late
}

func (a *app) openSealedStore(ctx context.Context, config *config.Config) (certstore.Store, error) {
	store, err := a.openPlainStore(ctx, config)
	if err != nil || !config.Store.Seal.IsSet() {
		return store, err
	}
	if vault := config.Store.Seal.Vault; vault != nil {
		keys, err := vault.Open(a.dial, a.now)
		if err != nil {
			return nil, err
		}
		return certstore.NewKeysApart(store, keys), nil
	}
	seals, err := config.Store.Seals()
	if err != nil {
		return nil, err
	}
	return sealed.New(store, seals...)
}

func (a *app) openPlainStore(ctx context.Context, c *config.Config) (certstore.Store, error) {
	if !c.Store.IsShared() {
		store := certstore.NewFileStore(a.fsys, c.Store.Path)
		store.Node = c.Node
		return store, nil
	}
	read := func(ctx context.Context) (string, error) {
		if c.Store.URL == config.OfRegiond {
			return maasconfig.ReadDatabaseURL(ctx, c.MAAS.Installation(c.StateDir, a.fsys, a.runner()))
		}
		return c.Store.DatabaseURL()
	}
	address, err := read(ctx)
	if err != nil {
		return nil, err
	}
	return a.database(postgres.Config{URL: address, Node: c.Node, Again: read})
}

func openDatabase(c postgres.Config) (certstore.Store, error) {
	store, err := postgres.Open(c)
	if err != nil {
		return nil, err
	}
	return store, nil
}

// closeStore closes what a store keeps open.
func closeStore(store certstore.Store) {
	if open, ok := store.(interface{ Close() }); ok {
		open.Close()
	}
}

// lateStore is one that could not be opened: whatever it is asked, it tries again, and says why where it still cannot.
type lateStore struct {
	open   func(context.Context) (certstore.Store, error)
	isOpen chan struct{} // closed when store is there

	mu    sync.Mutex
	store certstore.Store
}

var _ interface {
	certstore.Store
	certstore.Watcher
} = (*lateStore)(nil)

func (l *lateStore) opened(ctx context.Context) (certstore.Store, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store != nil {
		return l.store, nil
	}
	store, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	l.store = store
	close(l.isOpen)
	return store, nil
}

func (l *lateStore) Read(ctx context.Context, name string) ([]byte, certstore.Revision, error) {
	store, err := l.opened(ctx)
	if err != nil {
		return nil, "", err
	}
	return store.Read(ctx, name)
}

func (l *lateStore) Write(ctx context.Context, name string, data []byte, prev certstore.Revision) (certstore.Revision, error) {
	store, err := l.opened(ctx)
	if err != nil {
		return "", err
	}
	return store.Write(ctx, name, data, prev)
}

func (l *lateStore) Delete(ctx context.Context, name string) error {
	store, err := l.opened(ctx)
	if err != nil {
		return err
	}
	return store.Delete(ctx, name)
}

func (l *lateStore) List(ctx context.Context, folder string) ([]string, error) {
	store, err := l.opened(ctx)
	if err != nil {
		return nil, err
	}
	return store.List(ctx, folder)
}

// Gather reads ahead, where that is faster.
func (l *lateStore) Gather(ctx context.Context, wanted certstore.Wanted) (certstore.Gathered, error) {
	store, err := l.opened(ctx)
	if err != nil {
		return certstore.Gathered{}, err
	}
	gatherer, isFaster := store.(certstore.Gatherer)
	if !isFaster {
		return certstore.Gathered{}, errors.ErrUnsupported
	}
	return gatherer.Gather(ctx, wanted)
}

func (l *lateStore) Writable(ctx context.Context) error {
	store, err := l.opened(ctx)
	if err != nil {
		return err
	}
	return store.Writable(ctx)
}

func (l *lateStore) Lock(ctx context.Context, name string) (*certstore.Held, error) {
	store, err := l.opened(ctx)
	if err != nil {
		return nil, err
	}
	return store.Lock(ctx, name)
}

func (l *lateStore) Holder(ctx context.Context, name string) (*certstore.Holder, error) {
	store, err := l.opened(ctx)
	if err != nil {
		return nil, err
	}
	return store.Holder(ctx, name)
}

// Watch waits until the store is open, and then tells of what others write, where that store can tell.
func (l *lateStore) Watch(ctx context.Context, changed func()) {
	select {
	case <-ctx.Done():
		return
	case <-l.isOpen:
	}
	if watcher, isShared := l.store.(certstore.Watcher); isShared {
		watcher.Watch(ctx, changed)
	}
}

// Below is the store itself, once it is open.
func (l *lateStore) Below() certstore.Store {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.store
}

// Close closes what the store keeps open, if it was opened.
func (l *lateStore) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	closeStore(l.store)
}

func (a *app) storeCommand() *cobra.Command {
	toOption := textOption("to", "", "the configuration `FILE` that names the other store")
	return a.command(spec{name: "store", group: aside, short: "where certificates are kept", commands: []*cobra.Command{
		a.command(spec{
			name: "copy", short: "copies everything into the store that another configuration names, which must be empty",
			long:    "It works under the locks of both stores: stop the daemons first, or wait for their passes with --wait.\nThe old store keeps what it holds.",
			options: []option{toOption, switchOption("force", "copy although the other store is not empty: what has the same name there is replaced"), waitOption()},
			action:  a.storeCopy,
		}),
		a.command(spec{
			name: "remove-keys", short: "removes from Vault the keys of a store that was copied into another one, and is of no use afterwards",
			long:    "The store is that of this configuration (--config), the other one that of --to, which has to have a certificate for each, with its key.\nIt copies nothing, and can be done again where Vault went away meanwhile.",
			options: []option{toOption, switchOption("yes", "do not ask"), waitOption()},
			action:  a.storeRemoveKeys,
		}),
	}})
}

// copyingTo opens the store of the configuration and the one of another, which --to names.
func (a *app) copyingTo(c *call) (*copying, error) {
	if c.text("to") == "" {
		return nil, hint.Add(errors.New(c.name()+": --to is missing"), "maascert %s --to FILE, a configuration that names the other store", c.name())
	}
	from, err := a.config(c)
	if err != nil {
		return nil, err
	}
	to, err := config.Load(c.text("to"), a.types)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if from.Store.Place() == to.Store.Place() && !from.Store.IsShared() {
		return nil, fmt.Errorf("%s: both configurations name %s", c.name(), to.Store.Place())
	}
	return &copying{
		source: a.openStore(from), target: a.openStore(to), from: from, to: to, options: lifecycle.Options{Wait: c.duration("wait")},
	}, nil
}

// failed says what went wrong with a store, and ends with the code for that.
func (a *app) failed(err error) error {
	a.complain(err)
	if errors.Is(err, certstore.ErrLocked) {
		return outcome(exitNotNow)
	}
	return outcome(exitAttention)
}

func (a *app) storeCopy(c *call) error {
	copying, err := a.copyingTo(c)
	if err != nil {
		return err
	}
	defer copying.close()
	copying.force = c.isOn("force")
	copied, err := copying.run(c.Context)
	if err != nil {
		return a.failed(err)
	}
	fmt.Fprintf(a.words, "copied %d documents into %s\n", copied, copying.to.Store.Place())
	old := copying.from.Store.Place()
	vault := copying.from.Store.Seal.Vault
	if vault == nil {
		fmt.Fprintf(a.words, "%s still holds what it held, keys and all: remove it when the new one has proven itself\n", old)
		return nil
	}
	folder, err := certstore.KeyFolder(c.Context, copying.source)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.words, "%s still holds what it held, and Vault its keys, at %s/%s: when the new one has proven itself, maascert --config OLD store remove-keys --to NEW removes these\n",
		old, vault.Place(), folder)
	return nil
}

func (a *app) storeRemoveKeys(c *call) error {
	copying, err := a.copyingTo(c)
	if err != nil {
		return err
	}
	defer copying.close()
	old := copying.from.Store.Place()
	if copying.from.Store.Seal.Vault == nil {
		return fmt.Errorf("store remove-keys: %s keeps its keys itself, and not in Vault", old)
	}
	if err := a.confirm(c, fmt.Sprintf("Remove the private keys of %s from Vault? It is of no use afterwards.", old)); err != nil {
		return err
	}
	removed, err := copying.removeKeys(c.Context)
	if err != nil {
		return a.failed(err)
	}
	fmt.Fprintf(a.words, "removed %d keys from Vault: %s is of no use any more, remove it\n", removed, old)
	return nil
}

// copying is everything on its way from one store into another.
type copying struct {
	source, target certstore.Store
	from, to       *config.Config
	options        lifecycle.Options
	force          bool
}

func (c *copying) close() {
	closeStore(c.source)
	closeStore(c.target)
}

// lock takes the locks of all certificates in both stores, and returns their names.
func (c *copying) lock(ctx context.Context) (certs []string, unlock func(), err error) {
	certs, err = c.certificates(ctx)
	if err != nil {
		return nil, nil, err
	}
	var all []*certstore.Held
	unlock = func() {
		for _, held := range all {
			held.Unlock()
		}
	}
	for _, store := range []certstore.Store{c.source, c.target} {
		for _, cert := range certs {
			held, err := certstore.LockWithin(ctx, store, cert, c.options.Wait)
			if err != nil {
				unlock()
				return nil, nil, err
			}
			all = append(all, held)
		}
	}
	return certs, unlock, nil
}

func (c *copying) run(ctx context.Context) (copied int, err error) {
	certs, unlock, err := c.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	names, err := documentsOf(ctx, c.source, certs)
	if err != nil {
		return 0, err
	}
	there, err := documentsOf(ctx, c.target, certs)
	if err != nil {
		return 0, err
	}
	if len(there) > 0 && !c.force {
		return 0, hint.Add(fmt.Errorf("store copy: the other store is not empty: it has %s and %d more", there[0], len(there)-1), "--force replaces what has the same name there")
	}
	for _, name := range names {
		if err := c.copy(ctx, name); err != nil {
			return copied, err
		}
		copied++
	}
	return copied, nil
}

// removeKeys removes the keys of the source from where they are kept, once the target needs none of them.
func (c *copying) removeKeys(ctx context.Context) (removed int, err error) {
	_, unlock, err := c.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if err := c.checkTarget(ctx); err != nil {
		return 0, hint.Add(fmt.Errorf("store remove-keys: %w", err), "maascert store copy --to FILE first, and maascert --config FILE status")
	}
	return certstore.RemoveKeys(ctx, c.source)
}

// checkTarget tells whether the target can do without the source: it has other keys, and one for the account and for every certificate of the
// source's.
func (c *copying) checkTarget(ctx context.Context) error {
	theirs, err := certstore.KeyFolder(ctx, c.source)
	if err != nil {
		return err
	}
	if ours, err := certstore.KeyFolder(ctx, c.target); err != nil || ours == theirs && ours != "" {
		return cmp.Or(err, errors.New("the other store uses the same keys, perhaps because its database is a copy of this one's"))
	}
	certs, err := c.source.List(ctx, "state")
	if err != nil {
		return err
	}
	if _, _, err := c.source.Read(ctx, "account"); err == nil {
		if _, _, err := certstore.ReadWhole(ctx, c.target, "account"); err != nil {
			return fmt.Errorf("the ACME account in the other store: %w", err)
		}
	}
	for _, cert := range certs {
		record, _, err := certstore.LoadRecord(ctx, c.target, cert)
		if err == nil {
			_, _, err = certstore.ReadWhole(ctx, c.target, fmt.Sprintf("versions/%s/%d", cert, record.Current))
		}
		if err != nil {
			return fmt.Errorf("certificate %s in the other store: %w", cert, err)
		}
	}
	return nil
}

// certificates are those of which either store holds something, and those that are configured.
func (c *copying) certificates(ctx context.Context) ([]string, error) {
	var certs []string
	for _, cert := range c.from.Certificates {
		certs = append(certs, cert.Name)
	}
	for _, store := range []certstore.Store{c.source, c.target} {
		names, err := store.List(ctx, "state")
		if err != nil {
			return nil, err
		}
		certs = append(certs, names...)
	}
	slices.Sort(certs)
	return slices.Compact(certs), nil
}

// documentsOf are the names of all documents that a store holds of some certificates, and of all beside them; the record of a certificate
// comes after its versions, so that one that is there is whole.
func documentsOf(ctx context.Context, store certstore.Store, certs []string) ([]string, error) {
	var all []string
	if _, _, err := store.Read(ctx, "account"); err == nil {
		all = append(all, "account")
	} else if !errors.Is(err, certstore.ErrNotFound) {
		return nil, err
	}
	folders := []string{"nodes"}
	for _, cert := range certs {
		folders = append(folders, "versions/"+cert)
	}
	for _, folder := range append(folders, "state") {
		names, err := store.List(ctx, folder)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all = append(all, folder+"/"+name)
		}
	}
	return all, nil
}

// copy copies one document and reads it again.
func (c *copying) copy(ctx context.Context, name string) error {
	data, _, err := certstore.ReadWhole(ctx, c.source, name)
	if err != nil {
		return err
	}
	have, revision, err := certstore.ReadWhole(ctx, c.target, name)
	switch {
	case errors.Is(err, certstore.ErrNotFound):
	case err != nil:
		return err
	case bytes.Equal(have, data):
		return nil
	}
	if _, err := c.target.Write(ctx, name, data, revision); err != nil {
		return err
	}
	written, _, err := certstore.ReadWhole(ctx, c.target, name)
	if err == nil && !bytes.Equal(written, data) {
		err = fmt.Errorf("store: %s: what was written reads otherwise", name)
	}
	return err
}
