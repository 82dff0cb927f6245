package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore/certtest"
	"maascert/internal/section"
	"maascert/maasconfig"
	"maascert/notify"
)

// example loads an example with its roots put beside it.
func example(t *testing.T, name string) (string, []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", name))
	require.NoError(t, err)
	dir := t.TempDir()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue("ec256", 0, time.Hour, "ca.example")
	require.NoError(t, err)
	roots := regexp.MustCompile(`/etc/maascert/[a-z_-]+\.(pem|crt)`)
	for _, path := range roots.FindAllString(string(text), -1) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), bundle.FullChainPEM(), 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "eab"), []byte("Nct7Wj63aDEyky48OYJjeKh1yIo-ewxn2R5dICdjyS5nDenHBrjpi8YYe6YyeMgK"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tsig"), []byte("c2VjcmV0"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "seal"), []byte("a seal of thirty-two bytes or more\n"), 0o600))
	for _, name := range []string{"vault.role_id", "vault.secret_id", "database.url"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("postgres://maascert:password@db.example/maascert\n"), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "api.key"), []byte("consumer:token:secret\n"), 0o600))
	text = []byte(strings.ReplaceAll(string(text), "/etc/maascert/", ""))
	path := filepath.Join(dir, "maascert.yaml")
	require.NoError(t, os.WriteFile(path, text, 0o640))
	return path, text
}

// What is in force can be written down as a configuration, which comes to the same.
func TestTheEffectiveConfigurationLoadsAgain(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"maascert.yaml", "step-ca/maascert.yaml", "caddy/maascert.yaml", "letsencrypt/maascert.yaml", "haproxy/termination.yaml", "haproxy/passthrough.yaml", "nginx/maascert.yaml", "apache/maascert.yaml", "vault/maascert.yaml"} {
		path, _ := example(t, name)
		config, err := Load(path, maasconfig.KnownTypes())
		require.NoError(t, err, name)
		text, err := config.Effective()
		require.NoError(t, err, name)
		require.NoError(t, os.WriteFile(path, text, 0o640))
		again, err := Load(path, maasconfig.KnownTypes())
		require.NoError(t, err, "%s:\n%s", name, text)
		same, err := again.Effective()
		require.NoError(t, err, name)
		require.Equal(t, string(text), string(same))
		require.Contains(t, string(text), "schedule: ")
		require.NotContains(t, string(text), "a seal of thirty-two bytes")
	}
	require.Equal(t, []string{"12h", "5m", "30s", "1h30m", "0s"}, []string{shortDuration(12 * time.Hour), shortDuration(5 * time.Minute), shortDuration(30 * time.Second), shortDuration(90 * time.Minute), shortDuration(0)})
}

// A file is checked by itself where what it refers to is not: what it says itself has to be right.
func TestAFileIsCheckedAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "maascert.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o640)) }
	write("acme: {directory: https://ca.example/d, root: root.pem, eab: {key_id: k, hmac: file:eab}}\nstore: {type: postgres, url: file:url, seal: cred:seal}\n" +
		"certificates: [{name: maas, names: [maas.example]}]\nnotify: [{name: hook, type: webhook, url: env:NOT_SET}]\n")
	_, err := Load(path, maasconfig.KnownTypes())
	require.ErrorContains(t, err, "root.pem")
	_, err = LoadAlone(path, maasconfig.KnownTypes())
	require.NoError(t, err)
	write("acme: {directory: https://ca.example/d, eab: {key_id: k, hmac: hunter2}}\ncertificates: [{name: maas, names: [maas.example]}]\n")
	_, err = LoadAlone(path, maasconfig.KnownTypes())
	require.ErrorContains(t, err, "a secret is not written here")
	require.NotContains(t, err.Error(), "hunter2")
}

// A22: a mistake says what to write instead, once, and where.
func TestMistakesSayWhatToWrite(t *testing.T) {
	t.Parallel()
	const whole = "acme: {directory: https://ca.example/d}\ncertificates:\n  - {name: maas, names: [maas.example]}\n"
	path := filepath.Join(t.TempDir(), "maascert.yaml")
	for text, want := range map[string]string{
		"acme:\n\tdirectory: letsencrypt\n":                                              "2:1: this line is indented by a tab; YAML takes spaces",
		strings.Replace(whole, "[maas.example]", "[*.example]", 1):                       `3:26: a name that begins with an asterisk stands in quotes: "*.example"`,
		strings.Replace(whole, "[maas.example]", "maas.example", 1):                      "3:25: expected a list, found a text; write [maas.example]",
		strings.Replace(whole, "certificates", "certficates", 1):                         `2:1: unknown key "certficates"; did you mean certificates?`,
		strings.Replace(whole, "name: maas", "nam: maas", 1):                             `3:6: unknown key "nam"; did you mean name or names`,
		whole + "frobnicate: 1\n":                                                        `4:1: unknown key "frobnicate"; there are: node,`,
		strings.Replace(whole, "{name: maas, names", "name: maas\n   names", 1):          "does this line begin in the same column",
		strings.Replace(whole, "maas.example]", `maas..example, "a b", a_b.example]`, 1): "nothing between two dots",
		strings.Replace(whole, "maas.example", "http://maas.example", 1):                 "this is a URL; write the name alone",
		strings.Replace(whole, "maas.example", `"maas.example:5443"`, 1):                 "a certificate knows no ports; write maas.example",
		strings.Replace(whole, "maas.example", "10.0.0.300", 1):                          "four numbers from 0 to 255",
		strings.Replace(whole, "maas.example", "10.0.0.0/24", 1):                         "this is a network; write each address",
		strings.Replace(whole, "maas.example", "-a.example", 1):                          "begins or ends with a hyphen",
		strings.Replace(whole, "maas.example", strings.Repeat("a", 64)+".example", 1):    "63 characters at most, not 64",
		strings.Replace(whole, "maas.example", `""`, 1):                                  "3:26: empty name",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o640))
		_, err := LoadAlone(path, maasconfig.KnownTypes())
		require.ErrorContains(t, err, want, text)
		var all *Errors
		require.ErrorAs(t, err, &all)
		if !strings.Contains(text, "a_b") && !strings.Contains(text, "nam:") {
			require.Len(t, all.Lines(false), 1, "%s: %v", text, err)
		}
		for line := range strings.Lines(strings.Join(all.Lines(true), "\n")) {
			require.True(t, !strings.HasPrefix(line, " ") || len([]rune(line)) <= 80, line)
		}
	}
}

func TestExamplesLoad(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"maascert.yaml", "step-ca/maascert.yaml", "caddy/maascert.yaml", "letsencrypt/maascert.yaml", "haproxy/termination.yaml", "haproxy/passthrough.yaml", "nginx/maascert.yaml", "apache/maascert.yaml", "vault/maascert.yaml"} {
		path, _ := example(t, name)
		config, err := Load(path, maasconfig.KnownTypes())
		require.NoError(t, err, name)
		require.NotEmpty(t, config.Certificates, name)
	}
	path, _ := example(t, "letsencrypt/maascert.yaml")
	config, err := Load(path, maasconfig.KnownTypes())
	require.NoError(t, err)
	require.Equal(t, acme.Presets["letsencrypt"], config.ACME.Directory)
	require.Equal(t, acme.Presets["letsencrypt-staging"], config.ACME.DryRun.Directory, "a rehearsal of Let's Encrypt goes to its staging CA")
}

// The reference names every key there is.
func TestTheReferenceNamesEveryKey(t *testing.T) {
	t.Parallel()
	named := map[string]bool{}
	for _, name := range []string{"maascert.yaml", "vault/maascert.yaml"} {
		_, text := example(t, name)
		var config Config
		doc := decodeYAML("maascert.yaml", text, maasconfig.KnownTypes(), false, &config)
		require.Empty(t, doc.errors)
		find(doc, "", reflect.ValueOf(&config).Elem(), named)
	}
	for key, ok := range named {
		require.True(t, ok, "the reference does not name %s", key)
	}
	for kind := range maasconfig.KnownTypes() {
		require.True(t, named["Target."+kind], "the reference has no target of type %s", kind)
	}
	for kind := range notify.Types() {
		require.True(t, named["Notifier."+kind], "the reference has no notifier of type %s", kind)
	}
}

// find notes of every key whether a document has it at any place; a list is looked at in its first element and in all that it
// holds, a map likewise, in its key "maas" where it is empty.
func find(doc *document, path string, value reflect.Value, named map[string]bool) {
	switch value.Kind() {
	case reflect.Pointer:
		if value.IsNil() {
			value = reflect.New(value.Type().Elem())
		}
		find(doc, path, value.Elem(), named)
	case reflect.Slice:
		for i := range value.Len() {
			find(doc, fmt.Sprintf("%s[%d]", path, i), value.Index(i), named)
		}
		if value.Len() == 0 {
			find(doc, path+"[0]", reflect.New(value.Type().Elem()).Elem(), named)
		}
	case reflect.Map:
		for _, key := range value.MapKeys() {
			copied := reflect.New(value.Type().Elem()).Elem()
			copied.Set(value.MapIndex(key))
			find(doc, below(path, key.String()), copied, named)
		}
		if value.Len() == 0 {
			find(doc, path+".maas", reflect.New(value.Type().Elem()).Elem(), named)
		}
	case reflect.Struct:
		if target, ok := reflect.TypeAssert[*Target](value.Addr()); ok {
			if target.TargetSection != nil {
				named["Target."+target.Type] = true
				findFields(doc, path, reflect.ValueOf(target.TargetSection).Elem(), named)
			}
			return
		}
		if notifier, ok := reflect.TypeAssert[*Notifier](value.Addr()); ok {
			if notifier.Section != nil {
				named["Notifier."+notifier.Type] = true
				findFields(doc, path, reflect.ValueOf(notifier.Section).Elem(), named)
			}
			return
		}
		findFields(doc, path, value, named)
	}
}

func findFields(doc *document, path string, value reflect.Value, named map[string]bool) {
	for i := range value.NumField() {
		switch name, option, _ := strings.Cut(value.Type().Field(i).Tag.Get("yaml"), ","); {
		case option == inline:
			findFields(doc, path, value.Field(i), named)
		case name != "":
			key := value.Type().String() + "." + name
			named[key] = named[key] || doc.has(below(path, name))
			find(doc, below(path, name), value.Field(i), named)
		}
	}
}

// A type picks the keys of its section, and paths are relative to the file wherever they stand.
func TestATypePicksTheKeysOfItsSection(t *testing.T) {
	t.Parallel()
	types := maasconfig.Types{
		"maas": maasconfig.KnownTypes()["maas"], "other": func() maasconfig.TargetSection { return &otherSection{} },
	}
	decode := func(text string) (map[string]Target, []string) {
		config := Config{}
		doc := decodeYAML("/etc/x.yaml", []byte("targets:\n  a: {"+text+"}\n"), types, false, &config)
		var faults []string
		for _, one := range doc.errors {
			faults = append(faults, one.text)
		}
		return config.Targets, faults
	}
	targets, faults := decode("files: [a, ./b, /c], run: [./d, ./e], type: other")
	require.Empty(t, faults)
	require.Equal(t, &otherSection{Files: []string{"/etc/a", "/etc/b", "/c"}, Run: []string{"/etc/d", "./e"}}, targets["a"].TargetSection)
	for text, want := range map[string]string{
		"type: none, files: []":                   `"none" is unknown; there are: maas, other`,
		"type: other, port: 1":                    `unknown key "port"; there are: type, files, run`,
		"files: []":                               `unknown key "files"; there are: type, port, endpoints, verify_timeout`,
		"type: [other]":                           "expected a text, found a list",
		"type: other, type: maas":                 `key "type" stands here twice`,
		"endpoints: [&kind other], type: *kind":   "write the type itself here",
		"type: &kind maas, endpoints: [*kind, b]": "",
	} {
		_, faults := decode(text)
		if want == "" {
			require.Empty(t, faults, text)
		} else {
			require.Equal(t, []string{want}, faults, text)
		}
	}
}

type otherSection struct {
	Files []string `yaml:"files,path"`
	Run   []string `yaml:"run,program"`
}

func (*otherSection) Check(section.Place)                     {}
func (*otherSection) LocalPorts(int) []int                    { return nil }
func (*otherSection) Entrusted() []string                     { return nil }
func (*otherSection) Make(maasconfig.Parts) maasconfig.Target { return nil }
