package lineage

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"maascert/certstore"
	"maascert/internal/printable"
)

// lego reads certificates/NAME.* of lego's folder and the account below accounts/HOST. path is the folder or one of those files. lego
// writes down where a certificate was fetched, which names the CA's host, and not the directory.
func lego(files FS, path string) ([]Lineage, error) {
	folder, only := path, ""
	if filepath.Base(filepath.Dir(path)) == "certificates" {
		folder, only = filepath.Dir(filepath.Dir(path)), filepath.Base(path)
		for _, ending := range []string{".issuer.crt", ".crt", ".key", ".json"} {
			only = strings.TrimSuffix(only, ending)
		}
	}
	names, err := entries(files, filepath.Join(folder, "certificates"))
	if err != nil {
		return nil, err
	}
	return choose(withEnding(names, ".json"), only, func(name string) (Lineage, error) { return legoLineage(files, folder, name), nil })
}

func legoLineage(files FS, folder, name string) Lineage {
	at := func(ending string) string { return filepath.Join(folder, "certificates", name+ending) }
	l := Lineage{Client: "lego", Name: name, Folder: folder, Stop: "take lego's command for it out of the timer, unit or crontab that runs it"}
	if text, err := files.ReadFile(at(".json")); err == nil {
		var known struct{ CertURL string }
		// What is no such document names no CA.
		_ = json.Unmarshal(text, &known)
		if from, err := url.Parse(known.CertURL); err == nil {
			l.Host = from.Host
		}
	}
	l.take(files, at(".key"), at(".crt"))
	if _, err := files.Stat(at(".issuer.crt")); l.Broken == nil && len(l.Bundle.Chain()) == 0 && err == nil {
		l.take(files, at(".key"), at(".crt"), at(".issuer.crt")) // it was asked for without its chain
	}
	l.Account, l.NoAccount = legoAccount(files, folder, l.Host)
	return l
}

// legoAccount reads the only account at a CA, which lies below its host, with _ for the colon before the port.
func legoAccount(files FS, folder, host string) (*Account, error) {
	if host == "" {
		return nil, errors.New("it is not known which CA issued it")
	}
	at := filepath.Join(folder, "accounts", strings.ReplaceAll(host, ":", "_"))
	names, err := entries(files, at)
	if err != nil {
		return nil, err
	}
	if len(names) != 1 {
		return nil, fmt.Errorf("there are %d accounts in %s", len(names), at)
	}
	text, err := files.ReadFile(filepath.Join(at, names[0], "keys", names[0]+".key"))
	if err != nil {
		return nil, err
	}
	account := new(Account)
	if account.Key, err = certstore.ParseKey(text); err != nil {
		return nil, err
	}
	// It adds to the key what the CA tells to whoever has that.
	if text, err := files.ReadFile(filepath.Join(at, names[0], "account.json")); err == nil {
		var known struct {
			Email        string
			Registration struct{ URI string }
		}
		if json.Unmarshal(text, &known) == nil {
			account.URL, account.Email = printable.Line(known.Registration.URI, mostValue), printable.Line(known.Email, mostValue)
		}
	}
	return account, nil
}
