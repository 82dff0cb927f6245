//go:build hostile

package command

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/certtest"
)

// What attackers may cost: so much memory above an ordinary run, documents of so many bytes, and so much time.
const (
	hostileMemory   = 64 << 10 // KiB
	hostileDocument = 64 << 10
	hostileTime     = 2 * time.Minute
)

// attack is somebody between us and what we talk to, or beside us on the host. It returns what ends it.
type attack func(t *testing.T, s *site) (stop func())

// everyJSON has the CA's documents changed on their way.
func everyJSON(change func(doc map[string]any, header http.Header)) attack {
	return func(t *testing.T, s *site) func() {
		rewrites(func(_ string, doc map[string]any, header http.Header) { change(doc, header) })(t, s)
		return func() { s.ca.Intercept(nil) }
	}
}

// everyAnswer has the CA's answers replaced.
func everyAnswer(answer func(w http.ResponseWriter, r *http.Request)) attack {
	return func(_ *testing.T, s *site) func() {
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { answer(w, r) })
		return func() { s.ca.Intercept(nil) }
	}
}

func long(n int) string { return strings.Repeat("a<\u202e\"\x1b[2J", n/10) }

// manyNames is a certificate of a stranger's with long names.
func manyNames(t *testing.T) *certstore.Bundle {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	var names []string
	for n := range 95 {
		names = append(names, fmt.Sprintf("n%02d.%s%s.example", n, strings.Repeat(strings.Repeat("x", 60)+".", 3), strings.Repeat("y", 40)))
	}
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, names...)
	require.NoError(t, err)
	return bundle
}

var attacks = map[string]attack{
	"a lying CA: URLs of 5 MB": everyAnswerWith(func(header http.Header) {
		if header.Get("Location") != "" {
			header.Set("Location", "https://ca.example/"+strings.Repeat("x", 5<<20))
		}
	}),
	"a lying CA: headers of 40 MB": everyAnswerWith(func(header http.Header) {
		for n := range 40 {
			header.Add("X-"+strconv.Itoa(n), strings.Repeat("x", 1<<20))
		}
	}),
	"a lying CA: bodies without end": everyAnswer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		chunk := bytes.Repeat([]byte(" "), 1<<20)
		for range 200 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}),
	"a lying CA: errors of a megabyte": everyAnswer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		var subs []map[string]any
		for range 100 {
			subs = append(subs, map[string]any{"type": long(1000), "detail": long(3000), "identifier": map[string]string{"value": long(1000)}})
		}
		json.NewEncoder(w).Encode(map[string]any{"type": long(1 << 17), "detail": long(1 << 17), "instance": long(1 << 16), "subproblems": subs})
	}),
	"a lying CA: redirects to itself": everyAnswer(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	}),
	"a lying CA: statuses, identifiers and tokens of its own": everyJSON(func(doc map[string]any, _ http.Header) {
		if _, isOrder := doc["finalize"]; isOrder {
			doc["status"] = long(100_000)
		}
		if challenges, ok := doc["challenges"].([]any); ok {
			doc["identifier"] = map[string]string{"type": "dns", "value": long(100_000)}
			for _, one := range challenges {
				one.(map[string]any)["token"] = "../../../" + long(100_000)
			}
		}
	}),
	"a lying CA: a hundred thousand authorizations": everyJSON(func(doc map[string]any, _ http.Header) {
		if all, ok := doc["authorizations"].([]any); ok {
			for range 20_000 {
				all = append(all, all[0])
			}
			doc["authorizations"] = all
		}
	}),
	"a lying CA: certificates for names of its own": func(t *testing.T, s *site) func() {
		bundle := manyNames(t)
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, acmetest.Certificate) {
				w.Header().Set("Content-Type", "application/pem-certificate-chain")
				w.Write(bundle.FullChainPEM())
				return
			}
			next.ServeHTTP(w, r)
		})
		return func() { s.ca.Intercept(nil) }
	},
	"a stranger in the CA's place": func(t *testing.T, s *site) func() {
		bundle := manyNames(t)
		stranger := httptest.NewUnstartedServer(http.NotFoundHandler())
		stranger.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{bundle.Leaf().Raw}, PrivateKey: bundle.Key()}}}
		stranger.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
		stranger.StartTLS()
		s.edit(t, s.ca.Directory, stranger.URL+"/dir")
		return func() {
			s.edit(t, stranger.URL+"/dir", s.ca.Directory)
			stranger.Close()
		}
	},
	"a forged region: a stranger's certificate with long names": func(t *testing.T, s *site) func() {
		bundle := manyNames(t)
		listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{
			Certificate: [][]byte{bundle.Leaf().Raw, bundle.Chain()[0].Raw}, PrivateKey: bundle.Key(),
		}}})
		require.NoError(t, err)
		server := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: stdlog.New(io.Discard, "", 0)}
		go server.Serve(listener)
		own := s.maas.Endpoints()[2]
		s.edit(t, own+"]", listener.Addr().String()+"]")
		return func() {
			s.edit(t, listener.Addr().String()+"]", own+"]")
			server.Close()
		}
	},
	"a forged region: noise without end": func(t *testing.T, s *site) func() {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					for range 100 {
						if _, err := conn.Write(bytes.Repeat([]byte{0x16, 3, 3, 0x3f, 0xff}, 1<<16)); err != nil {
							return
						}
					}
				}()
			}
		}()
		own := s.maas.Endpoints()[2]
		s.edit(t, own+"]", listener.Addr().String()+"]")
		return func() {
			s.edit(t, listener.Addr().String()+"]", own+"]")
			listener.Close()
		}
	},
	"a hostile DNS": func(t *testing.T, s *site) func() {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			reply := new(dns.Msg).SetReply(q)
			for n := range 40 {
				rr, _ := dns.NewRR(fmt.Sprintf("%s 1 IN CNAME %s%d.example.", q.Question[0].Name, strings.Repeat("x", 50), n))
				reply.Answer = append(reply.Answer, rr)
			}
			w.WriteMsg(reply)
		})}
		go server.ActivateAndServe()
		s.edit(t, s.ca.DNS.Address, packets.LocalAddr().String())
		return func() {
			s.edit(t, packets.LocalAddr().String(), s.ca.DNS.Address)
			server.Shutdown()
		}
	},
	"a local user in the webroot": func(t *testing.T, s *site) func() {
		webroot, outside := filepath.Join(s.dir, "webroot"), filepath.Join(s.dir, "outside")
		require.NoError(t, os.Mkdir(webroot, 0o755))
		require.NoError(t, os.Mkdir(outside, 0o700))
		require.NoError(t, os.Symlink(outside, filepath.Join(webroot, ".well-known")))
		listen := fmt.Sprintf(`listen: "127.0.0.1:%d"`, s.ca.HTTPPort)
		s.edit(t, listen, "webroot: webroot")
		return func() {
			s.edit(t, "webroot: webroot", listen)
			entries, err := os.ReadDir(outside)
			require.NoError(t, err)
			require.Empty(t, entries)
			info, err := os.Stat(outside)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
		}
	},
	"a local user in http_dir": func(t *testing.T, s *site) func() {
		include := filepath.Join(s.maas.Regions[0].HTTPDir, "regiond.nginx.conf")
		key := filepath.Join(s.maas.Regions[0].HTTPDir, "certs", "regiond-proxy-key.pem")
		for _, path := range []string{include, key} {
			require.NoError(t, os.Rename(path, path+".mine"))
		}
		require.NoError(t, syscall.Mkfifo(include, 0o644))
		require.NoError(t, os.Symlink("/dev/zero", key))
		return func() {
			for _, path := range []string{include, key} {
				require.NoError(t, os.Rename(path+".mine", path))
			}
		}
	},
	"400 held connections at the answer's port": func(t *testing.T, s *site) func() {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			var held []net.Conn
			for n := 0; ctx.Err() == nil; n++ {
				conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(s.ca.HTTPPort), time.Second)
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				fmt.Fprintf(conn, "GET /.well-known/acme-challenge/%s", strings.Repeat("x", n%100))
				if held = append(held, conn); len(held) > 400 {
					held[0].Close()
					held = held[1:]
				}
				time.Sleep(100 * time.Microsecond)
			}
			for _, conn := range held {
				conn.Close()
			}
		}()
		return func() {
			cancel()
			<-done
		}
	},
}

// everyAnswerWith has the headers of the CA's answers changed on their way.
func everyAnswerWith(change func(header http.Header)) attack {
	return func(_ *testing.T, s *site) func() {
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			recorder := httptest.NewRecorder()
			next.ServeHTTP(recorder, r)
			maps.Copy(w.Header(), recorder.Header())
			change(w.Header())
			w.WriteHeader(recorder.Code)
			w.Write(recorder.Body.Bytes())
		})
		return func() { s.ca.Intercept(nil) }
	}
}

// Whoever stands in the place of the CA, of a region or of a name server, or sits beside us on the host, costs a bounded
// amount of memory, disk and time, and afterwards the real ones work.
func TestHostile(t *testing.T) {
	t.Parallel()
	for name, begin := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			_, rest := measured(t, s, "renew", "--enable-tls")
			stop := begin(t, s)
			for _, args := range [][]string{{"renew", "--force"}, {"renew", "--force"}, {"renew"}, {"check"}, {"status"}, {"renew", "--dry-run"}} {
				out, memory := measured(t, s, args...)
				require.LessOrEqual(t, memory-rest, int64(hostileMemory), "KiB more than at rest; %v", args)
				require.LessOrEqual(t, len(out), 64<<10, "%v", args)
				require.NotRegexp(t, "[\x00-\x09\x0b-\x1f\x7f\u0080-\u009f\u202a-\u202e\u2066-\u2069]", out, "%v", args)
			}
			stop()
			require.NoError(t, filepath.WalkDir(filepath.Join(s.dir, "state"), func(path string, entry fs.DirEntry, err error) error {
				if err == nil && !entry.IsDir() {
					info, infoErr := entry.Info()
					require.NoError(t, infoErr)
					require.LessOrEqual(t, info.Size(), int64(hostileDocument), path)
				}
				return err
			}))
			out, _ := measured(t, s, "renew", "--force")
			require.Contains(t, out, "obtained version", "the real CA works afterwards")
			checkConverged(t, s, 100)
		})
	}
}

// measured runs the program, and returns what it printed and the most memory that it used, in KiB.
func measured(t *testing.T, s *site, args ...string) (out string, memory int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hostileTime)
	defer cancel()
	cmd := program(ctx, t, s, args...)
	peak := filepath.Join(t.TempDir(), "peak")
	cmd.Env = append(os.Environ(), "HTTP01_PORT="+strconv.Itoa(s.ca.HTTPPort), "PEAK_MEMORY="+peak)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(t, err, &exit, "%s", text)
	}
	require.NoError(t, ctx.Err(), "%v takes too long: %s", args, text)
	status, err := os.ReadFile(peak)
	require.NoError(t, err, "%s", text)
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	require.NotNil(t, match)
	memory, err = strconv.ParseInt(string(match[1]), 10, 64)
	require.NoError(t, err)
	return string(text), memory
}
