package maasconfig

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"maascert/internal/world"
)

// Whatever regiond's file on this host holds, either it is known whether TLS is on, and on a port of TCP's, or it is not.
func FuzzRegiondNginxConf(f *testing.F) {
	f.Add("server {\n    listen [::]:5443 ssl http2;\n    listen 5443 ssl http2;\n    ssl_certificate /var/snap/maas/3/http/certs/regiond-proxy.pem;\n}\nserver {\n    listen [::]:5240;\n}\n")
	f.Add("server {\n    listen [::]:5240;\n    listen 5240;\n}\n")
	f.Add("listen 99999999999999999999 ssl;")
	f.Add("# listen 1 ssl\n  listen 10.0.0.1:443 ssl;\nlisten unix:/x ssl;")
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, nginxInclude), []byte(text), 0o644))
		state := localTLS(world.OS{}, dir)
		require.Equal(t, state.err == nil, state.known)
		if state.known {
			require.True(t, state.port >= 0 && state.port <= 65535, state.port)
		}
		if !strings.Contains(text, "listen") {
			require.Zero(t, state.port)
		}
	})
}

// What the maas command prints comes out as one bounded, printable line, and its version is one or none.
func FuzzOutputOfMAAS(f *testing.F) {
	f.Add("usage: maas config-tls enable [-h]\n\nInvalid PEM material\n", 2)
	f.Add("3.7.3-17001-g.abcdef", 0)
	f.Add("1:3.8.0~beta6\x1b[31m", 1)
	f.Add("Traceback (most recent call last):\n  File \"x\"\n\nTypeError: load_cert() takes 2 positional arguments but 3 were given", 1)
	f.Fuzz(func(t *testing.T, text string, exit int) {
		words := lastWords(world.Result{Exit: exit, Stderr: []byte(text)})
		require.Less(t, len(words), 1600)
		require.Equal(t, -1, strings.IndexFunc(words, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", words)
		require.True(t, strings.HasSuffix(words, fmt.Sprintf("(exit %d)", exit)))
		_, _ = adviceFor(words)
		version, err := ParseVersion(text)
		if err == nil {
			again, err := ParseVersion(version.String())
			require.NoError(t, err)
			require.Equal(t, version, again)
			require.True(t, version.AtLeast(version.Major, version.Minor))
		}
	})
}
