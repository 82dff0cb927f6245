package acme_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
)

// isFree tells whether nobody listens at an address of this machine.
func isFree(t *testing.T, port int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	require.NoError(t, err, "the address is free again")
	require.NoError(t, listener.Close())
}

func tlsALPN(ca *acmetest.CA) challenge.Solver {
	return &challenge.TLSResponder{Address: "127.0.0.1:" + strconv.Itoa(ca.TLSPort)}
}

func TestTLSALPNProvesNamesAndAddresses(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca, func(c *acme.Config) { c.Solve = always(tlsALPN(ca)) })
	issued, err := c.Obtain(t.Context(), request("a.example", "b.example", "127.0.0.1"))
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1", "a.example", "b.example"}, certstore.CertificateNames(issued.Bundle.Leaf()))
	isFree(t, ca.TLSPort)
	_, err = c.Obtain(t.Context(), request("a.example"))
	require.NoError(t, err, "it can be used again")
}

// webroot is a web server for a folder, where the CA looks for http-01.
func webroot(t *testing.T, ca *acmetest.CA) (challenge.Solver, string) {
	t.Helper()
	dir := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(ca.HTTPPort))
	require.NoError(t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.FileServer(http.Dir(dir))}}
	server.Start()
	t.Cleanup(server.Close)
	return &challenge.Webroot{Dir: dir, FS: world.OS{}}, filepath.Join(dir, ".well-known", "acme-challenge")
}

func TestWebrootProvesNamesAndLeavesNoAnswer(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	solver, answers := webroot(t, ca)
	c := client(t, ca, func(c *acme.Config) { c.Solve = always(solver) })
	_, err := c.Obtain(t.Context(), request("a.example", "b.example"))
	require.NoError(t, err)
	entries, err := os.ReadDir(answers)
	require.NoError(t, err)
	require.Empty(t, entries)

	ca.DNS.Fail("c.example", dns.RcodeNameError)
	_, err = c.Obtain(t.Context(), request("c.example"))
	require.Error(t, err)
	entries, err = os.ReadDir(answers)
	require.NoError(t, err)
	require.Empty(t, entries, "nor after a failure")
}

func TestAWebrootThatCannotBeWrittenCostsNoOrder(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	c := client(t, ca, func(c *acme.Config) { c.Solve = always(&challenge.Webroot{Dir: file, FS: world.OS{}}) })
	_, err := c.Obtain(t.Context(), request("a.example"))
	require.ErrorContains(t, err, "the webroot cannot be written")
	require.Contains(t, hint.Of(err), "webroot")
	require.Zero(t, ca.Orders())
}

// R7: two accounts of one process, such as that before and after a rollover, share an address: a token is never answered with the
// other's thumbprint.
func TestR7TwoAccountsShareOneAddress(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	solver := always(&challenge.Responder{Address: "127.0.0.1:" + strconv.Itoa(ca.HTTPPort)})
	var group errgroup.Group
	for n := range 2 {
		c := client(t, ca, func(c *acme.Config) { c.Solve = solver })
		group.Go(func() error {
			_, err := c.Obtain(t.Context(), request(fmt.Sprintf("account%d.example", n)))
			return err
		})
	}
	require.NoError(t, group.Wait())
	isFree(t, ca.HTTPPort)
}

// Each name by its own kind of challenge, in one order.
func TestNamesAreProvenEachInItsWay(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	alpn, plain := tlsALPN(ca), &challenge.Responder{Address: "127.0.0.1:" + strconv.Itoa(ca.HTTPPort)}
	c := client(t, ca, func(c *acme.Config) {
		c.Solve = func(name string) challenge.Solver {
			if strings.HasPrefix(name, "tls.") {
				return alpn
			}
			return plain
		}
	})
	_, err := c.Obtain(t.Context(), request("tls.example", "plain.example"))
	require.NoError(t, err)
	isFree(t, ca.TLSPort)
	isFree(t, ca.HTTPPort)
}

// A run that is cancelled at any request returns within a second and leaves neither listener nor answer.
func TestACancelAtAnyStepLeavesNothing(t *testing.T) {
	t.Parallel()
	whole := acmetest.New(t, acmetest.Options{})
	_, err := client(t, whole).Obtain(t.Context(), request(names(2)...))
	require.NoError(t, err)
	for n := 1; n <= len(whole.Requests()); n++ {
		for _, kind := range []string{"http-01", "tls-alpn-01", "webroot"} {
			t.Run(fmt.Sprintf("request %d, %s", n, kind), func(t *testing.T) {
				t.Parallel()
				ca := acmetest.New(t, acmetest.Options{})
				answers := ""
				solver := challenge.Solver(&challenge.Responder{Address: "127.0.0.1:" + strconv.Itoa(ca.HTTPPort)})
				switch kind {
				case "tls-alpn-01":
					solver = tlsALPN(ca)
				case "webroot":
					solver, answers = webroot(t, ca)
				}
				c := client(t, ca, func(c *acme.Config) { c.Solve = always(solver) })
				ctx, cancel := context.WithCancelCause(t.Context())
				cancelled := make(chan time.Time, 1)
				count := make(chan struct{}, 1000)
				ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					count <- struct{}{}
					if len(count) >= n {
						// The CA hangs; then the user has enough of it.
						select {
						case cancelled <- time.Now():
							cancel(errors.New("interrupted"))
						default:
						}
						<-r.Context().Done()
						return
					}
					next.ServeHTTP(w, r)
				})
				_, err := c.Obtain(ctx, request(names(2)...))
				if len(count) < n {
					require.NoError(t, err, "an order needs a look more or less")
					return
				}
				require.ErrorContains(t, err, "interrupted")
				require.Less(t, time.Since(<-cancelled), worldtest.AtOnce)
				isFree(t, ca.TLSPort)
				if kind != "webroot" {
					isFree(t, ca.HTTPPort)
					return
				}
				entries, err := os.ReadDir(answers)
				if !os.IsNotExist(err) {
					require.NoError(t, err)
				}
				require.Empty(t, entries)
			})
		}
	}
}

// A run that takes up an order answers again what an earlier run answered: the CA may still come to look. Here it comes when
// the second run looks at the order once more after it took it up.
func TestAnOrderThatIsTakenUpIsAnsweredAgain(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	c := client(t, ca, func(c *acme.Config) { c.Solve = always(tlsALPN(ca)) })
	ctx, kill := context.WithCancelCause(t.Context())
	looks := make(chan struct{}, 1000)
	isTime := make(chan struct{})
	come := sync.OnceFunc(func() { close(isTime) })
	t.Cleanup(come)
	ca.DNS.OnAsked(func(string) { <-isTime })
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.Order) {
			looks <- struct{}{}
			switch len(looks) {
			case 1:
				kill(errors.New("killed"))
				return
			case 3:
				come()
			}
		}
		next.ServeHTTP(w, r)
	})
	saved := new(saves)
	asked := request(names(3)...)
	asked.Save = saved.save
	_, err := c.Obtain(ctx, asked)
	require.ErrorContains(t, err, "killed")
	left := saved.last()
	asked.Resume = &left
	_, err = c.Obtain(t.Context(), asked)
	require.NoError(t, err)
	require.Equal(t, 1, ca.Orders())
	require.Greater(t, len(looks), 2)
}

// An order whose validation failed because its run was killed just then is replaced at once.
func TestAnOrderThatFailedWhileItsRunWasKilledIsReplaced(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{Sleep: 3})
	c := client(t, ca)
	ctx, kill := context.WithCancelCause(t.Context())
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.Challenge) {
			// The CA finds nobody at the name.
			ca.DNS.Fail("a.example", dns.RcodeNameError)
			next.ServeHTTP(w, r)
			kill(errors.New("killed"))
			return
		}
		next.ServeHTTP(w, r)
	})
	saved := new(saves)
	asked := request("a.example")
	asked.Save = saved.save
	_, err := c.Obtain(ctx, asked)
	require.ErrorContains(t, err, "killed")
	ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, acmetest.NewOrder) {
			ca.DNS.Fail("a.example", dns.RcodeSuccess)
		}
		next.ServeHTTP(w, r)
	})
	left := saved.last()
	asked.Resume = &left
	_, err = c.Obtain(t.Context(), asked)
	require.NoError(t, err)
	require.LessOrEqual(t, ca.Orders(), 2)
}

// S2: the owner of a webroot has nothing of ours made, changed or deleted outside it, whatever links he lays.
func TestS2NoLinkLeadsOutOfAWebroot(t *testing.T) {
	t.Parallel()
	for name, lay := range map[string]func(t *testing.T, webroot, outside string){
		"the challenge's folder": func(t *testing.T, webroot, outside string) {
			require.NoError(t, os.Mkdir(filepath.Join(webroot, ".well-known"), 0o755))
			require.NoError(t, os.Symlink(outside, filepath.Join(webroot, ".well-known", "acme-challenge")))
		},
		"the folder above": func(t *testing.T, webroot, outside string) {
			require.NoError(t, os.Symlink(outside, filepath.Join(webroot, ".well-known")))
		},
		"a folder that is not there yet": func(t *testing.T, webroot, outside string) {
			require.NoError(t, os.Symlink(filepath.Join(outside, "new"), filepath.Join(webroot, ".well-known")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := acmetest.New(t, acmetest.Options{})
			webroot, outside := t.TempDir(), t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600))
			require.NoError(t, os.Chmod(outside, 0o700))
			lay(t, webroot, outside)
			c := client(t, ca, reaches(ca), func(c *acme.Config) { c.Solve = always(&challenge.Webroot{Dir: webroot, FS: world.OS{}}) })
			unseen, err := c.CheckAnswers(t.Context(), []string{"a.example"})
			require.NoError(t, err)
			require.NotEmpty(t, unseen["a.example"])
			_, err = c.Obtain(t.Context(), request("a.example"))
			require.Error(t, err)
			entries, err := os.ReadDir(outside)
			require.NoError(t, err)
			require.Len(t, entries, 1)
			info, err := os.Stat(outside)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
		})
	}
}

// S2: a race for the folder that is being made is lost by whoever lays a link there.
func TestS2ARaceForAFolderChangesNobodysMode(t *testing.T) {
	t.Parallel()
	webroot, outside := t.TempDir(), t.TempDir()
	require.NoError(t, os.Chmod(outside, 0o700))
	stop := make(chan struct{})
	var racer sync.WaitGroup
	racer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				// One of the two is there at any time; which fails does not matter.
				_ = os.Remove(filepath.Join(webroot, ".well-known"))
				_ = os.Symlink(outside, filepath.Join(webroot, ".well-known"))
				_ = os.RemoveAll(filepath.Join(webroot, ".well-known"))
			}
		}
	})
	for range 2000 {
		root, err := world.OS{}.OpenRoot(webroot)
		require.NoError(t, err)
		// It fails or makes a folder of ours.
		_ = root.MkdirAll(".well-known/acme-challenge", 0o755)
		require.NoError(t, root.Close())
	}
	close(stop)
	racer.Wait()
	info, err := os.Stat(outside)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// What a configuration has run around the answers is run once, whatever becomes of the order, and by nothing that changes nothing.
func TestProgramsAreRunAroundTheAnswers(t *testing.T) {
	t.Parallel()
	ca := acmetest.New(t, acmetest.Options{})
	log := filepath.Join(t.TempDir(), "log")
	hooks := func(before, after string) *challenge.Hooks {
		return &challenge.Hooks{Before: []string{"sh", "-c", "echo before >>" + log + "; " + before}, After: []string{"sh", "-c", "echo after >>" + log + "; " + after}, Runner: world.Exec{}}
	}
	said := func() string {
		text, err := os.ReadFile(log)
		if !errors.Is(err, fs.ErrNotExist) {
			require.NoError(t, err)
			require.NoError(t, os.Remove(log))
		}
		return string(text)
	}
	with := func(h *challenge.Hooks) *acme.Client {
		return client(t, ca, func(c *acme.Config) { c.Around = func(string) *challenge.Hooks { return h } })
	}
	issued, err := with(hooks("true", "true")).Obtain(t.Context(), request(names(2)...))
	require.NoError(t, err)
	require.Empty(t, issued.Warnings)
	require.Equal(t, "before\nafter\n", said())

	rehearsed, err := with(hooks("true", "true")).Rehearse(t.Context(), request(names(2)...), false)
	require.NoError(t, err)
	require.Empty(t, rehearsed.Warnings)
	require.Equal(t, "before\nafter\n", said())

	_, err = with(hooks("true", "true")).CheckAnswers(t.Context(), names(2))
	require.NoError(t, err)
	require.Empty(t, said(), "a check changes nothing")

	orders := ca.Count(acmetest.NewOrder)
	_, err = with(hooks("echo the firewall is broken; exit 3", "true")).Obtain(t.Context(), request(names(2)...))
	require.ErrorContains(t, err, "challenge.before: sh -c")
	require.ErrorContains(t, err, "exit 3: the firewall is broken")
	require.Equal(t, orders, ca.Count(acmetest.NewOrder), "nothing is ordered")
	require.Equal(t, "before\nafter\n", said(), "what it had opened is closed")

	issued, err = with(hooks("true", "exit 4")).Obtain(t.Context(), request(names(2)...))
	require.NoError(t, err)
	require.Len(t, issued.Warnings, 1)
	require.Contains(t, issued.Warnings[0], "challenge.after")
	require.Equal(t, "before\nafter\n", said())

	ca.DNS.Fail("c.example", dns.RcodeNameError)
	_, err = with(hooks("true", "true")).Obtain(t.Context(), request("c.example"))
	require.Error(t, err)
	require.Equal(t, "before\nafter\n", said(), "also when the order fails")

	// One that takes its time does not hold up who wants to end.
	slow := &challenge.Hooks{After: []string{"sleep", "60"}, Runner: world.Exec{}}
	interruptible, end := context.WithCancel(t.Context())
	leave, err := slow.Enter(interruptible)
	require.NoError(t, err)
	time.AfterFunc(50*time.Millisecond, end)
	begun := time.Now()
	require.ErrorContains(t, leave(), "challenge.after")
	require.Less(t, time.Since(begun), 10*time.Second)

	// Orders of one process that overlap share them; one that is interrupted leaves no door open.
	shared := hooks("true", "true")
	first, err := shared.Enter(t.Context())
	require.NoError(t, err)
	ctx, interrupt := context.WithCancel(t.Context())
	second, err := shared.Enter(ctx)
	require.NoError(t, err)
	require.NoError(t, first())
	require.NoError(t, first(), "twice is once")
	interrupt()
	require.Equal(t, "before\n", said())
	require.NoError(t, second())
	require.Equal(t, "after\n", said())
}
