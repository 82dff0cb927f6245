package world

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// CheckListener tells why a secret must not be sent to a port without TLS: it is not this host's, where others can read along, but that
// is for whoever configured it to judge; or it is, and an ordinary user listens there in the place of the service. Who cannot be told is
// let pass.
func CheckListener(host, port string) error {
	number, err := strconv.Atoi(port)
	if err != nil || !IsThisHost(host) {
		return nil
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for _, owner := range listeners(text, host, number) {
			if owner != 0 && owner != os.Geteuid() && owner >= firstOrdinaryUser {
				return fmt.Errorf("port %d of this host belongs to user %d, who is no service: the key is not sent there", number, owner)
			}
		}
	}
	return nil
}

// firstOrdinaryUser is the first user that is no system's or service's (login.defs, UID_MIN).
const firstOrdinaryUser = 1000

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

// listeners are the users who listen on a port of an address, or of all, by the kernel's table of TCP sockets.
func listeners(table []byte, host string, port int) []int {
	const listening = "0A"
	asked, _ := netip.ParseAddr(host) // a name means the loopback
	var owners []int
	lines := bufio.NewScanner(bytes.NewReader(table))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 || fields[3] != listening {
			continue
		}
		at, err := parseSocket(fields[1])
		owner, ownerErr := strconv.Atoi(fields[7])
		isMeant := at.Addr().IsUnspecified() || at.Addr() == asked || !asked.IsValid() && at.Addr().IsLoopback()
		if err == nil && ownerErr == nil && int(at.Port()) == port && isMeant {
			owners = append(owners, owner)
		}
	}
	return owners
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
