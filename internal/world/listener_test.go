package world

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestListeners(t *testing.T) {
	t.Parallel()
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1478 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 00000000:1478 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 0200007F:1478 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1002        0 1 1 0 100 0 0 10 0
   3: 0100007F:1478 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1001        0 1 1 0 100 0 0 10 0
`
	first := netip.MustParseAddr("127.0.0.1")
	require.Equal(t, []int{1000, 0}, owners(listeners([]byte(table), first, 0x1478)))
	require.Equal(t, []int{0, 1002}, owners(listeners([]byte(table), netip.MustParseAddr("127.0.0.2"), 0x1478)))
	require.Empty(t, listeners([]byte(table), first, 0x1479))

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	require.Contains(t, owners(listenersAt(first, listener.Addr().(*net.TCPAddr).Port)), os.Geteuid())
	require.Contains(t, ownAddresses("localhost"), first)
	for uid, is := range map[int]bool{0: false, 999: false, 1001: true, 60000: true, 61200: false, 65534: false, 100000: true} {
		require.Equal(t, is && uid != os.Geteuid(), IsOrdinary(uid), uid)
	}
	require.NoError(t, CheckListener("127.0.0.1", port), "we are to be trusted")
	require.NoError(t, CheckListener("192.0.2.1", port), "another host's is not known")
	require.NoError(t, CheckListener("maas.example", "x"))
}

func owners(sockets []socket) []int {
	var all []int
	for _, one := range sockets {
		all = append(all, one.owner)
	}
	return all
}

// A14: whoever has a port is named.
func TestListener(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	for _, address := range []string{listener.Addr().String(), ":" + port} {
		require.Equal(t, fmt.Sprintf("world.test (process %d)", os.Getpid()), Listener(address))
	}
	require.Empty(t, Listener("127.0.0.1:1"))
	require.Empty(t, Listener("nowhere"))
}
