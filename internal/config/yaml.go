package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"maascert/internal/printable"
	"maascert/internal/secret"
	"maascert/internal/section"
	"maascert/internal/similar"
	"maascert/maasconfig"
)

// document is a YAML text that was decoded strictly: unknown and doubled keys and wrong types are faults, and all faults
// are found, not only the first.
type document struct {
	name   string
	folder string // to which paths are relative
	types  maasconfig.Types
	alone  bool // nothing else is read
	lines  []string
	at     map[string]*token.Position // where a key's value stands, by path
	anchor map[string]ast.Node
	errors []mistake
	secret map[int]bool // lines that hold a reference to a secret, or by mistake the secret itself
	broken bool         // it is no YAML at all, so there is nothing more to find
}

// mistake is one thing that is wrong in a configuration file.
type mistake struct {
	line, column int
	text         string
}

// Errors are all that is wrong in a configuration file.
type Errors struct {
	name   string
	lines  []string
	secret map[int]bool
	errors []mistake
}

func (e *Errors) Error() string {
	return strings.Join(e.Lines(false), "\n")
}

// Lines are the faults, each as FILE:LINE:COLUMN: TEXT, with an excerpt below it when asked for; a line that may hold a
// secret is not shown.
func (e *Errors) Lines(excerpt bool) []string {
	var lines []string
	for _, one := range e.errors {
		line := fmt.Sprintf("%s:%d:%d: %s", e.name, one.line, one.column, one.text)
		if excerpt && !e.secret[one.line] && one.line >= 1 && one.line <= len(e.lines) && !secretive.MatchString(e.lines[one.line-1]) {
			text, column := excerptOf(strings.TrimRight(e.lines[one.line-1], " \r"), one.column)
			line += "\n    " + text + "\n    " + strings.Repeat(" ", column-1) + "^"
		}
		lines = append(lines, line)
	}
	return lines
}

// excerptOf is a line, or what stands around a column of a long one, and where the column is in that. Tabs are shown as spaces, and what no
// terminal should get as question marks.
func excerptOf(line string, column int) (string, int) {
	const around = 34
	text := []rune(strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsPrint(r):
			return r
		default:
			return '?'
		}
	}, line))
	column = max(1, min(column, len(text)+1))
	if len(text) <= 2*around {
		return string(text), column
	}
	from := max(0, min(column-1-around, len(text)-2*around))
	to := min(len(text), from+2*around)
	before, after := "", ""
	if from > 0 {
		before = "…"
	}
	if to < len(text) {
		after = "…"
	}
	return before + string(text[from:to]) + after, column - from + len([]rune(before))
}

// secretive are lines that speak of a secret: what somebody wrote there by mistake is not repeated.
var secretive = regexp.MustCompile(`(?i)secret|token|passw|passphrase|credential|hmac|tsig|seal|api_?key|private_?key|access_?key|consumer_?key`)

// decodeYAML decodes a text into a struct whose fields have yaml tags.
func decodeYAML(name string, text []byte, types maasconfig.Types, alone bool, into any) *document {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	d := &document{name: name, folder: filepath.Dir(name), types: types, alone: alone, lines: strings.Split(string(text), "\n"), at: map[string]*token.Position{}, anchor: map[string]ast.Node{}, secret: map[int]bool{}}
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	var syntax *yaml.SyntaxError
	d.broken = err != nil
	switch {
	case errors.As(err, &syntax):
		d.add(syntax.Token.Position, "%s", d.explainSyntax(syntax))
		return d
	case err != nil:
		d.add(&token.Position{Line: 1, Column: 1}, "%v", err)
		return d
	case len(file.Docs) > 1:
		d.broken = true
		d.add(&token.Position{Line: 1, Column: 1}, "more than one YAML document")
		return d
	}
	if len(file.Docs) == 1 && file.Docs[0].Body != nil {
		d.value("", file.Docs[0].Body, reflect.ValueOf(into).Elem())
	}
	return d
}

// explainSyntax says what to write where the parser's own words do not.
func (d *document) explainSyntax(err *yaml.SyntaxError) string {
	line := ""
	if at := err.Token.Position.Line; at >= 1 && at <= len(d.lines) {
		line = d.lines[at-1]
	}
	switch indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]; {
	case strings.Contains(indent, "\t"):
		return "this line is indented by a tab; YAML takes spaces"
	case strings.Contains(err.Message, "not allowed in this context"):
		return err.Message + ": does this line begin in the same column as the others of its section?"
	default:
		return err.Message
	}
}

func (d *document) failure() error {
	slices.SortStableFunc(d.errors, func(a, b mistake) int { return (a.line-b.line)*1000 + a.column - b.column })
	return &Errors{name: d.name, lines: d.lines, secret: d.secret, errors: d.errors}
}

func (d *document) add(at *token.Position, format string, args ...any) {
	d.errors = append(d.errors, mistake{at.Line, at.Column, printable.Text(fmt.Sprintf(format, args...))})
}

// fault notes that a key's value is wrong. One that is not there is shown at the nearest key above it.
func (d *document) fault(path, format string, args ...any) {
	for isThere := true; ; isThere = false {
		if at, ok := d.at[path]; ok {
			// What is wrong with several keys that are not there is shown at one place.
			if !isThere || !d.isWrongAlready(at) {
				d.add(at, format, args...)
			}
			return
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			d.add(&token.Position{Line: 1, Column: 1}, format, args...)
			return
		}
		path = path[:cut]
	}
}

// hide keeps a key's line out of all excerpts.
func (d *document) hide(path string) {
	if at, ok := d.at[path]; ok {
		d.secret[at.Line] = true
	}
}

// isWrongAlready tells whether something was found wrong at a place: a value of a wrong type is not judged as well.
func (d *document) isWrongAlready(at *token.Position) bool {
	return slices.ContainsFunc(d.errors, func(e mistake) bool { return e.line == at.Line && e.column == at.Column })
}

// has tells whether a key was given a value.
func (d *document) has(path string) bool { return d.at[path] != nil }

// value decodes a node into a value.
func (d *document) value(path string, node ast.Node, into reflect.Value) {
	if alias, isAlias := node.(*ast.AliasNode); isAlias {
		d.at[path] = alias.Start.Position
	}
	node = d.resolve(node)
	if node == nil {
		return
	}
	if _, null := node.(*ast.NullNode); null {
		return // as if the key were left out
	}
	d.at[path] = start(node)
	if into.Type() == reflect.TypeFor[secret.Reference]() {
		d.secret[start(node).Line] = true
	}
	if into.Type() == reflect.TypeFor[time.Duration]() {
		d.duration(node, into)
		return
	}
	switch into.Kind() {
	case reflect.Pointer: // a key that means something else when it is left out
		into.Set(reflect.New(into.Type().Elem()))
		d.value(path, node, into.Elem())
	case reflect.Struct:
		if seal, is := reflect.TypeAssert[*Seal](into.Addr()); is && !isMapping(node) {
			d.value(path, node, reflect.ValueOf(&seal.Texts).Elem())
			return
		}
		d.object(path, node, into)
	case reflect.Map:
		d.mapping(path, node, into)
	case reflect.Slice:
		if text, one := node.(*ast.StringNode); one && into.Type() == reflect.TypeFor[References]() {
			d.secret[start(node).Line] = true
			into.Set(reflect.ValueOf(References{secret.Reference(text.Value)}))
			return
		}
		d.sequence(path, node, into)
	default:
		d.scalar(node, into)
	}
}

// isMapping tells whether a node has keys.
func isMapping(node ast.Node) bool {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	default:
		return false
	}
}

// resolve follows anchors and aliases.
func (d *document) resolve(node ast.Node) ast.Node {
	switch n := node.(type) {
	case *ast.AnchorNode:
		d.anchor[n.Name.String()] = n.Value
		return d.resolve(n.Value)
	case *ast.AliasNode:
		value, ok := d.anchor[n.Value.String()]
		if name := n.Value.String(); !ok && strings.HasPrefix(name, ".") {
			d.add(n.Start.Position, "a name that begins with an asterisk stands in quotes: \"*%s\"", name)
			return nil
		} else if !ok {
			d.add(n.Start.Position, "there is no anchor %q above", name)
			return nil
		}
		return d.resolve(value)
	default:
		return node
	}
}

// start finds where a node begins.
func start(node ast.Node) *token.Position {
	if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		return m.Values[0].Key.GetToken().Position
	}
	return node.GetToken().Position
}

func (d *document) entries(node ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	default:
		d.add(start(node), "expected keys and values, found %s", kindOf(node))
		return nil, false
	}
}

// Options of a yaml tag, after the key's name.
const (
	inline    = "inline"  // the keys of this struct stand beside those of the struct around it
	isPath    = "path"    // relative to the configuration's folder
	isProgram = "program" // likewise, unless it is a bare name to be looked up; of an argument list the first
	isKind    = "kind"    // picks the other keys; no tag has it
)

// field is where the value of a key goes.
type field struct {
	name   string
	option string
	value  reflect.Value
	chosen string // of a type: the one whose keys these are
}

// fieldsOf lists the fields of a struct that have keys, in their order.
func fieldsOf(into reflect.Value) []field {
	var fields []field
	for i := range into.NumField() {
		name, option, _ := strings.Cut(into.Type().Field(i).Tag.Get("yaml"), ",")
		switch {
		case option == inline:
			fields = append(fields, fieldsOf(into.Field(i))...)
		case name != "":
			fields = append(fields, field{name: name, option: option, value: into.Field(i)})
		}
	}
	return fields
}

// union is a section whose keys depend on the one called type.
type union interface {
	// choose makes ready for the keys of a type, empty where none is named, and returns where they go. The error says that there
	// is no such type.
	choose(types maasconfig.Types, kind string) (any, error)
}

// fieldsOfUnion lists the fields of the type that a section names; nil when there is no such type.
func (d *document) fieldsOfUnion(path string, entries []*ast.MappingValueNode, chosen union) []field {
	kind := ""
	at := slices.IndexFunc(entries, func(entry *ast.MappingValueNode) bool { return keyText(entry) == "type" })
	if at >= 0 {
		kind = d.textOf(entries[at].Value)
	}
	said := reflect.New(reflect.TypeFor[string]()).Elem()
	section, err := chosen.choose(d.types, kind)
	if err != nil {
		if at >= 0 {
			d.value(below(path, "type"), entries[at].Value, said) // so that it is known where it stands
		}
		d.fault(below(path, "type"), "%v", err)
		return nil
	}
	return append([]field{{name: "type", option: isKind, value: said, chosen: kind}}, fieldsOf(reflect.ValueOf(section).Elem())...)
}

// textOf is the text of a node that is read in its turn; empty when it is none, or refers to what is not read yet.
func (d *document) textOf(node ast.Node) string {
	switch n := node.(type) {
	case *ast.AnchorNode:
		return d.textOf(n.Value)
	case *ast.AliasNode:
		return d.textOf(d.anchor[n.Value.String()])
	case *ast.StringNode:
		return n.Value
	default:
		return ""
	}
}

func (d *document) object(path string, node ast.Node, into reflect.Value) {
	entries, _ := d.entries(node)
	var fields []field
	if chosen, ok := reflect.TypeAssert[union](into.Addr()); ok {
		if fields = d.fieldsOfUnion(path, entries, chosen); fields == nil {
			return // nobody knows its keys
		}
	} else {
		fields = fieldsOf(into)
	}
	known := make([]string, len(fields))
	for i, field := range fields {
		known[i] = field.name
	}
	seen := map[string]bool{}
	for _, entry := range entries {
		key := keyText(entry)
		at := slices.Index(known, key)
		switch {
		case at < 0:
			d.unknownKey(path, entry, known)
		case seen[key]:
			d.add(entry.Key.GetToken().Position, "key %q stands here twice", key)
		default:
			field := fields[at]
			d.value(below(path, key), entry.Value, field.value)
			d.absolute(field)
			if field.option == isKind && field.value.String() != field.chosen {
				d.fault(below(path, key), "write the type itself here")
			}
		}
		seen[key] = true
	}
}

// unknownKey says that there is no such key, and which one may be meant. That one is not missed as well.
func (d *document) unknownKey(path string, entry *ast.MappingValueNode, known []string) {
	key, at := keyText(entry), entry.Key.GetToken().Position
	words := "there are: " + strings.Join(known, ", ")
	if meant := similar.To(key, known); len(meant) > 0 {
		words = "did you mean " + strings.Join(meant, " or ") + "?"
		for _, one := range meant {
			if d.at[below(path, one)] == nil {
				d.at[below(path, one)] = at
			}
		}
	}
	d.add(at, "unknown key %q; %s", key, words)
}

// absolute makes paths absolute.
func (d *document) absolute(f field) {
	if f.option != isPath && f.option != isProgram {
		return
	}
	paths := []reflect.Value{f.value}
	if f.value.Kind() == reflect.Slice {
		paths = nil
		for i := range f.value.Len() {
			paths = append(paths, f.value.Index(i))
		}
		if f.option == isProgram {
			paths = paths[:min(len(paths), 1)]
		}
	}
	for _, path := range paths {
		name := path.String()
		if name == "" || filepath.IsAbs(name) || f.option == isProgram && !strings.Contains(name, "/") {
			continue
		}
		absolute, err := filepath.Abs(filepath.Join(d.folder, name))
		if err != nil {
			absolute = filepath.Join(d.folder, name)
		}
		path.SetString(absolute)
	}
}

func keyText(entry *ast.MappingValueNode) string {
	if text, ok := entry.Key.(*ast.StringNode); ok {
		return text.Value
	}
	return entry.Key.String()
}

func below(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *document) mapping(path string, node ast.Node, into reflect.Value) {
	entries, ok := d.entries(node)
	if !ok {
		return
	}
	into.Set(reflect.MakeMap(into.Type()))
	for _, entry := range entries {
		key := keyText(entry)
		if into.MapIndex(reflect.ValueOf(key)).IsValid() {
			d.add(entry.Key.GetToken().Position, "key %q stands here twice", key)
			continue
		}
		value := reflect.New(into.Type().Elem()).Elem()
		d.value(below(path, key), entry.Value, value)
		into.SetMapIndex(reflect.ValueOf(key), value)
	}
}

func (d *document) sequence(path string, node ast.Node, into reflect.Value) {
	list, ok := node.(*ast.SequenceNode)
	if text, isText := node.(*ast.StringNode); isText {
		d.add(start(node), "expected a list, found a text; write [%s]", printable.Phrase(text.Value))
		return
	} else if !ok {
		d.add(start(node), "expected a list, found %s", kindOf(node))
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(list.Values), len(list.Values)))
	for i, value := range list.Values {
		d.value(fmt.Sprintf("%s[%d]", path, i), value, into.Index(i))
	}
}

func (d *document) duration(node ast.Node, into reflect.Value) {
	text, ok := node.(*ast.StringNode)
	if !ok {
		d.add(start(node), "expected a duration such as 90s or 12h, found %s", kindOf(node))
		return
	}
	value, err := time.ParseDuration(text.Value)
	if err != nil {
		d.add(start(node), "%q is no duration; write 90s or 12h", text.Value)
		return
	}
	into.SetInt(int64(value))
}

func (d *document) scalar(node ast.Node, into reflect.Value) {
	switch n := node.(type) {
	case *ast.StringNode:
		if into.Kind() == reflect.String {
			into.SetString(n.Value)
			return
		}
	case *ast.LiteralNode:
		if into.Kind() == reflect.String {
			into.SetString(n.Value.Value)
			return
		}
	case *ast.BoolNode:
		if into.Kind() == reflect.Bool {
			into.SetBool(n.Value)
			return
		}
	case *ast.IntegerNode:
		if into.Kind() == reflect.Int {
			switch value := n.Value.(type) {
			case int64:
				into.SetInt(value)
				return
			case uint64:
				if value <= 1<<62 {
					into.SetInt(int64(value))
					return
				}
			}
		}
	}
	want := map[reflect.Kind]string{reflect.String: "a text", reflect.Bool: "true or false", reflect.Int: "a whole number"}[into.Kind()]
	d.add(start(node), "expected %s, found %s", want, kindOf(node))
}

func kindOf(node ast.Node) string {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys and values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	case *ast.IntegerNode, *ast.FloatNode:
		return "a number (put a text that looks like one in quotes)"
	case *ast.BoolNode:
		return "true or false"
	default:
		return "something else"
	}
}

// place is a section of the document as the package sees it that knows its keys.
type place struct {
	document *document
	path     string
}

func (d *document) place(path string) section.Place { return place{d, path} }

func (p place) Path() string { return p.path }

func (p place) Under(key string) section.Place { return place{p.document, p.key(key)} }

func (p place) Fault(key, format string, args ...any) { p.document.fault(p.key(key), format, args...) }

func (p place) Hide(key string) { p.document.hide(p.key(key)) }

func (p place) key(key string) string {
	if key == "" {
		return p.path
	}
	return below(p.path, key)
}

func (p place) Read(key, path string) []byte {
	if p.document.alone {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		p.Fault(key, "%v", withoutOp(err))
		return nil
	}
	return text
}

func (p place) Again(reference secret.Reference) (string, error) {
	return reference.Read(p.document.folder)
}

func (p place) Secret(key string, reference secret.Reference) string {
	if err := reference.Check(); p.document.alone && err == nil {
		return ""
	}
	text, err := reference.Read(p.document.folder)
	if err != nil {
		p.Fault(key, "%v", err)
		return ""
	}
	return text
}
