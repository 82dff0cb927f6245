package maastest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// nginxProxy puts a real nginx before a region, reloaded as MAAS does it.
type nginxProxy struct {
	program string
	region  *Region

	mu      sync.Mutex
	process *exec.Cmd
	plain   goProxy // port 5240, whose answers regiond gives
}

var listenLine = regexp.MustCompile(`(?m)^\s*listen \[::\]:.*\n`)

func (p *nginxProxy) reload(c configuration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	dir := filepath.Dir(p.region.HTTPDir)
	text, err := os.ReadFile(filepath.Join(p.region.HTTPDir, "regiond.nginx.conf"))
	if err != nil {
		return err
	}
	// regiond's file says to listen on all addresses; here several regions share a machine.
	text = listenLine.ReplaceAll(text, nil)
	address := p.region.Address.String()
	if c.hasTLS() {
		text = bytes.ReplaceAll(text, fmt.Appendf(nil, "listen %d ssl", c.secret.Port), fmt.Appendf(nil, "listen %s:%d ssl", address, c.secret.Port))
	}
	// Port 5240 is answered by regiond itself, so that nginx needs no upstream.
	text = regexp.MustCompile(`(?s)server \{\n    listen 5240;\n\}\n`).ReplaceAll(text, nil)
	conf := fmt.Sprintf("pid %[1]s/nginx.pid;\nerror_log %[1]s/error.log;\nevents {}\nhttp {\naccess_log off;\n"+
		"client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;\n%[2]s}\n", dir, text)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		return err
	}
	if err := p.plain.reloadPlain(p.region, c); err != nil {
		return err
	}
	if p.process == nil {
		p.process = p.command("-p", dir, "-c", path, "-g", "daemon off;")
		p.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		return p.process.Start()
	}
	if out, err := p.command("-t", "-p", dir, "-c", path).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	pid, err := p.pid(dir)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGHUP)
}

// command is nginx where the region is.
func (p *nginxProxy) command(args ...string) *exec.Cmd {
	words := append(append(slices.Clone(p.region.host.Within), p.program), args...)
	return exec.Command(words[0], words[1:]...)
}

func (p *nginxProxy) pid(dir string) (int, error) {
	for range 200 {
		text, err := os.ReadFile(filepath.Join(dir, "nginx.pid"))
		if pid, parseErr := strconv.Atoi(string(bytes.TrimSpace(text))); err == nil && parseErr == nil {
			return pid, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, errors.New("nginx wrote no pid file")
}

func (p *nginxProxy) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		// It may have ended by itself.
		_ = p.process.Process.Signal(syscall.SIGTERM)
		_ = p.process.Wait()
		p.process = nil
	}
	p.plain.stop()
}

// reloadPlain serves only port 5240.
func (p *goProxy) reloadPlain(r *Region, c configuration) error {
	p.address, p.region = r.Address, r
	p.mu.Lock()
	p.current = c
	p.mu.Unlock()
	return p.swap(c, nil, 0, nil)
}
