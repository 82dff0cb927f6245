package lineage

import (
	"encoding/base64"
	"errors"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"maascert/certstore"
	"maascert/internal/printable"
)

// acmeSH reads NAME or NAME_ecc of acme.sh's folder and the account below ca/HOST/PATH. path is the folder or one of those.
func acmeSH(files FS, path string) ([]Lineage, error) {
	folder, only := path, ""
	name := strings.TrimSuffix(filepath.Base(path), "_ecc")
	if _, err := files.Stat(filepath.Join(path, name+".conf")); err == nil {
		folder, only = filepath.Dir(path), filepath.Base(path)
	}
	names, err := entries(files, folder)
	if err != nil {
		return nil, err
	}
	all := map[string]map[string]string{}
	for _, entry := range names {
		said, err := settings(files, filepath.Join(folder, entry, strings.TrimSuffix(entry, "_ecc")+".conf"))
		if err == nil && said["Le_Domain"] != "" { // else something else of acme.sh's
			all[entry] = said
		}
	}
	return choose(slices.Sorted(maps.Keys(all)), only, func(entry string) (Lineage, error) { return acmeSHLineage(files, folder, entry, all[entry]), nil })
}

func acmeSHLineage(files FS, folder, entry string, said map[string]string) Lineage {
	name := strings.TrimSuffix(entry, "_ecc")
	at := filepath.Join(folder, entry)
	l := Lineage{
		Client: "acme.sh", Name: entry, Folder: folder, Directory: said["Le_API"], Proof: said["Le_Webroot"],
		Stop: "acme.sh --remove -d " + name,
	}
	if entry != name {
		l.Stop += " --ecc"
	}
	switch {
	case l.Proof == "no":
		l.Proof = "standalone"
	case strings.HasPrefix(l.Proof, "/"):
		l.Webroot, l.Proof = strings.Split(l.Proof, ",")[0], "webroot"
	}
	l.take(files, filepath.Join(at, name+".key"), filepath.Join(at, "fullchain.cer"))
	l.Account, l.NoAccount = acmeSHAccount(files, folder, l.Directory)
	for _, when := range acmeSHHooks {
		if command := decoded(said[when]); command != "" {
			l.Hooks = append(l.Hooks, Hook{filepath.Join(at, name+".conf"), when + ": " + command})
		}
	}
	return l
}

// acmeSHHooks are the settings of acme.sh's that hold commands.
var acmeSHHooks = []string{"Le_PreHook", "Le_RenewHook", "Le_ReloadCmd", "Le_PostHook"}

// decoded is a command as acme.sh writes it down: plain or in base64 between two words.
func decoded(command string) string {
	coded, isCoded := strings.CutPrefix(command, "__ACME_BASE64__START_")
	if !isCoded {
		return command
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(coded, "__ACME_BASE64__END_"))
	if err != nil {
		return command
	}
	return printable.Line(string(plain), mostValue)
}

// acmeSHAccount reads an account, which lies below the CA's host, without its port, and the directory's path; older ones below the host.
func acmeSHAccount(files FS, folder, directory string) (*Account, error) {
	server, err := url.Parse(directory)
	if err != nil || server.Host == "" {
		return nil, errors.New("its settings name no CA")
	}
	older := filepath.Join(folder, "ca", server.Hostname())
	at := filepath.Join(older, filepath.FromSlash(strings.TrimLeft(server.EscapedPath(), "/")))
	text, err := files.ReadFile(filepath.Join(at, "account.key"))
	if err != nil {
		at = older
		var tooOld error
		if text, tooOld = files.ReadFile(filepath.Join(at, "account.key")); tooOld != nil {
			return nil, err
		}
	}
	account := new(Account)
	if account.Key, err = certstore.ParseKey(text); err != nil {
		return nil, err
	}
	// It adds to the key what the CA tells to whoever has that.
	if said, err := settings(files, filepath.Join(at, "ca.conf")); err == nil {
		account.URL, account.Email = said["ACCOUNT_URL"], said["CA_EMAIL"]
	}
	return account, nil
}
