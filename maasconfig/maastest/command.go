package maastest

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"maascert/maasconfig"
)

// backend is what the maas command finds behind it: MAAS's database, and what is wrong with it.
type backend interface {
	facts() (facts, error)
	store(secret *Secret) error // nil: TLS off
	apiKey(username string) (string, error)
	configure(key string) error // what hardening asks for
}

// facts are what a maas command needs to know of its deployment.
type facts struct {
	Version      maasconfig.Version
	Root         int // the user that may configure MAAS
	Hang         bool
	DatabaseDown bool
	Hardening    []string // settings that it asks for; nil: this MAAS has no such command
}

// Secret is what MAAS stores of config-tls (MAAS fact 1.5), with the port beside it.
type Secret struct {
	Key, Cert, CACert string
	Port              int
}

// invocation is one run of the maas command.
type invocation struct {
	backend        backend
	uid            int
	stdin          io.Reader
	stdout, stderr io.Writer
}

// exit ends a run early.
type exit struct {
	code    int
	usage   string // printed before the message, as argparse does
	message string
}

func (e *exit) Error() string { return e.message }

const (
	usageTop    = "usage: maas [-h] COMMAND ...\n\nhttps://maas.io/\n\noptions:\n  -h, --help  the commands\n"
	usageTLS    = "usage: maas config-tls [-h] COMMAND ...\n\noptions:\n  -h, --help  the commands: enable, disable\n"
	usageEnable = "usage: maas config-tls enable [-h] [--cacert CACERT] [-p PORT] [--yes]\n                              key cert\n\n" +
		"positional arguments:\n  key\n  cert\n\noptions:\n  -h, --help\n  --cacert CACERT\n  -p PORT, --port PORT\n  --yes\n"
	usageDisable = "usage: maas config-tls disable [-h]\n"
)

// run runs the command with its arguments and returns its exit code.
func (in *invocation) run(args []string) int {
	err := in.dispatch(args)
	var end *exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &end):
		if end.usage != "" {
			fmt.Fprintf(in.stderr, "%s\n", end.usage)
		}
		fmt.Fprintln(in.stderr, end.message)
		return end.code
	default:
		fmt.Fprintf(in.stderr, "%s\n%s\n", usageTop, err)
		return 2
	}
}

func (in *invocation) dispatch(args []string) error {
	switch {
	case len(args) == 0:
		return &exit{2, usageTop, "too few arguments"}
	case args[0] == "apikey" && len(args) >= 3 && args[len(args)-2] == "--username":
		key, err := in.backend.apiKey(args[len(args)-1])
		if err == nil {
			fmt.Fprintln(in.stdout, key)
		}
		return err
	case args[0] == "config-hardening" && len(args) > 1:
		return in.harden(args[1:])
	case args[0] != "config-tls":
		return &exit{2, usageTop, fmt.Sprintf("argument COMMAND: invalid choice: '%s' (choose from 'config-tls')", args[0])}
	case len(args) == 1:
		return &exit{2, usageTLS, "the following arguments are required: COMMAND"}
	case args[1] == "enable":
		return in.enable(args[2:])
	case args[1] == "disable":
		if len(args) > 2 {
			return &exit{2, usageDisable, "unrecognized arguments: " + strings.Join(args[2:], " ")}
		}
		if _, err := in.admit(); err != nil {
			return err
		}
		return in.backend.store(nil)
	default:
		return &exit{2, usageTLS, fmt.Sprintf("argument COMMAND: invalid choice: '%s' (choose from 'enable', 'disable')", args[1])}
	}
}

// harden is what 3.7.4 and later have (MAAS fact 8.1).
func (in *invocation) harden(args []string) error {
	f, err := in.backend.facts()
	switch {
	case err != nil:
		return err
	case f.Hardening == nil:
		return &exit{2, usageTop, "argument COMMAND: invalid choice: 'config-hardening' (choose from 'config-tls')"}
	case args[0] == "get" && len(args) == 2 && args[1] == "hardening_enabled":
		fmt.Fprintln(in.stdout, "hardening_enabled [config] = on")
		return nil
	case args[0] == "set" && len(args) == 3:
		return in.backend.configure(args[1])
	case args[0] != "validate":
		return &exit{2, usageTop, "argument COMMAND: invalid choice: '" + args[0] + "'"}
	case len(f.Hardening) == 0:
		fmt.Fprintln(in.stdout, "OK: no hardening violations.")
		return nil
	}
	fmt.Fprintf(in.stdout, "VIOLATIONS (%d):\n", len(f.Hardening))
	for _, key := range f.Hardening {
		fmt.Fprintf(in.stdout, "  [WILDCARD_BIND_NOT_ALLOWED] %[1]s is not configured\n    Resolution: Run: maas config-hardening set %[1]s <address>\n    Config key: %[1]s\n", key)
	}
	return &exit{1, "", "violations were found"}
}

// admit checks, after the arguments were read, who calls, and whether there is a database.
func (in *invocation) admit() (facts, error) {
	f, err := in.backend.facts()
	if err != nil {
		return f, err
	}
	if in.uid != f.Root {
		return f, &exit{1, "", "You can only 'config-tls' as root."}
	}
	if f.Hang {
		time.Sleep(10 * time.Minute)
	}
	if f.DatabaseDown {
		return f, errors.New("connection to server at \"127.0.0.1\", port 15999 failed: Connection refused\n" +
			"\tIs the server running on that host and accepting TCP/IP connections?")
	}
	return f, nil
}

// enableArgs are the arguments of config-tls enable; the files are open, as argparse's FileType leaves them.
type enableArgs struct {
	key, cert, cacert io.Reader
	port              int
	yes               bool
}

func (in *invocation) enable(args []string) error {
	parsed, err := in.parseEnable(args)
	if err != nil {
		return err
	}
	f, err := in.admit()
	if err != nil {
		return err
	}
	if !parsed.yes && !in.confirm() {
		return nil
	}
	secret := Secret{Port: parsed.port}
	key, err := readText(parsed.key)
	if err != nil {
		return err
	}
	cert, err := readText(parsed.cert)
	if err != nil {
		return err
	}
	cacert := ""
	if parsed.cacert != nil {
		if cacert, err = readText(parsed.cacert); err != nil {
			return err
		}
	}
	if secret.Key, secret.Cert, secret.CACert, err = fromPEM(key, cert, cacert, f.Version); err != nil {
		return err
	}
	return in.backend.store(&secret)
}

func (in *invocation) parseEnable(args []string) (enableArgs, error) {
	parsed := enableArgs{port: maasconfig.DefaultPort}
	var unknown []string
	positional := 0
	fail := func(format string, a ...any) (enableArgs, error) {
		return enableArgs{}, &exit{2, usageEnable, fmt.Sprintf(format, a...)}
	}
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		if strings.HasPrefix(name, "-p") && len(name) > 2 && name[1] != '-' {
			name, value, hasValue = "-p", name[2:], true
		}
		takes := name == "--cacert" || name == "-p" || name == "--port"
		if takes && !hasValue {
			if i++; i == len(args) {
				return fail("argument %s: expected one argument", map[bool]string{true: "--cacert", false: "-p/--port"}[name == "--cacert"])
			}
			value = args[i]
		}
		switch {
		case name == "--yes" && !hasValue:
			parsed.yes = true
		case name == "--cacert":
			file, err := in.open("--cacert", value)
			if err != nil {
				return enableArgs{}, err
			}
			parsed.cacert = file
		case takes:
			port, err := strconv.Atoi(value)
			if err != nil {
				return fail("argument -p/--port: invalid int value: '%s'", value)
			}
			parsed.port = port
		case strings.HasPrefix(args[i], "-") && args[i] != "-" || positional == 2:
			unknown = append(unknown, args[i])
		default:
			file, err := in.open([]string{"key", "cert"}[positional], args[i])
			if err != nil {
				return enableArgs{}, err
			}
			*[]*io.Reader{&parsed.key, &parsed.cert}[positional] = file
			positional++
		}
	}
	switch {
	case positional == 0:
		return fail("the following arguments are required: key, cert")
	case positional == 1:
		return fail("the following arguments are required: cert")
	case len(unknown) > 0:
		return fail("unrecognized arguments: %s", strings.Join(unknown, " "))
	}
	return parsed, nil
}

// open opens a file at once, as argparse does.
func (in *invocation) open(argument, name string) (io.Reader, error) {
	if name == "-" {
		return in.stdin, nil
	}
	text, err := os.ReadFile(name)
	if err == nil {
		return bytes.NewReader(text), nil
	}
	number, words := syscall.ENOENT, "No such file or directory"
	switch {
	case errors.Is(err, syscall.EISDIR):
		number, words = syscall.EISDIR, "Is a directory"
	case errors.Is(err, fs.ErrPermission):
		number, words = syscall.EACCES, "Permission denied"
	}
	return nil, &exit{2, usageEnable, fmt.Sprintf("argument %s: can't open '%s': [Errno %d] %s: '%s'", argument, name, int(number), words, name)}
}

const prompt = "Once TLS is enabled, the MAAS UI and API won't be accessible over HTTP anymore, proceed? (y/n): "

// confirm asks as MAAS does: only y means yes, and at the end of the input it asks again, for ever.
func (in *invocation) confirm() bool {
	lines := bufio.NewReader(in.stdin)
	for {
		if _, err := io.WriteString(in.stdout, prompt); err != nil {
			return false
		}
		line, err := lines.ReadString('\n')
		if err == nil || line != "" {
			return strings.EqualFold(strings.TrimSpace(line), "y")
		}
		if _, err := io.WriteString(in.stdout, "\n"); err != nil {
			return false
		}
	}
}

// readText reads a file as Python reads text: UTF-8, with universal newlines.
func readText(r io.Reader) (string, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	for i := 0; i < len(raw); {
		char, size := utf8.DecodeRune(raw[i:])
		if char == utf8.RuneError && size <= 1 {
			why := "invalid start byte"
			if raw[i] >= 0xc2 && raw[i] <= 0xf4 {
				why = "invalid continuation byte"
				if i+1 == len(raw) {
					why = "unexpected end of data"
				}
			}
			return "", fmt.Errorf("'utf-8' codec can't decode byte 0x%02x in position %d: %s", raw[i], i, why)
		}
		i += size
	}
	return strings.ReplaceAll(string(raw), "\r\n", "\n"), nil
}

const badChain = "[('asn1 encoding routines', '', 'too long'), ('asn1 encoding routines', '', 'bad object header'), " +
	"('asn1 encoding routines', '', 'nested asn1 error'), ('PEM routines', '', 'ASN1 lib')]"

const badDigest = "[('digital envelope routines', '', 'operation not supported for this keytype')]"

// fromPEM checks and re-encodes as MAAS's Certificate.from_pem does (MAAS fact 1.4): key and certificate are looked for
// in their joined text, the first of each counts, and every CERTIFICATE block of the chain is kept.
func fromPEM(keyText, certText, cacertText string, version maasconfig.Version) (key, cert, cacert string, err error) {
	material := keyText + "\n" + certText
	for i, char := range []rune(material) {
		if char > 127 {
			return "", "", "", fmt.Errorf("'ascii' codec can't encode character '%s' in position %d: ordinal not in range(128)", escape(char), i)
		}
	}
	keyBlock, ok := firstBlock(material, "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
	if !ok {
		return "", "", "", errors.New("Invalid PEM material")
	}
	if keyBlock.Type == "ENCRYPTED PRIVATE KEY" || keyBlock.Headers["DEK-Info"] != "" {
		return "", "", "", errors.New("Private key can't have a passphrase")
	}
	parsed, pkcs8, err := parseKey(keyBlock)
	if err != nil {
		return "", "", "", errors.New("Invalid PEM material")
	}
	certBlock, ok := firstBlock(material, "CERTIFICATE", "X509 CERTIFICATE")
	if !ok {
		return "", "", "", errors.New("Invalid PEM material")
	}
	leaf, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return "", "", "", errors.New("Invalid PEM material")
	}
	if err := checkKeyMatch(parsed, leaf, version); err != nil {
		return "", "", "", err
	}
	var chain strings.Builder
	for _, block := range blocks(cacertText) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", "", "", errors.New(badChain)
		}
		chain.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})), chain.String(), nil
}

func escape(char rune) string {
	if char < 0x100 {
		return fmt.Sprintf(`\x%02x`, char)
	}
	return fmt.Sprintf(`\u%04x`, char)
}

// pemBlock also finds what encoding/pem does not: blocks that are glued together.
var pemBlock = regexp.MustCompile(`(?s)-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END ([A-Z0-9 ]+)-----`)

func blocks(text string) []*pem.Block {
	var found []*pem.Block
	for _, match := range pemBlock.FindAllStringSubmatch(text, -1) {
		if match[1] != match[3] {
			continue
		}
		block := &pem.Block{Type: match[1], Headers: map[string]string{}}
		body := match[2]
		if head, rest, ok := strings.Cut(strings.TrimPrefix(body, "\n"), "\n\n"); ok && strings.Contains(head, ":") {
			for line := range strings.SplitSeq(head, "\n") {
				name, value, _ := strings.Cut(line, ":")
				block.Headers[name] = strings.TrimSpace(value)
			}
			body = rest
		}
		// A block that is no base64 stays empty and fails to parse.
		block.Bytes, _ = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(body), ""))
		found = append(found, block)
	}
	return found
}

func firstBlock(text string, types ...string) (*pem.Block, bool) {
	for _, block := range blocks(text) {
		if slices.Contains(types, block.Type) {
			return block, true
		}
	}
	return nil, false
}

// special stands for keys that Go does not load and OpenSSL does: Ed448 and RSA-PSS.
type special struct {
	edwards bool
	rsa     *rsa.PrivateKey
}

var (
	oidPSS   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidEd448 = asn1.ObjectIdentifier{1, 3, 101, 113}
)

func parseKey(block *pem.Block) (key any, pkcs8 []byte, err error) {
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		if key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
			key, err = parseSpecial(block.Bytes)
		}
		return key, block.Bytes, err
	}
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err = x509.MarshalPKCS8PrivateKey(key)
	return key, pkcs8, err
}

func parseSpecial(der []byte) (any, error) {
	var info struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, err
	}
	switch {
	case info.Algorithm.Algorithm.Equal(oidEd448):
		return special{edwards: true}, nil
	case info.Algorithm.Algorithm.Equal(oidPSS):
		key, err := x509.ParsePKCS1PrivateKey(info.Key)
		return special{rsa: key}, err
	default:
		return nil, errors.New("unknown key")
	}
}

func checkKeyMatch(key any, leaf *x509.Certificate, version maasconfig.Version) error {
	mismatch := errors.New("Private and public keys don't match")
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if !key.PublicKey.Equal(leaf.PublicKey) {
			return mismatch
		}
	case *ecdsa.PrivateKey:
		if version.AtLeast(3, 8) {
			return errors.New("ECPrivateKey.sign() takes 2 positional arguments but 3 were given")
		}
		if !key.PublicKey.Equal(leaf.PublicKey) {
			return mismatch
		}
	case special:
		if key.rsa != nil {
			public, err := pssPublicKey(leaf)
			if err != nil || !key.rsa.PublicKey.Equal(public) {
				return mismatch
			}
			return nil
		}
		return edwardsError("Ed448", version)
	default:
		return edwardsError("Ed25519", version)
	}
	return nil
}

func edwardsError(kind string, version maasconfig.Version) error {
	if version.AtLeast(3, 8) {
		return fmt.Errorf("%sPrivateKey.sign() takes 2 positional arguments but 3 were given", kind)
	}
	return errors.New(badDigest)
}

func pssPublicKey(leaf *x509.Certificate) (crypto.PublicKey, error) {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(leaf.RawSubjectPublicKeyInfo, &info); err != nil {
		return nil, err
	}
	return x509.ParsePKCS1PublicKey(info.Key.RightAlign())
}
