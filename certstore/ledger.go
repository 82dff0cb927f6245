package certstore

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
)

// Ledger is one certificate's record in hand, with the index of its versions: read once, changed under its revision, and read
// again when somebody else was faster. A version is opened once, however often it is asked for; whoever only wants to know
// what there is opens none. It is safe for concurrent use.
type Ledger struct {
	cert string

	mu       sync.Mutex
	store    Store
	data     []byte                 // of the record's document; nil: there is none
	listed   map[string]VersionInfo // by the record, by fingerprint
	revision Revision
	stale    bool                   // the document may have changed since it was read
	index    map[string]VersionInfo // by fingerprint
	opened   map[int]Version
	above    int // versions that are added have higher numbers
}

// OpenLedger reads the record of a certificate, and finds out which versions there are.
func OpenLedger(ctx context.Context, store Store, cert string) (*Ledger, error) {
	l := &Ledger{cert: cert, store: Ahead(ctx, store, LedgerReads(cert)), opened: map[int]Version{}}
	err := l.Reread(ctx)
	l.store = store
	return l, err
}

// LedgerReads is what is read to open the ledgers of some certificates.
func LedgerReads(certs ...string) (wanted Wanted) {
	for _, cert := range certs {
		wanted.Documents = append(wanted.Documents, "state/"+cert)
		wanted.Lists = append(wanted.Lists, "versions/"+cert)
	}
	return wanted
}

// Store is where the ledger is read and written.
func (l *Ledger) Store() Store {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.store
}

// In has the ledger write to another store that holds the same documents, such as a lock that is held.
func (l *Ledger) In(store Store) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.store = store
}

// Reread reads the record again, and what versions there are.
func (l *Ledger) Reread(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.read(ctx); err != nil {
		return err
	}
	return l.complete(ctx)
}

func (l *Ledger) read(ctx context.Context) error {
	l.stale = true
	data, revision, err := l.store.Read(ctx, l.name())
	if errors.Is(err, ErrNotFound) {
		data, revision, err = nil, "", nil
	}
	if err != nil {
		return err
	}
	record, err := l.decoded(data)
	if err != nil {
		return err
	}
	l.data, l.listed, l.revision, l.stale = data, record.Versions, revision, false
	return nil
}

func (l *Ledger) name() string { return "state/" + l.cert }

// decoded is the record, which shares nothing with anybody.
func (l *Ledger) decoded(data []byte) (record Record, err error) {
	if data == nil {
		return Record{V: format}, nil
	}
	return record, decode(l.name(), data, &record, func() int { return record.V })
}

// Record is the record as it was read or written last.
func (l *Ledger) Record() Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	// What is in hand was decoded before.
	record, _ := l.decoded(l.data)
	return record
}

// complete brings the index to what versions there are. Those that the record does not list are opened: it was written by an
// earlier maascert, or a run was killed before it listed one. One that cannot be read is left out.
func (l *Ledger) complete(ctx context.Context) error {
	numbers, err := versionNumbers(ctx, l.store, l.cert)
	if err != nil {
		return err
	}
	index, listed := map[string]VersionInfo{}, map[int]bool{}
	for _, known := range []map[string]VersionInfo{l.listed, l.index} {
		for fingerprint, info := range known {
			if slices.Contains(numbers, info.Number) {
				index[fingerprint], listed[info.Number] = info, true
			}
		}
	}
	for _, number := range numbers {
		if listed[number] {
			continue
		}
		version, err := l.open(ctx, number)
		if err != nil {
			continue
		}
		if _, twice := index[version.Bundle.Fingerprint()]; !twice {
			index[version.Bundle.Fingerprint()] = version.info()
		}
	}
	l.index = index
	return nil
}

// Order is the order under way with its private key, which is asked for where it is kept apart; nil: there is none. It is returned with ErrKeyLost
// and ErrKeysAway as well.
func (l *Ledger) Order(ctx context.Context) (*Order, error) {
	order, store := l.Record().Order, l.Store()
	if order == nil || order.Key == "" {
		return order, nil
	}
	var err error
	order.Key, err = KeyText(ctx, store, l.name(), order.Key)
	return order, err
}

// Versions maps the fingerprint of every version that is kept to what is known of it.
func (l *Ledger) Versions() map[string]VersionInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.index)
}

// IsIndexed tells whether the record lists the versions that there are.
func (l *Ledger) IsIndexed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.EqualFunc(l.listed, l.index, func(a, b VersionInfo) bool { return a.Number == b.Number })
}

// Version is one version with its key; ErrNotFound when there is none of that number.
func (l *Ledger) Version(ctx context.Context, number int) (Version, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open(ctx, number)
}

func (l *Ledger) open(ctx context.Context, number int) (Version, error) {
	if version, ok := l.opened[number]; ok {
		return version, nil
	}
	version, err := LoadVersion(ctx, l.store, l.cert, number)
	if err == nil {
		l.opened[number] = version
	}
	return version, err
}

// Update changes the record, and lists the versions that there are. It reads the record again where somebody else changed it,
// and then calls change again.
func (l *Ledger) Update(ctx context.Context, change func(*Record)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.stale {
			err := l.read(ctx)
			if err == nil {
				err = l.complete(ctx)
			}
			if err != nil {
				l.stale = true
				return err
			}
		}
		record, err := l.decoded(l.data)
		if err != nil {
			return err
		}
		change(&record)
		record.Versions = l.index
		data, err := encode(l.name(), record)
		if err != nil {
			return err
		}
		// What is in hand is what a reader finds: a key that is kept apart is named.
		if data, err = keepKeys(ctx, l.store, l.name(), data); err != nil {
			return err
		}
		if bytes.Equal(data, l.data) {
			return nil
		}
		l.stale = true // until it is known to have been written
		revision, err := l.store.Write(ctx, l.name(), data, l.revision)
		if err == nil {
			l.data, l.listed, l.revision, l.stale = data, maps.Clone(l.index), revision, false
		}
		if !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

// Above has the numbers of versions that are added lie above one that was given before, which the store may have lost.
func (l *Ledger) Above(number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.above = max(l.above, number)
}

// Add writes a bundle as the next version and returns it with its number; the record lists it with the next Update. The same
// bundle again is the version that it is already, so that a run that was killed after Add may repeat it.
func (l *Ledger) Add(ctx context.Context, v Version) (Version, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.complete(ctx); err != nil {
		return Version{}, err
	}
	if listed, ok := l.index[v.Bundle.Fingerprint()]; ok {
		if have, err := l.open(ctx, listed.Number); err == nil && !errors.Is(have.Bundle.CheckKey(ctx), ErrKeyLost) {
			return have, nil
		}
		delete(l.index, v.Bundle.Fingerprint()) // it cannot be read any more, or its key is lost
	}
	numbers, err := versionNumbers(ctx, l.store, l.cert)
	if err != nil {
		return Version{}, err
	}
	v.Number = l.above + 1
	if n := len(numbers); n > 0 {
		v.Number = max(v.Number, numbers[n-1]+1)
	}
	if err := writeVersion(ctx, l.store, l.cert, v); err != nil {
		return v, err
	}
	l.index[v.Bundle.Fingerprint()], l.opened[v.Number] = v.info(), v
	return v, nil
}

// Prune deletes the oldest versions so that keep are left, and none of those in use.
func (l *Ledger) Prune(ctx context.Context, inUse []int, keep int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	numbers, err := versionNumbers(ctx, l.store, l.cert)
	if err != nil {
		return err
	}
	for _, number := range numbers[:max(0, len(numbers)-keep)] {
		if slices.Contains(inUse, number) {
			continue
		}
		if deleted := l.store.Delete(ctx, versionName(l.cert, number)); deleted != nil {
			err = errors.Join(err, deleted)
			continue
		}
		delete(l.opened, number)
		maps.DeleteFunc(l.index, func(_ string, info VersionInfo) bool { return info.Number == number })
	}
	return err
}
