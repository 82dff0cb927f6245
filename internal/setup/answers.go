package setup

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"maascert/certstore"
	"maascert/internal/printable"
	"maascert/internal/secret"
)

// Answers are what a configuration says, with why.
type Answers struct {
	Directory   string
	Root        string // file; empty: the system's trust
	RootWhy     string
	IssuerRoot  string // file; empty: as Root
	AcceptTerms bool
	Email       string
	Profile     string
	EABKeyID    string
	EABKey      secret.Reference
	Challenge   Challenge
	Names       []Name
	KeyType     certstore.KeyType
	Endpoints   []string
	HAProxy     Bind // of an HAProxy on this host; empty: it is left alone
	APIKey      secret.Reference
}

// text is the configuration, with a word on each thing that is not obvious.
var text = template.Must(template.New("").Funcs(template.FuncMap{"q": quoted, "words": printable.Phrase}).Parse(`# Written by maascert init on {{.At}}.
# maascert config show prints every key with its value; the README says what each is for.

# The CA, and how it sees that the names are ours.
acme:
  directory: {{q .Directory}}
{{- with .Root}}
  root: {{q .}}{{with $.RootWhy}}   # {{words .}}{{end}}
{{- end}}
{{- with .IssuerRoot}}
  issuer_root: {{q .}}   # of what is issued
{{- end}}
{{- if .AcceptTerms}}
  accept_terms: true
{{- end}}
{{- with .Email}}
  email: {{q .}}
{{- end}}
{{- with .Profile}}
  profile: {{q .}}
{{- end}}
{{- with .EABKeyID}}
  eab: {key_id: {{q .}}, hmac: {{q $.EABKey}}}
{{- end}}
  # {{words .Challenge.Why}}
  challenge: {type: {{q .Challenge.Type}}{{with .Challenge.Webroot}}, webroot: {{q .}}{{end}}{{with .Challenge.Provider}}, dns: {provider: {{q .}}}{{end}}}

# One certificate for every way that leads to MAAS, and every region.
certificates:
  - name: maas
    names:
{{- range .Names}}
      - {{q .Name}}{{with .Why}}   # {{words .}}{{end}}
{{- end}}
    key_type: {{q .KeyType}}   # from 3.8 on MAAS loads RSA keys alone
{{- if .HAProxy.PEM}}
    targets: [maas, front]
{{- end}}
{{- if or .Endpoints .HAProxy.PEM}}

targets:
{{- with .Endpoints}}
  maas:
    endpoints: [{{range $i, $e := .}}{{if $i}}, {{end}}{{q $e}}{{end}}]   # every region: each is asked what it serves
{{- end}}
{{- if .HAProxy.PEM}}
  front: {type: haproxy, pem: {{q .HAProxy.PEM}}, endpoints: [{{q .HAProxy.Endpoint}}]}   # this host's own proxy
{{- end}}
{{- end}}
{{- with .APIKey}}

# MAAS's API tells which regions there are.
maas:
  api: {key: {{q .}}}
{{- end}}
`))

// YAML is the configuration as a file holds it.
func (a Answers) YAML(at time.Time) (string, error) {
	var out strings.Builder
	err := text.Execute(&out, struct {
		Answers
		At string
	}{a, printable.Time(at)})
	return out.String(), err
}

// plain are texts that YAML takes for themselves wherever they stand.
var plain = regexp.MustCompile(`^((/|https://|[A-Za-z]+[-.0-9])[-A-Za-z0-9_./:]*[-A-Za-z0-9_/]|\d+\.\d+\.\d+\.\d+)$`)

// quoted is a value as YAML takes it, wherever it stands on a line.
func quoted(value any) string {
	text := fmt.Sprint(value)
	if plain.MatchString(text) || slices.Contains(keywords, text) {
		return text
	}
	return strconv.QuoteToASCII(text) // what Go escapes, YAML escapes in the same way
}

// keywords are values of ours that are plain as well.
var keywords = []string{"maas"}

// urlHost is the host of a URL, without its port; empty: there is none.
func urlHost(address string) string {
	parsed, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return parsed.Hostname()
}
