// Package maastest is a simulated MAAS deployment: region hosts that really serve TLS on MAAS's own ports, each on a
// loopback address of its own, and a maas command that answers as the real one was seen to.
package maastest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/loopback"
	"maascert/maasconfig"
)

// Options describe a deployment.
type Options struct {
	Dir     string             // where its files go; must exist
	Regions int                // 0: three
	Hosts   []Host             // where the regions are; none: on loopback addresses, as many as Regions
	Version maasconfig.Version // zero: 3.7.3
	Delay   time.Duration      // from a notification to the take-over; zero: 10 ms
	Nginx   string             // path of a real nginx to put before each region; empty: a proxy in this process
	Command []string           // how the maas command is started; empty: the running program, whose main calls Main
	// NameServer starts what a region publishes MAAS's zones with; nil: they are not published.
	NameServer func(region *Region) (NameServer, error)
	PollZones  time.Duration // how often a region of 3.7 or later looks for changes in the zones; zero: a minute
}

// Host is where a region is: a machine of its own, or what stands for one.
type Host struct {
	Address netip.Addr
	Listen  func(network, address string) (net.Listener, error) // there
	Within  []string                                            // begins the command line of a program that is started there
}

// Deployment is a running deployment. It is safe for concurrent use.
type Deployment struct {
	*Database
	Regions []*Region
	Command string // path of the maas command

	options    Options
	control    *http.Server
	done       chan struct{}
	publishing sync.WaitGroup
	unpublish  func() // ends it
}

// Database holds all that a deployment's regions share: what is stored, the maas command before it, and what is wrong with
// both. It is safe for concurrent use.
type Database struct {
	mu      sync.Mutex
	secret  *Secret
	calls   [][]string // what the maas command was called with
	faults  facts
	mute    bool // nobody is notified
	changed func()
	rest    *rest
}

// NewDatabase is a database without regions; the user that runs the test is root.
func NewDatabase(version maasconfig.Version) *Database {
	return &Database{faults: facts{Version: version, Root: os.Geteuid()}, changed: func() {}, rest: newREST()}
}

// New starts a deployment that is stopped at the test's end.
func New(t testing.TB, options Options) *Deployment {
	t.Helper()
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	d, err := Start(options)
	require.NoError(t, err)
	t.Cleanup(d.Stop)
	return d
}

// Start starts a deployment without TLS.
func Start(options Options) (*Deployment, error) {
	if options.Regions == 0 {
		options.Regions = 3
	}
	if !options.Version.IsKnown() {
		options.Version = maasconfig.Version{Major: 3, Minor: 7, Patch: 3}
	}
	if options.PollZones == 0 {
		options.PollZones = pollsZones
	}
	if options.Delay == 0 {
		options.Delay = 10 * time.Millisecond
	}
	if len(options.Command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		options.Command = []string{self}
	}
	d := &Deployment{Database: NewDatabase(options.Version), options: options, unpublish: func() {}}
	d.changed = d.notify
	if err := d.serveControl(); err != nil {
		return nil, err
	}
	// A program that is just being started holds, for a moment, a port that was found free.
	err := d.startRegions()
	for tries := 1; tries < startTries && errors.Is(err, syscall.EADDRINUSE); tries++ {
		err = d.startRegions()
	}
	if err == nil {
		err = d.startNameServers()
	}
	if err != nil {
		d.Stop()
		return nil, err
	}
	return d, nil
}

// startNameServers has every region publish MAAS's zones.
func (d *Deployment) startNameServers() error {
	if d.options.NameServer == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.unpublish = func() {
		cancel()
		d.publishing.Wait()
	}
	var publishers []*publisher
	for _, r := range d.Regions {
		server, err := d.options.NameServer(r)
		if err != nil {
			return err
		}
		publishers = append(publishers, &publisher{
			database: d.Database, server: server, version: d.options.Version, poll: d.options.PollZones, address: r.Address, changes: make(chan zoneChange, maxChanges),
		})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rest.published = func(change zoneChange) {
		for _, p := range publishers {
			p.tell(change)
		}
	}
	for _, p := range publishers {
		d.publishing.Go(func() { p.run(ctx) })
	}
	return nil
}

// startTries is how often places for the regions are looked for.
const startTries = 5

// startRegions starts the regions on free addresses. On an error none is left.
func (d *Deployment) startRegions() error {
	hosts := d.options.Hosts
	if len(hosts) == 0 {
		addresses, err := loopback.Hosts(d.options.Regions, 5240, maasconfig.DefaultPort)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			hosts = append(hosts, Host{Address: address, Listen: net.Listen})
		}
	}
	d.Regions = nil
	var controllers []Controller
	for i, host := range hosts {
		r := &Region{
			Address: host.Address, HTTPDir: filepath.Join(d.options.Dir, fmt.Sprintf("region%d", i+1), "http"),
			host: host, deployment: d, notify: make(chan struct{}, 1),
		}
		r.proxy = &goProxy{address: host.Address, region: r}
		if d.options.Nginx != "" {
			r.proxy = &nginxProxy{program: d.options.Nginx, region: r}
		}
		d.Regions = append(d.Regions, r)
		controllers = append(controllers, Controller{SystemID: fmt.Sprintf("sys%03d", i+1), Hostname: fmt.Sprintf("region%d", i+1), Addresses: []netip.Prefix{netip.PrefixFrom(host.Address, 8)}})
	}
	d.SetControllers(controllers...)
	// A region answers with all of them, so they are there before the first one answers.
	for _, r := range d.Regions {
		if err := r.start(); err != nil {
			failed := errors.Join(err, fmt.Errorf("region %s", r.Address))
			for _, r := range d.Regions {
				r.stop()
			}
			d.Regions = nil
			return failed
		}
	}
	return nil
}

// Stop ends the deployment.
func (d *Deployment) Stop() {
	d.unpublish()
	for _, r := range d.Regions {
		r.stop()
	}
	// There is nothing to lose.
	_ = d.control.Close()
	<-d.done
}

// Endpoints are the regions' addresses, as the configuration takes them.
func (d *Deployment) Endpoints() []string {
	var all []string
	for _, r := range d.Regions {
		all = append(all, r.Address.String())
	}
	return all
}

func (d *Deployment) notify() {
	for _, r := range d.Regions {
		select {
		case r.notify <- struct{}{}:
		default: // one is waiting already
		}
	}
}

// Stored returns the secret in MAAS's database, or nil.
func (d *Database) Stored() *Secret {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.secret == nil {
		return nil
	}
	secret := *d.secret
	return &secret
}

// Set stores a secret, or nil, and notifies the regions.
func (d *Database) Set(secret *Secret) {
	d.mu.Lock()
	d.secret = nil
	if secret != nil {
		own := *secret
		d.secret = &own
	}
	mute := d.mute
	d.mu.Unlock()
	if !mute {
		d.changed()
	}
}

// Harden has MAAS find that hardening asks for settings, which are not set, each by its key.
func (d *Database) Harden(keys ...string) { d.change(func(f *facts) { f.Hardening = keys }) }

// Mute has config-tls store what it is given and notify nobody, as when it is killed in between: that is not one
// transaction (MAAS fact 1.5).
func (d *Database) Mute(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mute = on
}

// Calls are the argument lists of all runs of the maas command, but of those that only ask.
func (d *Database) Calls() [][]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// Hang makes the maas command hang.
func (d *Database) Hang(on bool) { d.change(func(f *facts) { f.Hang = on }) }

// Reach makes the database reachable or not.
func (d *Database) Reach(up bool) { d.change(func(f *facts) { f.DatabaseDown = !up }) }

// SetRoot sets the user that may configure MAAS.
func (d *Database) SetRoot(uid int) { d.change(func(f *facts) { f.Root = uid }) }

func (d *Database) change(f func(*facts)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.faults)
}

func (d *Database) version() maasconfig.Version {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.faults.Version
}

func (d *Database) facts() (facts, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.faults, nil
}

// apiKey makes a key for an administrator, as the maas command does.
func (d *Database) apiKey(username string) (string, error) { return d.APIKey(username, true), nil }

// configure sets what hardening asks for.
func (d *Database) configure(key string) error {
	d.change(func(f *facts) {
		f.Hardening = slices.DeleteFunc(slices.Clone(f.Hardening), func(one string) bool { return one == key })
	})
	return nil
}

func (d *Database) store(secret *Secret) error {
	d.Set(secret)
	return nil
}

// Enable does what an administrator did before maascert came: it makes every region serve a pair, and waits for it.
func (d *Deployment) Enable(ctx context.Context, bundle *certstore.Bundle, port int) error {
	d.Set(&Secret{Key: string(bundle.KeyPEM()), Cert: string(bundle.LeafPEM()), CACert: string(bundle.ChainPEM()), Port: port})
	for !d.serveAll(bundle.Leaf(), port) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

func (d *Deployment) serveAll(leaf *x509.Certificate, port int) bool {
	for _, r := range d.Regions {
		if served := r.Serves(port); served == nil || !served.Equal(leaf) {
			return false
		}
	}
	return true
}

// Serves is the leaf that a region serves on a port, or nil.
func (r *Region) Serves(port int) *x509.Certificate {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := dialer.Dial("tcp", net.JoinHostPort(r.Address.String(), strconv.Itoa(port)))
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// Run runs the maas command within this process.
func (d *Database) Run(stdin io.Reader, stdout, stderr io.Writer, args ...string) int {
	d.note(args)
	return (&invocation{backend: d, uid: os.Geteuid(), stdin: stdin, stdout: stdout, stderr: stderr}).run(args)
}

func (d *Database) note(args []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Contains(args, "validate") || slices.Contains(args, "get") {
		return // it only asks
	}
	d.calls = append(d.calls, slices.Clone(args))
}

// controlArg is the first argument of a program that is to be a deployment's maas command; the second is the path of
// the deployment's control socket.
const controlArg = "maastest-command"

// Main turns the running program into the maas command when it was started as one; it must be called first thing by
// main or TestMain of every program that starts a Deployment. It returns otherwise.
func Main() {
	if len(os.Args) < 3 || os.Args[1] != controlArg {
		return
	}
	remote := &remote{socket: os.Args[2]}
	args := os.Args[3:]
	err := remote.post("/called", args, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	in := &invocation{backend: remote, uid: os.Geteuid(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(in.run(args))
}

// serveControl opens the socket that the maas command reaches the deployment through, and writes the command.
func (d *Deployment) serveControl() error {
	// A socket's path may have 107 bytes at the most, which folders of tests exceed.
	dir, err := os.MkdirTemp("", "maastest")
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "control")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/called", func(w http.ResponseWriter, r *http.Request) {
		var args []string
		if json.NewDecoder(r.Body).Decode(&args) == nil {
			d.note(args)
		}
		io.WriteString(w, "{}")
	})
	mux.HandleFunc("/facts", func(w http.ResponseWriter, _ *http.Request) {
		f, _ := d.facts()
		json.NewEncoder(w).Encode(f)
	})
	mux.HandleFunc("/store", func(w http.ResponseWriter, r *http.Request) {
		var secret *Secret
		if err := json.NewDecoder(r.Body).Decode(&secret); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		d.Set(secret)
		io.WriteString(w, "{}")
	})
	mux.HandleFunc("/apikey", func(w http.ResponseWriter, r *http.Request) {
		var username string
		if json.NewDecoder(r.Body).Decode(&username) == nil {
			json.NewEncoder(w).Encode(d.APIKey(username, true))
		}
	})
	mux.HandleFunc("/configure", func(w http.ResponseWriter, r *http.Request) {
		var key string
		if json.NewDecoder(r.Body).Decode(&key) == nil {
			_ = d.configure(key)
		}
	})
	d.control, d.done = &http.Server{Handler: mux}, make(chan struct{})
	go func() {
		defer close(d.done)
		defer os.RemoveAll(dir)
		_ = d.control.Serve(listener)
	}()
	var words bytes.Buffer
	for _, word := range append(slices.Clone(d.options.Command), controlArg, socket) {
		fmt.Fprintf(&words, "'%s' ", word)
	}
	d.Command = filepath.Join(d.options.Dir, "maas")
	// A program that was built to measure coverage complains where it may not write what it measured; one that was built to find
	// races sleeps for a second before it ends well.
	return os.WriteFile(d.Command, fmt.Appendf(nil, "#!/bin/sh\nGORACE=atexit_sleep_ms=0 GOCOVERDIR=${GOCOVERDIR:-'%s'} exec %s\"$@\"\n", dir, words.Bytes()), 0o755)
}

// remote is a deployment in another process.
type remote struct{ socket string }

func (r *remote) facts() (f facts, err error) { return f, r.post("/facts", nil, &f) }

func (r *remote) store(secret *Secret) error { return r.post("/store", secret, nil) }

func (r *remote) apiKey(username string) (key string, err error) {
	return key, r.post("/apikey", username, &key)
}

func (r *remote) configure(key string) error { return r.post("/configure", key, nil) }

func (r *remote) post(path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.socket)
	}}}
	resp, err := client.Post("http://deployment"+path, "application/json", bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
