package world

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// CheckListener tells why a secret must not be sent to a port without TLS: it is not this host's, where others can read along, but that
// is for whoever configured it to judge; or it is, and an ordinary user listens there in the place of the service. Who cannot be told is
// let pass.
func CheckListener(host, port string) error {
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil
	}
	for _, address := range ownAddresses(host) {
		for _, one := range listenersAt(address, number) {
			if IsOrdinary(one.owner) {
				return fmt.Errorf("port %d of this host belongs to user %d, who is no service: the key is not sent there", number, one.owner)
			}
		}
	}
	return nil
}

// lookUpTime bounds the question which addresses a name has.
const lookUpTime = 2 * time.Second

// ownAddresses are a host's that are this host's.
func ownAddresses(host string) []netip.Addr {
	ctx, cancel := context.WithTimeout(context.Background(), lookUpTime)
	defer cancel()
	// A host without an address is not asked.
	found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	var own []netip.Addr
	for _, address := range found {
		if address = address.Unmap(); IsThisHost(address.String()) {
			own = append(own, address)
		}
	}
	return own
}

// IsOrdinary tells whether a user is a person, and not the system's or a service's: root, those below UID_MIN of login.defs, systemd's
// dynamic ones, and whoever cannot be told from within a container. We are to be trusted.
func IsOrdinary(uid int) bool {
	const firstPerson, firstDynamic, lastDynamic, nobody = 1000, 61184, 65519, 65534
	return uid >= firstPerson && uid != os.Geteuid() && uid != nobody && (uid < firstDynamic || uid > lastDynamic)
}

// Listener names the program that listens at an address (host:port) of this host, nginx (process 123) for example; empty where that cannot
// be told, because it belongs to another user among others.
func Listener(address string) string {
	host, text, err := net.SplitHostPort(address)
	port, portErr := strconv.Atoi(text)
	if err != nil || portErr != nil {
		return ""
	}
	at, err := netip.ParseAddr(host)
	if err != nil {
		at = netip.IPv4Unspecified()
	}
	for _, one := range listenersAt(at, port) {
		if program := programWith(one.inode); program != "" {
			return program
		}
	}
	return ""
}

const (
	// mostOpen bounds the open files of all processes that are looked at, and openAtOnce those of which the names are held.
	mostOpen   = 200_000
	openAtOnce = 1000
)

// walking is held while the processes are looked through: once is enough at a time.
var walking sync.Mutex

// programWith is the program that has a socket open.
func programWith(inode string) string {
	if inode == "0" || !walking.TryLock() {
		return ""
	}
	defer walking.Unlock()
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	left := mostOpen
	for _, process := range processes {
		if _, err := strconv.Atoi(process.Name()); err != nil {
			continue
		}
		if hasOpen(filepath.Join("/proc", process.Name(), "fd"), "socket:["+inode+"]", &left) {
			name, err := os.ReadFile(filepath.Join("/proc", process.Name(), "comm"))
			if err != nil {
				return ""
			}
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), process.Name())
		}
		if left <= 0 {
			return ""
		}
	}
	return ""
}

// hasOpen tells whether a process has something open, by its folder of open files. What may not be looked at, or has ended, has not.
func hasOpen(folder, wanted string, left *int) bool {
	dir, err := os.Open(folder)
	if err != nil {
		return false
	}
	defer dir.Close()
	for *left > 0 {
		names, err := dir.Readdirnames(openAtOnce)
		for _, name := range names {
			if to, _ := os.Readlink(filepath.Join(folder, name)); to == wanted {
				return true
			}
		}
		*left -= len(names)
		if err != nil {
			return false
		}
	}
	return false
}

// Listening is somebody who takes connections.
type Listening struct {
	Owner int    // a user
	Name  string // of the program, where it was told already

	inode string
}

// Program names the program and its process; empty where that cannot be told. All processes are looked through for it.
func (l Listening) Program() string {
	if l.Name != "" || l.inode == "" {
		return l.Name
	}
	return programWith(l.inode)
}

// mostListening bounds how many users are told of who take connections at one port.
const mostListening = 3

// Listeners are the users who take connections at a TCP port of any address of this host.
func Listeners(port int) []Listening {
	var found []Listening
	for _, one := range slices.Concat(listenersIn("/proc/net/tcp", netip.IPv4Unspecified(), port), listenersIn("/proc/net/tcp6", netip.IPv6Unspecified(), port)) {
		if len(found) < mostListening && !slices.ContainsFunc(found, func(known Listening) bool { return known.Owner == one.owner }) {
			found = append(found, Listening{Owner: one.owner, inode: one.inode})
		}
	}
	return found
}

// socket is one that somebody listens with.
type socket struct {
	owner int    // a user
	inode string // that names it
}

// listenersAt are those who listen at an address. A socket of IPv6 for all addresses takes IPv4 as well, where none of IPv4 does.
func listenersAt(address netip.Addr, port int) []socket {
	if address.Is4() {
		if owners := listenersIn("/proc/net/tcp", address, port); len(owners) > 0 {
			return owners
		}
	}
	return listenersIn("/proc/net/tcp6", address, port)
}

// listenersIn are those whom one of the kernel's tables has.
func listenersIn(table string, address netip.Addr, port int) []socket {
	text, err := os.ReadFile(table)
	if err != nil {
		return nil
	}
	return listeners(text, address, port)
}

// IsThisHost tells whether an address, or localhost, is one of this host's.
func IsThisHost(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	own, err := net.InterfaceAddrs()
	return address.IsLoopback() || err == nil && slices.ContainsFunc(own, func(one net.Addr) bool {
		prefix, err := netip.ParsePrefix(one.String())
		return err == nil && prefix.Addr() == address
	})
}

// listeners are those who listen on a port of an address, or of all, by the kernel's table of TCP sockets. Asked about all addresses, those of
// any are meant.
func listeners(table []byte, asked netip.Addr, port int) []socket {
	const listening = "0A"
	var found []socket
	lines := bufio.NewScanner(bytes.NewReader(table))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != listening {
			continue
		}
		at, err := parseSocket(fields[1])
		owner, ownerErr := strconv.Atoi(fields[7])
		isMeant := at.Addr().IsUnspecified() || at.Addr() == asked || asked.IsUnspecified()
		if err == nil && ownerErr == nil && int(at.Port()) == port && isMeant {
			found = append(found, socket{owner, fields[9]})
		}
	}
	return found
}

// parseSocket reads an address and a port as the kernel writes them: in hex, each word of the address in the order of this machine's bytes.
func parseSocket(text string) (netip.AddrPort, error) {
	address, number, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for word := 0; word+4 <= len(raw); word += 4 {
		binary.BigEndian.PutUint32(raw[word:], binary.NativeEndian.Uint32(raw[word:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	port, err := strconv.ParseUint(number, 16, 16)
	if err == nil && !ok {
		err = fmt.Errorf("%q is no address", address)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), err
}
