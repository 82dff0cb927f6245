package lineage

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	jose "github.com/go-jose/go-jose/v4"

	"maascert/internal/printable"
)

// certbot reads renewal/NAME.conf, live/NAME and accounts/SERVER/ID of certbot's folder, as certbot 2 and later lay them out. path is
// the folder, live/NAME, or renewal/NAME.conf.
func certbot(files FS, path string) ([]Lineage, error) {
	folder, only := path, ""
	if filepath.Base(filepath.Dir(filepath.Dir(path))) == "live" {
		path = filepath.Dir(path) // one of its files
	}
	switch above := filepath.Dir(path); filepath.Base(above) {
	case "live":
		folder, only = filepath.Dir(above), filepath.Base(path)
	case "renewal":
		folder, only = filepath.Dir(above), strings.TrimSuffix(filepath.Base(path), ".conf")
	}
	names, err := entries(files, filepath.Join(folder, "renewal"))
	if err != nil {
		return nil, err
	}
	return choose(withEnding(names, ".conf"), only, func(name string) (Lineage, error) { return certbotLineage(files, folder, name) })
}

func certbotLineage(files FS, folder, name string) (Lineage, error) {
	file := filepath.Join(folder, "renewal", name+".conf")
	said, err := settings(files, file)
	if err != nil {
		return Lineage{}, err
	}
	l := Lineage{
		Client: "certbot", Name: name, Folder: folder, Directory: said["server"], Proof: said["authenticator"],
		Stop: fmt.Sprintf("write autorenew = False below [renewalparams] in %s", file),
	}
	if l.Proof == "webroot" {
		l.Webroot = strings.TrimSuffix(strings.Split(said["webroot_path"], ",")[0], ",")
	}
	live := func(file string) string { return filepath.Join(folder, "live", name, file) }
	l.take(files, live("privkey.pem"), live("fullchain.pem"))
	l.Account, l.NoAccount = certbotAccount(files, folder, l.Directory, said["account"])
	for _, when := range []string{"pre_hook", "renew_hook", "post_hook"} {
		if said[when] != "" {
			l.Hooks = append(l.Hooks, Hook{file, when + " = " + said[when]})
		}
	}
	for _, when := range []string{"pre", "deploy", "post"} {
		programs, err := entries(files, filepath.Join(folder, "renewal-hooks", when))
		if err != nil {
			return Lineage{}, err
		}
		for _, program := range programs[:min(len(programs), mostListed)] {
			file := filepath.Join(folder, "renewal-hooks", when, program)
			if info, err := files.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				l.Hooks = append(l.Hooks, Hook{file, "runs for every certificate of certbot's"})
			}
		}
	}
	return l, nil
}

// certbotAccount reads an account, which lies below the CA's URL.
func certbotAccount(files FS, folder, directory, id string) (*Account, error) {
	server, err := url.Parse(directory)
	if err != nil || server.Host == "" || id == "" || id != filepath.Base(id) {
		return nil, errors.New("its settings name no account")
	}
	at := filepath.Join(folder, "accounts", server.Host, filepath.FromSlash(strings.TrimLeft(server.EscapedPath(), "/")), id)
	text, err := files.ReadFile(filepath.Join(at, "private_key.json"))
	if err != nil {
		return nil, err
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(text); err != nil {
		return nil, fmt.Errorf("%s: no JSON Web Key", filepath.Join(at, "private_key.json")) // the parser's words may quote it
	}
	signer, isPrivate := key.Key.(crypto.Signer)
	if !isPrivate {
		return nil, fmt.Errorf("%s: no private key", filepath.Join(at, "private_key.json"))
	}
	account := &Account{Key: signer}
	// It adds to the key what the CA tells to whoever has that.
	if text, err := files.ReadFile(filepath.Join(at, "regr.json")); err == nil {
		var known struct{ URI string }
		if json.Unmarshal(text, &known) == nil {
			account.URL = printable.Line(known.URI, mostValue)
		}
	}
	return account, nil
}
