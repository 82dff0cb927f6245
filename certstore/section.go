package certstore

import "cmp"

// Section says in the configuration where certificates are kept.
type Section struct {
	Type string `yaml:"type"`
	Path string `yaml:"path,path"`
}

// Check fills in defaults and finds what is wrong. usual is the path of a file store where none is named.
func (s *Section) Check(usual string, fault func(key, format string, args ...any)) {
	s.Type = cmp.Or(s.Type, "file")
	if s.Type != "file" {
		fault("type", "%q is unknown; there is: file", s.Type)
	}
	s.Path = cmp.Or(s.Path, usual)
}
