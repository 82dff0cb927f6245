package command

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"maascert/certstore"
	"maascert/internal/section"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// reloaded is a second type of target, as it would be added: a file with key and chain, and a program that has whoever serves it
// read it again. Nothing else in the program knows it but its name in the table of types.
type reloaded struct {
	File      string   `yaml:"file,path"`
	Reload    []string `yaml:"reload,program"`
	Endpoints []string `yaml:"endpoints"`

	parts maasconfig.Parts
}

// testTypes are those of the program, and this one.
func testTypes() maasconfig.Types {
	types := maasconfig.KnownTypes()
	types["service"] = func() maasconfig.TargetSection { return &reloaded{} }
	return types
}

func (s *reloaded) Check(at section.Place) {
	if s.File == "" || len(s.Reload) == 0 || len(s.Endpoints) == 0 {
		at.Fault("", "file, reload and endpoints are needed")
	}
	for i, endpoint := range s.Endpoints {
		if _, _, err := net.SplitHostPort(endpoint); err != nil {
			at.Fault(fmt.Sprintf("endpoints[%d]", i), "%q is no host:port", endpoint)
		}
	}
}

func (s *reloaded) LocalPorts(int) []int { return nil }

func (s *reloaded) Entrusted() []string { return []string{s.File, s.Reload[0]} }

func (s *reloaded) Make(parts maasconfig.Parts) maasconfig.Target {
	target := *s
	target.parts = parts
	return &target
}

func (s *reloaded) Info() maasconfig.Info {
	return maasconfig.Info{Name: s.parts.Name, Type: "service", Logs: "the service's log"}
}

func (s *reloaded) Guards(maasconfig.Want) []maasconfig.Guard {
	return []maasconfig.Guard{
		{Code: "folder", Promise: "the file can be written", Ask: func(context.Context) (string, error) {
			return s.File, s.parts.FS.Writable(filepath.Dir(s.File))
		}},
		{Code: "reload", Promise: "the reload program is here", Ask: func(context.Context) (string, error) {
			return s.parts.Runner.LookPath(s.Reload[0])
		}},
	}
}

func (s *reloaded) Discover(context.Context, map[string]string) {}

func (s *reloaded) Probe(ctx context.Context) []maasconfig.Served {
	var all []maasconfig.Served
	for _, endpoint := range s.Endpoints {
		served := maasconfig.Handshake(ctx, s.parts.Dial, endpoint, s.parts.ServerName)
		served.Remedy = "reload it by hand"
		all = append(all, served)
	}
	return all
}

func (s *reloaded) Backup(context.Context) (*certstore.Bundle, error) {
	text, err := s.parts.FS.ReadFile(s.File)
	if err != nil {
		return nil, err
	}
	_, chain := pem.Decode(text)
	return certstore.Parse(text, chain)
}

func (s *reloaded) Prepare(_ context.Context, bundle *certstore.Bundle, _ maasconfig.Want) (maasconfig.Change, error) {
	before, err := s.parts.FS.ReadFile(s.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return maasconfig.Change{}, err
	}
	reload := world.Command{Path: s.Reload[0], Args: s.Reload[1:], Timeout: 10 * time.Second}
	bring := func(ctx context.Context, text []byte) (maasconfig.Telling, error) {
		if err := s.parts.FS.Replace(s.File, text, 0o600); err != nil {
			return maasconfig.NotTold, err
		}
		result, err := s.parts.Runner.Run(ctx, reload)
		if err != nil {
			return maasconfig.Unsure, err
		}
		if result.Exit != 0 {
			return maasconfig.NotTold, fmt.Errorf("%s: exit %d", reload, result.Exit)
		}
		return maasconfig.Told, nil
	}
	return maasconfig.Change{
		Commands: []world.Command{reload}, Within: 5 * time.Second,
		Make: func(ctx context.Context) (maasconfig.Telling, error) {
			told, err := bring(ctx, fullPEM(bundle))
			if err != nil && before != nil {
				err = errors.Join(err, s.parts.FS.Replace(s.File, before, 0o600))
			}
			return told, err
		},
		Undo: func(ctx context.Context, previous *certstore.Bundle) error {
			_, err := bring(ctx, fullPEM(previous))
			return err
		},
	}, nil
}

func (s *reloaded) Tidy(context.Context) error { return world.Sweep(s.parts.FS, filepath.Dir(s.File)) }

func fullPEM(bundle *certstore.Bundle) []byte {
	return append(bundle.KeyPEM(), bundle.FullChainPEM()...)
}

// serveFile begins to serve what lies in the file live.pem, as somebody does who reads it again when he is told.
func serveFile(ts *testscript.TestScript, _ bool, args []string) {
	live := ts.MkAbs(args[0])
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { listener.Close() })
	ts.Setenv("SERVICE", listener.Addr().String())
	config := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		text, err := os.ReadFile(live)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(text, text)
		return &pair, err
	}}
	go shakeHands(listener, config)
}

// shakeHands serves TLS until its listener is closed, and nothing after the handshake.
func shakeHands(listener net.Listener, config *tls.Config) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_ = tls.Server(conn, config).HandshakeContext(ctx) // who hangs up is his own business
		}()
	}
}
