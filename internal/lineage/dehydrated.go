package lineage

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/printable"
)

// dehydrated reads certs/NAME and accounts/CA of dehydrated's folder, where CA is the directory's URL in base64url. path is the folder or one
// of certs. Its settings are shell variables in the folder or in /etc/dehydrated; of what a shell would do with them only plain values are read.
func dehydrated(files FS, path string) ([]Lineage, error) {
	folder, only := path, ""
	if filepath.Base(filepath.Dir(path)) == "certs" {
		folder, only = filepath.Dir(filepath.Dir(path)), filepath.Base(path)
	}
	names, err := entries(files, filepath.Join(folder, "certs"))
	if err != nil {
		return nil, err
	}
	return choose(names, only, func(name string) (Lineage, error) { return dehydratedLineage(files, folder, name), nil })
}

// dehydratedSettings are those of all its certificates, of which those that are read later count, and the files that they stand in.
func dehydratedSettings(files FS, folder string) (said map[string]string, from map[string]string) {
	said, from = map[string]string{}, map[string]string{}
	read := slices.Concat([]string{"/etc/dehydrated/config"}, entriesAt(files, "/etc/dehydrated", "conf.d"), []string{filepath.Join(folder, "config")})
	for _, file := range read {
		one, err := settings(files, file)
		if err != nil {
			continue
		}
		for name, value := range one {
			said[name], from[name] = strings.ReplaceAll(value, "${BASEDIR}", folder), file
		}
	}
	return said, from
}

// dehydratedCAs are those that it calls by name.
var dehydratedCAs = map[string]string{"": acme.LetsEncrypt, "letsencrypt": acme.LetsEncrypt, "letsencrypt-test": acme.LetsEncryptStaging}

func dehydratedLineage(files FS, folder, name string) Lineage {
	at := filepath.Join(folder, "certs", name)
	said, from := dehydratedSettings(files, folder)
	l := Lineage{Client: "dehydrated", Name: name, Folder: folder, Directory: said["CA"]}
	if known, isName := dehydratedCAs[l.Directory]; isName {
		l.Directory = known
	}
	if one := onlyCA(files, folder); one != "" && said["CA"] == "" { // it was told by an option
		l.Directory = one
	}
	l.Stop = "take its line out of " + cmp.Or(said["DOMAINS_TXT"], filepath.Join(folder, "domains.txt"))
	switch kind := said["CHALLENGETYPE"]; {
	case kind != "" && kind != "http-01":
		l.Proof = kind
	case said["HOOK"] != "":
		l.Proof = "http-01, by its hook or by " + cmp.Or(said["WELLKNOWN"], "its folder")
	default:
		l.Proof = "http-01, by what a web server shows of " + cmp.Or(said["WELLKNOWN"], "its folder")
	}
	l.take(files, filepath.Join(at, "privkey.pem"), filepath.Join(at, "fullchain.pem"))
	l.Account, l.NoAccount = dehydratedAccount(files, folder, l.Directory)
	if said["HOOK"] != "" {
		l.Hooks = append(l.Hooks, Hook{from["HOOK"], "HOOK=" + said["HOOK"]})
	}
	return l
}

// onlyCA is the directory of the CA at which dehydrated has an account, where it is one alone.
func onlyCA(files FS, folder string) string {
	// One that cannot be read is as good as none.
	names, _ := entries(files, filepath.Join(folder, "accounts"))
	if len(names) != 1 {
		return ""
	}
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(names[0], "="))
	if err != nil {
		return ""
	}
	return printable.Line(strings.TrimSpace(string(decoded)), mostValue)
}

// dehydratedAccount reads an account. The name of its folder is that of the directory with a line's end.
func dehydratedAccount(files FS, folder, directory string) (*Account, error) {
	at := filepath.Join(folder, "accounts", base64.RawURLEncoding.EncodeToString([]byte(directory+"\n")))
	text, err := files.ReadFile(filepath.Join(at, "account_key.pem"))
	if err != nil {
		return nil, err
	}
	account := new(Account)
	if account.Key, err = certstore.ParseKey(text); err != nil {
		return nil, errors.New(filepath.Join(at, "account_key.pem") + ": no private key")
	}
	// It adds to the key what the CA tells to whoever has that.
	var known struct{ URL string }
	if text, err := files.ReadFile(filepath.Join(at, "account_id.json")); err == nil && json.Unmarshal(text, &known) == nil {
		account.URL = printable.Line(known.URL, mostValue)
	}
	var registered struct{ Contact []string }
	if text, err := files.ReadFile(filepath.Join(at, "registration_info.json")); err == nil && json.Unmarshal(text, &registered) == nil && len(registered.Contact) > 0 {
		account.Email = printable.Line(strings.TrimPrefix(registered.Contact[0], "mailto:"), mostValue)
	}
	return account, nil
}
