package maastest_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore/certtest"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// apiSite is a deployment of two regions with TLS, an administrator's key and a user's.
type apiSite struct {
	*maastest.Deployment
	admin, user string
	client      *http.Client
	nonces      atomic.Int64
}

func newAPISite(t *testing.T) *apiSite {
	s := &apiSite{Deployment: maastest.New(t, maastest.Options{Regions: 2, Version: maasconfig.Version{Major: 3, Minor: 4, Patch: 8}})}
	s.admin, s.user = s.APIKey("admin", true), s.APIKey("user", false)
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue("ec256", 0, time.Hour, "maas.example")
	require.NoError(t, err)
	require.NoError(t, s.Enable(t.Context(), bundle, 5443))
	s.client = newPlainClient()
	return s
}

// newPlainClient is a client that follows nothing and trusts everybody.
func newPlainClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// oauth are the parts of an Authorization header, which a row may change.
func (s *apiSite) oauth(key string, change ...string) string {
	parts := strings.Split(key, ":")
	values := map[string]string{
		"oauth_nonce": fmt.Sprint("n", s.nonces.Add(1)), "oauth_timestamp": strconv.FormatInt(time.Now().Unix(), 10), "oauth_version": "1.0", "oauth_signature_method": "PLAINTEXT",
		"oauth_consumer_key": parts[0], "oauth_token": parts[1], "oauth_signature": "%26" + parts[2],
	}
	for _, one := range change {
		name, value, given := strings.Cut(one, "=")
		delete(values, "oauth_"+name)
		if given {
			values["oauth_"+name] = value
		}
	}
	var words []string
	for name, value := range values {
		words = append(words, fmt.Sprintf("%s=%q", name, value))
	}
	return "OAuth " + strings.Join(words, ", ")
}

type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request: a body in JSON begins with "{", anything else is urlencoded.
func (s *apiSite) ask(t *testing.T, auth, method, address, body string) answer {
	t.Helper()
	if !strings.Contains(address, "://") {
		address = "https://" + s.Regions[0].Address.String() + ":5443" + address
	}
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	require.NoError(t, err)
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	switch {
	case strings.HasPrefix(body, "{"):
		req.Header.Set("Content-Type", "application/json")
	case strings.HasPrefix(body, "--"):
		req.Header.Set("Content-Type", "multipart/form-data; boundary=X")
	case body != "":
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := s.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// apiRow is a row of what the real API was seen to do: METHOD, path below /MAAS/api/2.0/ (or from /MAAS on), body, and the answer's
// status, the beginning of its content type, and a pattern of its text.
type apiRow struct {
	as, method, path, body string
	status                 int
	kind, text             string
}

const (
	asAdmin  = "admin"
	asUser   = "user"
	nobody   = ""
	jsonKind = "application/json"
	utf8JSON = "application/json; charset=utf-8"
	utf8Text = "text/plain; charset=utf-8"
)

func (s *apiSite) check(t *testing.T, rows []apiRow) {
	t.Helper()
	for _, r := range rows {
		auth := map[string]string{asAdmin: s.admin, asUser: s.user}[r.as]
		if auth != "" {
			auth = s.oauth(auth)
		}
		path := r.path
		if !strings.HasPrefix(path, "/MAAS") && !strings.Contains(path, "://") {
			path = "/MAAS/api/2.0/" + path
		}
		got := s.ask(t, auth, r.method, path, r.body)
		name := fmt.Sprintf("%s %s %s %q: %q", r.as, r.method, r.path, r.body, got.body)
		require.Equal(t, r.status, got.status, name)
		if r.status != http.StatusNoContent || r.kind != "" {
			require.Equal(t, r.kind, got.header.Get("Content-Type"), name)
		}
		require.Regexp(t, `(?s)^`+r.text+`$`, got.body, name)
		isOurs := !strings.Contains(path, "://") && got.status != http.StatusBadGateway && got.status != http.StatusMovedPermanently && strings.HasPrefix(path, "/MAAS/api/")
		if !isOurs {
			continue
		}
		isMiddleware := slices.Contains([]int{400, 401, 403, 500}, got.status) || strings.HasPrefix(got.body, "Unknown API endpoint")
		require.Equal(t, map[bool]string{true: "Cookie", false: "Authorization, Cookie"}[isMiddleware], got.header.Get("Vary"), name)
		require.Equal(t, !isMiddleware, regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(got.header.Get("X-MAAS-API-Hash")), name)
		require.Equal(t, "DENY", got.header.Get("X-Frame-Options"), name)
		require.Equal(t, "max-age=15552000; includeSubdomains", got.header.Get("Strict-Transport-Security"), name)
	}
}

func TestTheAPIsTransportShapeAndErrors(t *testing.T) {
	t.Parallel()
	s := newAPISite(t)
	plain := "http://" + s.Regions[0].Address.String() + ":5240"
	s.check(t, []apiRow{
		{asAdmin, "GET", "regioncontrollers/", "", 200, utf8JSON, `\[\n    \{\n        ".*`},
		{nobody, "GET", "version/", "", 200, utf8JSON, `\{"capabilities": \["[^\n]*"version": "3.4.8"\}`},
		{nobody, "GET", "/MAAS/api/version/", "", 200, "text/plain", `2.0`},
		{nobody, "GET", "version", "", 404, utf8Text, `Unknown API endpoint: /MAAS/api/2.0/version\.`},
		{asAdmin, "GET", "notifications/2", "", 404, utf8Text, `Unknown API endpoint: /MAAS/api/2.0/notifications/2\.`},
		{asAdmin, "GET", "notifications/?op=nosuch", "", 400, utf8Text, `Unrecognised signature: method=GET op=nosuch`},
		{asAdmin, "GET", "maas/", "", 400, utf8Text, `Unrecognised signature: method=GET op=None`},
		{asAdmin, "PUT", "maas/", "", 405, "text/html", ``},
		{asAdmin, "DELETE", "maas/", "", 405, "text/html", ``},
		{asAdmin, "GET", "notifications/999/", "", 404, "text/plain", `No Notification matches the given query\.`},
		{asAdmin, "GET", "dnsresourcerecords/999/", "", 404, "text/plain", `No DNSData matches the given query\.`},
		{asAdmin, "GET", "regioncontrollers/nosuch/", "", 404, "text/plain", `No RegionController matches the given query\.`},
		{asAdmin, "POST", "notifications/", "ident=x", 400, jsonKind, `\{"message": \["This field is required\."\]\}`},
		{asAdmin, "POST", "notifications/", "message=urlencoded", 200, utf8JSON, `.*"urlencoded".*`},
		{asAdmin, "POST", "notifications/", "--X\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\nmultipart\r\n--X--\r\n", 200, utf8JSON, `.*"multipart".*`},
		{asAdmin, "POST", "notifications/", `{"message":"json"}`, 200, utf8JSON, `.*"json".*`},
		{asAdmin, "PUT", "notifications/3/", "message=a+b&dismissable=true", 200, utf8JSON, `.*"a b".*`},
		{asAdmin, "PUT", "notifications/3/", "--X\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\nparts\r\n--X--\r\n", 200, utf8JSON, `.*"parts".*`},
		{asAdmin, "PUT", "notifications/3/", `{"message":"again"}`, 200, utf8JSON, `.*"again".*`},
		{asAdmin, "POST", "maas/", "op=set_config&name=maas_name&value=vm2", 200, "text/plain", `OK`},
		{nobody, "GET", plain + "/MAAS/api/2.0/version/", "", 301, "text/html", `<html>.*`},
		{asAdmin, "POST", plain + "/MAAS/api/2.0/notifications/", "message=nothing+is+done", 301, "text/html", `<html>.*`},
		{asAdmin, "GET", plain + "/MAAS/api/2.0/machines/", "", 200, utf8JSON, `\[\]`},
		{nobody, "GET", plain + "/MAAS/rpc/", "", 200, jsonKind, `\{"eventloops": \{"region1:pid=\d+": \[\["127[^"]*", 5250\]\], "region2:pid=\d+": \[\["127[^"]*", 5250\]\]\}\}`},
	})
	require.NotContains(t, strings.Join(s.Notifications(), " "), "nothing is done")
	got := s.ask(t, s.oauth(s.admin), "DELETE", "/MAAS/api/2.0/maas/", "")
	require.Equal(t, "GET, POST", got.header.Get("Allow"))
	got = s.ask(t, "", "GET", plain+"/MAAS/api/2.0/version/", "")
	require.Equal(t, "https://"+s.Regions[0].Address.String()+":5443/MAAS/api/2.0/version/", got.header.Get("Location"))
	got = s.ask(t, s.oauth("no:such:key"), "GET", "/MAAS/api/2.0/version/", "")
	require.Equal(t, 200, got.status, "a wrong key does not matter there")

	s.Regions[1].StopRegiond()
	s.check(t, []apiRow{{nobody, "GET", plain + "/MAAS/rpc/", "", 200, jsonKind, `\{"eventloops": \{"region1:[^}]*\}\}`}})
	s.Regions[0].StopRegiond()
	require.Equal(t, map[string]any{"eventloops": map[string]any{}}, s.EventLoops(), "while they start, none is there")
	s.check(t, []apiRow{{asAdmin, "GET", "regioncontrollers/", "", 502, "text/html", `<html>.*`}})
}

func TestTheAPIsAuthorization(t *testing.T) {
	t.Parallel()
	s := newAPISite(t)
	secret := regexp.QuoteMeta(strings.Split(s.admin, ":")[2])
	ago := func(d time.Duration) string {
		return "timestamp=" + strconv.FormatInt(time.Now().Add(-d).Unix(), 10)
	}
	const path = "/MAAS/api/2.0/users/?op=whoami"
	const plainForbidden, html = "text/plain", "text/html; charset=utf-8"
	expired := `Authorization Error: 'Expired timestamp: given \d+ and now \d+ has a greater difference than threshold 300'`
	wrong := `Authorization Error: 'Invalid signature\. Expected signature base string: &` + secret + `'`
	for _, r := range []struct {
		auth   string
		status int
		kind   string
		text   string
	}{
		{"", 401, plainForbidden, `Forbidden`},
		{"Basic YTpi", 401, plainForbidden, `Forbidden`},
		{"Bearer x", 401, plainForbidden, `Forbidden`},
		{s.oauth(s.admin, "nonce"), 401, plainForbidden, `Forbidden`},
		{s.oauth(s.admin, "timestamp"), 401, plainForbidden, `Forbidden`},
		{s.oauth(s.admin, "signature_method"), 401, plainForbidden, `Forbidden`},
		{s.oauth(s.admin, "consumer_key"), 401, plainForbidden, `Forbidden`},
		{s.oauth(s.admin, "token"), 401, plainForbidden, `Forbidden`},
		{s.oauth(s.admin, "version"), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, "signature"), 401, html, `Authorization Error: 'Missing signature\.'`},
		{s.oauth(s.admin, "consumer_key=nosuch"), 401, html, `Authorization Error: Invalid API key\.`},
		{s.oauth(s.admin, "token=xxxxxxxxxxxxxxxxxx"), 401, html, `Authorization Error: 'Invalid access token: xxxxxxxxxxxxxxxxxx'`},
		{s.oauth(s.admin, "signature=%26wrong"), 401, html, wrong},
		{s.oauth(s.admin, "signature=%26"), 401, html, wrong},
		{s.oauth(s.admin, "signature="+strings.Split(s.admin, ":")[2]), 401, html, wrong},
		{s.oauth(s.admin, "signature=&"+strings.Split(s.admin, ":")[2]), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, "nonce=N"), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, "nonce=N"), 401, html, `Authorization Error: 'Nonce already used: N'`},
		{s.oauth(s.admin, "nonce=N", ago(time.Minute)), 401, html, `Authorization Error: 'Nonce already used: N'`},
		{s.oauth(s.admin, "nonce="), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, "nonce="), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, ago(290*time.Second)), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, ago(310*time.Second)), 401, html, expired},
		{s.oauth(s.admin, ago(-310*time.Second)), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, ago(-time.Hour)), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, ago(-24*time.Hour)), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, "timestamp=abc"), 500, utf8Text, `invalid literal for int\(\) with base 10: 'abc'`},
		{"oauth" + strings.TrimPrefix(s.oauth(s.admin), "OAuth"), 500, utf8Text, `'NoneType' object has no attribute 'verify_request'`},
		{`OAuth realm="", ` + strings.TrimPrefix(s.oauth(s.admin), "OAuth "), 200, utf8JSON, `.*`},
		{strings.ReplaceAll(s.oauth(s.admin), ", ", ","), 200, utf8JSON, `.*`},
		{strings.ReplaceAll(s.oauth(s.admin), `"`, ""), 200, utf8JSON, `.*`},
		{s.oauth(s.admin, "version=2.0"), 401, html, `Authorization Error: 'OAuth version 2\.0 not supported\.'`},
		{s.oauth(s.admin, "signature_method=HMAC-SHA1"), 401, html, `Authorization Error: 'Invalid signature\. Expected signature base string: GET&https.*`},
		{s.oauth(s.admin, "signature_method=RSA-SHA1"), 401, html, `Authorization Error: 'Signature method RSA-SHA1 not supported try one of the following: PLAINTEXT, HMAC-SHA1'`},
	} {
		got := s.ask(t, r.auth, "GET", path, "")
		require.Equal(t, r.status, got.status, "%s: %s", r.auth, got.body)
		require.Equal(t, r.kind, got.header.Get("Content-Type"), r.auth)
		require.Regexp(t, `(?s)^`+r.text+`$`, got.body, r.auth)
		asks := ""
		if r.kind == html {
			asks = `OAuth realm="OAuth"`
		}
		require.Equal(t, asks, got.header.Get("WWW-Authenticate"), r.auth)
	}
	reserved := `This method is reserved for admin users\.`
	s.check(t, []apiRow{
		{asAdmin, "POST", "notifications/", "message=for+admins&admins=true", 200, utf8JSON, `.*`},
		{asAdmin, "POST", "notifications/", "message=for+users&users=true", 200, utf8JSON, `.*`},
		{asAdmin, "POST", "dnsresourcerecords/", "name=a&domain=maas&rrtype=TXT&rrdata=x", 200, utf8JSON, `.*`},
		{asUser, "GET", "regioncontrollers/", "", 200, utf8JSON, `\[\]`},
		{asUser, "GET", "maas/?op=get_config&name=maas_name", "", 200, jsonKind, `"vm"`},
		{asUser, "GET", "domains/", "", 200, utf8JSON, `.*"maas".*`},
		{asUser, "GET", "dnsresourcerecords/", "", 200, utf8JSON, `.*"TXT".*`},
		{asUser, "GET", "notifications/", "", 200, utf8JSON, `\[\n    \{[^{}]*\{\}[^{}]*"for users"[^{}]*\{?[^{}]*\}?[^{}]*\n    \}\n\]|\[.*for users.*\]`},
		{asUser, "GET", "notifications/1/", "", 403, utf8Text, ``},
		{asUser, "POST", "notifications/", "message=x", 403, utf8Text, reserved},
		{asUser, "PUT", "notifications/2/", "message=x", 403, utf8Text, reserved},
		{asUser, "DELETE", "notifications/2/", "", 403, utf8Text, reserved},
		{asUser, "POST", "maas/?op=set_config", "name=maas_name&value=x", 403, utf8Text, reserved},
		{asUser, "POST", "domains/", "name=x", 403, utf8Text, reserved},
		{asUser, "POST", "dnsresourcerecords/", "name=b&domain=maas&rrtype=TXT&rrdata=x", 403, utf8Text, reserved},
		{asUser, "PUT", "dnsresourcerecords/3/", "rrdata=x", 403, utf8Text, ``},
		{asUser, "DELETE", "dnsresourcerecords/3/", "", 403, utf8Text, ``},
	})
	require.NotContains(t, s.ask(t, s.oauth(s.user), "GET", "/MAAS/api/2.0/notifications/", "").body, "for admins")
}

func TestTheAPIsRegionControllers(t *testing.T) {
	t.Parallel()
	s := newAPISite(t)
	list := func(query string) []map[string]any {
		got := s.ask(t, s.oauth(s.admin), "GET", "/MAAS/api/2.0/regioncontrollers/"+query, "")
		require.Equal(t, 200, got.status)
		var all []map[string]any
		require.NoError(t, json.Unmarshal([]byte(got.body), &all))
		return all
	}
	all := list("")
	require.Len(t, all, 2)
	for _, key := range []string{
		"system_id", "hostname", "description", "hardware_uuid", "domain", "fqdn", "architecture", "cpu_count", "cpu_speed", "memory", "swap_size", "osystem", "distro_series",
		"power_type", "power_state", "ip_addresses", "interface_set", "zone", "status_action", "node_type", "node_type_name", "version", "hardware_info", "tag_names", "resource_uri",
		"current_commissioning_result_id", "current_testing_result_id", "current_installation_result_id", "commissioning_status", "testing_status", "cpu_test_status",
		"memory_test_status", "network_test_status", "storage_test_status", "other_test_status", "interface_test_status", "interface_test_status_name",
		"commissioning_status_name", "testing_status_name", "cpu_test_status_name", "memory_test_status_name", "network_test_status_name", "storage_test_status_name", "other_test_status_name",
	} {
		require.Contains(t, all[0], key)
	}
	require.Equal(t, "region1.maas", all[0]["fqdn"])
	require.Equal(t, "Region controller", all[0]["node_type_name"])
	require.Equal(t, "3.4.8-16340-g.a5ea770be", all[0]["version"])
	require.EqualValues(t, 3, all[0]["node_type"])
	require.Equal(t, []any{s.Regions[0].Address.String()}, all[0]["ip_addresses"])
	one := all[0]["interface_set"].([]any)[0].(map[string]any)
	link := one["links"].([]any)[0].(map[string]any)
	require.Equal(t, "static", link["mode"])
	require.Equal(t, "127.0.0.0/8", link["subnet"].(map[string]any)["cidr"])
	require.Len(t, list("?hostname=region2"), 1)

	controllers := s.Controllers()
	controllers[1].Addresses = nil
	s.SetControllers(controllers...)
	require.Equal(t, []any{}, list("")[1]["ip_addresses"], "it has not commissioned itself")
	require.Equal(t, []any{}, list("")[1]["interface_set"])
	s.Regions[1].StopRegiond()
	require.Len(t, list(""), 2, "a stopped region stays in the list")
}

func TestTheAPIsSettings(t *testing.T) {
	t.Parallel()
	s := newAPISite(t)
	const enabled, interval = "tls_cert_expiration_notification_enabled", "tls_cert_expiration_notification_interval"
	get := func(name string) string { return "maas/?op=get_config&name=" + name }
	set := func(name, value string) string {
		return url.Values{"name": {name}, "value": {value}}.Encode()
	}
	const op = "maas/?op=set_config"
	s.check(t, []apiRow{
		{asAdmin, "GET", get(enabled), "", 200, jsonKind, `false`},
		{asAdmin, "GET", get(interval), "", 200, jsonKind, `30`},
		{asAdmin, "GET", get("maas_name"), "", 200, jsonKind, `"vm"`},
		{asAdmin, "GET", get("upstream_dns"), "", 200, jsonKind, `null`},
		{asAdmin, "GET", get("maas_url"), "", 400, jsonKind, `\{"maas_url": \["maas_url is not a valid config setting \(valid settings are: maas_name, theme, .*\)\."\]\}`},
		{asAdmin, "GET", get("tls_port"), "", 400, jsonKind, `\{"tls_port": .*`},
		{asAdmin, "POST", op, set("maas_url", "http://x"), 400, jsonKind, `\{"maas_url": \["maas_url is not a valid config setting .*`},
		{asAdmin, "POST", op, set("tls_port", "1"), 400, jsonKind, `\{"tls_port": .*`},
		{asAdmin, "POST", op, "value=1", 400, utf8Text, `No provided name!`},
		{asAdmin, "POST", op, set("nosuch", "1"), 400, jsonKind, `\{"nosuch": .*`},
		{asAdmin, "GET", "maas/?op=get_config", "", 400, utf8Text, `No provided name!`},
		{asAdmin, "POST", op, "name=maas_name", 400, utf8Text, `No provided value!`},
		{asAdmin, "POST", op, set(interval, "0"), 400, jsonKind, `\{.*\["Ensure this value is greater than or equal to 1\."\]\}`},
		{asAdmin, "POST", op, set(interval, "-1"), 400, jsonKind, `\{.*\["Ensure this value is greater than or equal to 1\."\]\}`},
		{asAdmin, "POST", op, set(interval, "91"), 400, jsonKind, `\{.*\["Ensure this value is less than or equal to 90\."\]\}`},
		{asAdmin, "POST", op, set(interval, "abc"), 400, jsonKind, `\{.*\["Enter a whole number\."\]\}`},
		{asAdmin, "POST", op, set(interval, "7.5"), 400, jsonKind, `\{.*\["Enter a whole number\."\]\}`},
		{asAdmin, "POST", op, set(interval, " 7 "), 200, "text/plain", `OK`},
		{asAdmin, "GET", get(interval), "", 200, jsonKind, `7`},
		{asAdmin, "POST", op, `{"name":"` + interval + `","value":26}`, 200, "text/plain", `OK`},
		{asAdmin, "GET", get(interval), "", 200, jsonKind, `26`},
		{asAdmin, "POST", op, `{"name":"` + interval + `","value":"25"}`, 200, "text/plain", `OK`},
		{asAdmin, "GET", get(interval), "", 200, jsonKind, `25`},
		{asAdmin, "POST", op, set(interval, ""), 200, "text/plain", `OK`},
		{asAdmin, "GET", get(interval), "", 200, jsonKind, `null`},
	})
	for value, want := range map[string]string{"true": "true", "True": "true", "false": "false", "False": "false", "0": "true", "no": "true", "maybe": "true", "": "false"} {
		s.check(t, []apiRow{
			{asAdmin, "POST", op, set(enabled, value), 200, "text/plain", `OK`},
			{asAdmin, "GET", get(enabled), "", 200, jsonKind, want},
		})
	}
	s.check(t, []apiRow{
		{asAdmin, "POST", op, `{"name":"` + enabled + `","value":true}`, 200, "text/plain", `OK`},
		{asAdmin, "GET", get(enabled), "", 200, jsonKind, `true`},
		{asAdmin, "POST", op, `{"name":"` + enabled + `","value":false}`, 200, "text/plain", `OK`},
		{asAdmin, "GET", get(enabled), "", 200, jsonKind, `false`},
	})
}

func TestTheAPIsNotifications(t *testing.T) {
	t.Parallel()
	s := newAPISite(t)
	post := func(body string, status int, kind, text string) apiRow {
		return apiRow{asAdmin, "POST", "notifications/", body, status, kind, text}
	}
	ident := strings.Repeat("i", 40)
	exists := `\{"ident": \["Notification with this Ident already exists\."\]\}`
	s.check(t, []apiRow{
		post("message=m1&ident="+ident+"&admins=true&category=error&dismissable=true", 200, utf8JSON, `\{\n    "id": 1,.*"dismissable": true.*`),
		post("message=m&ident="+ident, 400, jsonKind, exists),
		post("message=m&ident="+ident+"x", 400, jsonKind, `\{"ident": \["Ensure this value has at most 40 characters \(it has 41\)\."\]\}`),
		post("message=m&ident=a+b%2F%C3%BC%3A", 200, utf8JSON, `.*`),
		post("message=m", 200, utf8JSON, `.*"ident": null.*`),
		post("message=m&ident=", 200, utf8JSON, `.*"ident": null.*`),
		post("ident=q", 400, jsonKind, `\{"message": \["This field is required\."\]\}`),
		post("message=m&category=critical", 400, jsonKind, `\{"category": \["Select a valid choice\. critical is not one of the available choices\."\]\}`),
		post("message=brace+{x}", 400, jsonKind, `\{"__all__": \["Notification cannot be rendered\."\]\}`),
		{asAdmin, "PUT", "notifications/1/", "message=brace+{x}", 400, jsonKind, `\{"__all__": \["Notification cannot be rendered\."\]\}`},
		post("message={{x}}+100%25", 200, utf8JSON, `.*\{\{x\}\} 100%.*`),
		post("message=m&context=[1]", 400, jsonKind, `\{"context": \["Context is not a mapping\."\]\}`),
		post("message=m&context=nojson", 400, jsonKind, `\{"context": \["Enter a valid JSON\."\]\}`),
		post("message=%3Cscript%3Ealert(1)%3C%2Fscript%3E", 200, utf8JSON, `.*script.*`),
		post("message=m&user=1", 200, utf8JSON, `.*"username": "admin".*`),
		post("message=m&user=admin", 400, jsonKind, `\{"user": \["Select a valid choice\..*`),
		post("message=unseen", 200, utf8JSON, `.*`),
		post(`{"message":"j1","dismissable":true}`, 200, utf8JSON, `.*"dismissable": false.*`),
		post(`{"message":"j2","dismissable":"true"}`, 200, utf8JSON, `.*"dismissable": true.*`),
		{asAdmin, "PUT", "notifications/1/", "message=m2", 200, utf8JSON, `.*"message": "m2".*"category": "error",\n    "dismissable": false.*`},
		{asAdmin, "PUT", "notifications/1/", "message=m2&dismissable=True", 200, utf8JSON, `.*"dismissable": false.*`},
		{asAdmin, "POST", "notifications/1/?op=dismiss", "", 500, utf8Text, `Notification is not dismissable`},
		{asAdmin, "PUT", "notifications/1/", "category=warning&dismissable=true", 200, utf8JSON, `.*"message": "m2".*"category": "warning",\n    "dismissable": true.*`},
		{asAdmin, "PUT", "notifications/3/", "ident=" + ident, 400, jsonKind, exists},
		{asAdmin, "PUT", "notifications/3/", "message=", 400, jsonKind, `\{"message": .*`},
		{asAdmin, "POST", "notifications/1/?op=dismiss", "", 200, jsonKind, `null`},
		{asAdmin, "POST", "notifications/1/?op=dismiss", "", 200, jsonKind, `null`},
		{asAdmin, "GET", "notifications/1/", "", 200, utf8JSON, `.*"message": "m2".*`},
		post("message=m&ident="+ident, 400, jsonKind, exists),
		{asAdmin, "PUT", "notifications/1/", "message=m3&dismissable=true", 200, utf8JSON, `.*"message": "m3".*`},
	})
	list := s.ask(t, s.oauth(s.admin), "GET", "/MAAS/api/2.0/notifications/", "").body
	require.NotContains(t, list, "m3", "it stays dismissed")
	require.NotContains(t, list, "unseen", "it is nobody's")
	require.Contains(t, list, `"username": "admin"`)
	s.check(t, []apiRow{
		{asAdmin, "DELETE", "notifications/1/", "", 204, "text/plain", ``},
		{asAdmin, "DELETE", "notifications/1/", "", 404, "text/plain", `No Notification matches the given query\.`},
		post("message=m4&admins=true&ident="+ident, 200, utf8JSON, `.*`),
		post("message=m5&users=true", 200, utf8JSON, `.*`),
	})
	list = s.ask(t, s.oauth(s.admin), "GET", "/MAAS/api/2.0/notifications/", "").body
	require.Contains(t, list, "m4", "it is visible again")
	require.NotContains(t, list, "m5", "users alone are not administrators")
}

func TestTheAPIsDNS(t *testing.T) {
	t.Parallel()
	s := newAPISite(t)
	record := func(body string, status int, kind, text string) apiRow {
		return apiRow{asAdmin, "POST", "dnsresourcerecords/", body, status, kind, text}
	}
	const txt = "&rrtype=TXT&rrdata="
	const acme = "name=_acme-challenge&domain=example.internal"
	long := strings.Repeat("a123456789.", 20)[:204]
	beside := `\{"__all__": \["CNAME records for a name cannot coexist with non-CNAME records\."\]\}`
	unpack := `cannot unpack non-iterable NoneType object`
	s.check(t, []apiRow{
		{asAdmin, "GET", "domains/", "", 200, utf8JSON, `\[\n    \{\n        "authoritative": true,\n        "ttl": null,\n        "resource_record_count": 0,\n        "is_default": true,\n        "name": "maas",\n        "id": 0,.*`},
		{asAdmin, "POST", "domains/", "name=example.internal", 200, utf8JSON, `.*"id": 1.*`},
		{asAdmin, "POST", "domains/", "name=example.internal", 400, jsonKind, `\{"name": \["Domain with this Name already exists\."\]\}`},
		{asAdmin, "POST", "domains/", "name=bad_name.internal", 400, jsonKind, `\{"name": \["Domain name contains invalid characters\."\]\}`},
		{asAdmin, "PUT", "domains/1/", "ttl=60", 200, utf8JSON, `.*"ttl": 60.*`},
		{asAdmin, "DELETE", "domains/0/", "", 400, utf8Text, `This domain is the default domain, it cannot be deleted\.`},
		record(acme+txt+"tok1", 200, utf8JSON, `\{\n    "ttl": null,\n    "rrtype": "TXT",\n    "rrdata": "tok1",\n    "fqdn": "_acme-challenge\.example\.internal",\n    "id": 1,.*`),
		{asAdmin, "DELETE", "domains/1/", "", 500, utf8Text, `.*protected foreign key.*`},
		record("name=_acme-challenge&domain=1"+txt+"tok2", 200, utf8JSON, `.*"id": 2.*`),
		record("name=_acme-challenge.region1&domain=example.internal"+txt+"tok1", 200, utf8JSON, `.*"fqdn": "_acme-challenge\.region1\.example\.internal".*`),
		record(acme+txt+"tok1", 200, utf8JSON, `.*"id": 4.*`),
		record(acme+"&rrtype=txt&rrdata=tok3", 200, utf8JSON, `.*"rrtype": "TXT".*`),
		record("fqdn=_acme-challenge.example.internal"+txt+"x", 500, utf8Text, unpack),
		{asAdmin, "GET", "dnsresourcerecords/?fqdn=_acme-challenge.example.internal", "", 500, utf8Text, unpack},
		{asAdmin, "GET", "dnsresources/?fqdn=_acme-challenge.example.internal", "", 500, utf8Text, unpack},
		record("fqdn=plain.example.internal"+txt+"x", 200, utf8JSON, `.*`),
		record("name=a&domain=nosuch"+txt+"x", 404, "text/plain", `No Domain matches the given query\.`),
		record("fqdn=a.nosuch"+txt+"x", 404, "text/plain", `No Domain matches the given query\.`),
		record("name=a"+txt+"x", 400, utf8Text, `Either name and domain \(or fqdn\) must be specified`),
		record("domain=maas"+txt+"x", 400, utf8Text, `Either name and domain \(or fqdn\) must be specified`),
		record(acme+"&rrdata=x", 400, utf8Text, `rrtype must be provided\.`),
		record(acme+"&rrtype=TXT", 400, utf8Text, `rrdata must be provided\.`),
		record(acme+txt, 400, jsonKind, `\{"rrdata": \["This field is required\."\]\}`),
		record(acme+"&rrtype=CAA&rrdata=x", 400, jsonKind, `\{"rrtype": \["CAA is not one of MX CNAME NS TXT SSHFP SRV\."\]\}`),
		record("name=timed&domain=maas&ttl=30"+txt+"a", 200, utf8JSON, `.*"ttl": 30.*`),
		record("name=timed&domain=maas&ttl=30"+txt+"b", 200, utf8JSON, `.*"ttl": 30.*`),
		record("name=timed&domain=maas&ttl=60"+txt+"c", 200, utf8JSON, `.*"ttl": 60.*`),
		record("name=timed&domain=maas"+txt+"d", 500, utf8Text, `%d format: a real number is required, not NoneType`),
		record(acme+"&ttl=30"+txt+"d", 500, utf8Text, `%d format: a real number is required, not NoneType`),
		record("name=n&domain=maas&ttl=abc"+txt+"d", 400, jsonKind, `\{"ttl": \["Enter a whole number\."\]\}`),
		record("name=n&domain=maas&ttl=-1"+txt+"d", 400, jsonKind, `\{"ttl": \["Ensure this value is greater than or equal to 0\."\]\}`),
		record("name=v&domain=maas"+txt+"a+%22b%22", 200, utf8JSON, `.*"rrdata": "a \\"b\\"".*`),
		record("name=alias&domain=maas&rrtype=CNAME&rrdata=x.maas", 200, utf8JSON, `.*`),
		record("name=alias&domain=maas"+txt+"x", 400, jsonKind, beside),
		record("name=v&domain=maas&rrtype=CNAME&rrdata=x.maas", 400, jsonKind, beside),
		record("name=alias&domain=maas&rrtype=CNAME&rrdata=y.maas", 400, jsonKind, `\{"__all__": \["Only one CNAME can be associated with a name\."\]\}`),
		record("name=@&domain=maas"+txt+"x", 200, utf8JSON, `.*"fqdn": "maas".*`),
		record("name="+long+"&domain=maas"+txt+"x", 400, jsonKind, `\{"name": \["Ensure this value has at most 191 characters \(it has 204\)\."\]\}`),
		{asAdmin, "POST", "dnsresources/", "fqdn=web.maas&ip_addresses=10.0.0.1", 200, utf8JSON, `.*`},
		record("name=web&domain=maas"+txt+"x", 200, utf8JSON, `.*`),
		{asAdmin, "POST", "dnsresources/", "name=_under&domain=maas&ip_addresses=10.0.0.1", 400, jsonKind, `.*Invalid dnsresource name: _under\..*`},
		{asAdmin, "PUT", "dnsresourcerecords/1/", "rrdata=tok9", 200, utf8JSON, `.*"tok9".*`},
		{asAdmin, "PUT", "dnsresourcerecords/1/", "rrdata=tok8&rrtype=TXT", 200, utf8JSON, `.*"tok8".*`},
		{asAdmin, "GET", "dnsresourcerecords/?rrtype=TXT&name=_acme-challenge&domain=example.internal", "", 200, utf8JSON, `\[.*tok8.*tok2.*tok1.*tok3.*\]`},
		{asAdmin, "GET", "dnsresourcerecords/?domain=nosuch", "", 404, "text/plain", `No Domain matches the given query\.`},
		{asAdmin, "GET", "dnsresourcerecords/?rrtype=NOSUCH", "", 200, utf8JSON, `\[\]`},
		{asAdmin, "DELETE", "dnsresourcerecords/1/", "", 204, "text/plain", ``},
		{asAdmin, "DELETE", "dnsresourcerecords/1/", "", 404, "text/plain", `No DNSData matches the given query\.`},
		{asAdmin, "PUT", "dnsresourcerecords/3/", "ttl=9", 200, utf8JSON, `.*"ttl": 9.*`},
		{asAdmin, "GET", "dnsresources/?fqdn=v.maas", "", 200, utf8JSON, `\[.*"fqdn": "v.maas".*\]`},
		{asAdmin, "DELETE", "dnsresourcerecords/10/", "", 204, "text/plain", ``},
		{asAdmin, "GET", "dnsresources/?fqdn=v.maas", "", 200, utf8JSON, `\[\]`},
	})
}

func TestTheAPIsAccount(t *testing.T) {
	t.Parallel()
	s := newAPISite(t)
	s.check(t, []apiRow{
		{asAdmin, "GET", "account/?op=list_authorisation_tokens", "", 200, utf8JSON, `.*"token": "` + s.admin + `".*`},
		{asAdmin, "POST", "account/?op=create_authorisation_token", "name=maascert", 200, utf8JSON, `\{"consumer_key": "[^\n]*", "name": "maascert", "token_key": "[^\n]*", "token_secret": "[^\n]*"\}`},
		{asUser, "GET", "users/?op=whoami", "", 200, utf8JSON, `.*"is_superuser": false.*`},
	})
	var stdout strings.Builder
	require.Zero(t, s.Run(strings.NewReader(""), &stdout, io.Discard, "apikey", "--username", "admin"))
	s.admin = strings.TrimSpace(stdout.String())
	s.check(t, []apiRow{{asAdmin, "GET", "users/?op=whoami", "", 200, utf8JSON, `.*"is_superuser": true.*`}})
}
