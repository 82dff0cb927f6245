package config

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Effective is the configuration as it is in force, with its defaults and absolute paths, as text that can be loaded again. Secrets
// are references, as in the file; what nobody set and what has no default is left out.
func (c *Config) Effective() ([]byte, error) {
	shown := *c
	shown.Issuers = map[string]Issuer{}
	for name, issuer := range c.Issuers {
		if name != defaultIssuer {
			shown.Issuers[name] = issuer
		}
	}
	shown.Targets = map[string]Target{}
	for name, target := range c.Targets {
		if slices.ContainsFunc(c.Certificates, func(cert Certificate) bool { return slices.Contains(cert.Targets, name) }) {
			shown.Targets[name] = target
		}
	}
	listen := c.ListenAddress()
	shown.Listen = &listen
	return yaml.MarshalWithOptions(effective(reflect.ValueOf(shown)), yaml.IndentSequence(true))
}

// effective is a value as YAML shows it.
func effective(value reflect.Value) any {
	if d, is := reflect.TypeAssert[time.Duration](value); is {
		return shortDuration(d)
	}
	switch one := value.Interface().(type) {
	case Target:
		return append(yaml.MapSlice{{Key: "type", Value: one.Type}}, effectiveFields(reflect.ValueOf(one.TargetSection).Elem())...)
	case Seal:
		if one.Vault == nil {
			return effective(reflect.ValueOf(one.Texts))
		}
	case Notifier:
		return append(yaml.MapSlice{{Key: "type", Value: one.Type}}, effectiveFields(reflect.ValueOf(one.Section).Elem())...)
	}
	switch value.Kind() {
	case reflect.Pointer:
		return effective(value.Elem())
	case reflect.Struct:
		return effectiveFields(value)
	case reflect.Map:
		var all yaml.MapSlice
		for _, key := range value.MapKeys() {
			all = append(all, yaml.MapItem{Key: key.String(), Value: effective(value.MapIndex(key))})
		}
		slices.SortFunc(all, func(a, b yaml.MapItem) int { return strings.Compare(a.Key.(string), b.Key.(string)) })
		return all
	case reflect.Slice:
		all := []any{}
		for i := range value.Len() {
			all = append(all, effective(value.Index(i)))
		}
		return all
	case reflect.Bool:
		return value.Bool()
	case reflect.Int:
		return value.Int()
	default:
		return value.String()
	}
}

func effectiveFields(value reflect.Value) yaml.MapSlice {
	var all yaml.MapSlice
	for _, field := range fieldsOf(value) {
		isLeftOut := field.value.IsZero() && field.value.Kind() != reflect.Bool
		if shown := effective(field.value); !isLeftOut && !isEmpty(shown) {
			all = append(all, yaml.MapItem{Key: field.name, Value: shown})
		}
	}
	return all
}

// isEmpty tells whether a section or list has nothing in it.
func isEmpty(shown any) bool {
	switch one := shown.(type) {
	case yaml.MapSlice:
		return len(one) == 0
	case []any:
		return len(one) == 0
	default:
		return false
	}
}

// shortDuration is a duration without the noughts at its end.
func shortDuration(d time.Duration) string {
	text := d.String()
	for _, nothing := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, nothing) {
			text = text[:len(text)-len(nothing)+1]
		}
	}
	return text
}
