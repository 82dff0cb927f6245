package maastest

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// account is somebody who may ask the API.
type account struct {
	id       int
	username string
	isAdmin  bool
}

// token is an API key: CONSUMER:TOKEN:SECRET.
type token struct {
	consumer, key, secret, name string
	owner                       *account
}

func (t token) String() string { return t.consumer + ":" + t.key + ":" + t.secret }

// oauthThreshold is how many seconds a request may be old.
const oauthThreshold = 300

// unauthorized is an answer to a request that is not signed as it should be.
func unauthorized(words string) reply {
	return reply{
		status: http.StatusUnauthorized, kind: "text/html; charset=utf-8", body: "Authorization Error: " + words,
		header: map[string]string{"WWW-Authenticate": `OAuth realm="OAuth"`}, byMiddleware: true,
	}
}

// oauthParameters reads an Authorization header as MAAS does: realm, blanks and quotes do not matter.
func oauthParameters(header string) map[string]string {
	parameters := map[string]string{}
	for part := range strings.SplitSeq(header, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "realm" {
			continue
		}
		if text, err := url.PathUnescape(strings.Trim(value, `"`)); err == nil {
			parameters[name] = text
		}
	}
	return parameters
}

// authorize checks OAuth 1.0 as MAAS does, in its order, with its words (MAAS fact 4.1). The answer to a wrong secret holds the right one.
func (d *Database) authorize(header string) (*account, *reply) {
	fail := func(r reply) (*account, *reply) { return nil, &r }
	forbidden := reply{status: http.StatusUnauthorized, kind: "text/plain", body: "Forbidden", byMiddleware: true}
	scheme, rest, _ := strings.Cut(header, " ")
	if scheme == "oauth" {
		return fail(exception("'NoneType' object has no attribute 'verify_request'"))
	}
	if scheme != "OAuth" {
		return fail(forbidden)
	}
	given := oauthParameters(rest)
	for _, name := range []string{"oauth_nonce", "oauth_timestamp", "oauth_signature_method", "oauth_consumer_key", "oauth_token"} {
		if _, ok := given[name]; !ok {
			return fail(forbidden)
		}
	}
	if version, ok := given["oauth_version"]; ok && version != "1.0" {
		return fail(unauthorized("'OAuth version " + version + " not supported.'"))
	}
	found, refusal := d.token(given)
	if refusal != nil {
		return nil, refusal
	}
	sent, err := strconv.Atoi(given["oauth_timestamp"])
	if err != nil {
		return fail(exception("invalid literal for int() with base 10: '" + given["oauth_timestamp"] + "'"))
	}
	if now := int(time.Now().Add(d.rest.clockAhead).Unix()); now-sent > oauthThreshold {
		return fail(unauthorized(fmt.Sprintf("'Expired timestamp: given %d and now %d has a greater difference than threshold %d'", sent, now, oauthThreshold)))
	}
	if nonce := given["oauth_nonce"]; nonce != "" {
		if d.rest.nonces[found.key+" "+nonce] {
			return fail(unauthorized("'Nonce already used: " + nonce + "'"))
		}
		d.rest.nonces[found.key+" "+nonce] = true
	}
	if refusal := checkSignature(given, found.secret); refusal != nil {
		return nil, refusal
	}
	return found.owner, nil
}

// token finds the key of a request.
func (d *Database) token(given map[string]string) (*token, *reply) {
	known := false
	for i, t := range d.rest.tokens {
		if t.consumer != given["oauth_consumer_key"] {
			continue
		}
		known = true
		if t.key == given["oauth_token"] {
			return &d.rest.tokens[i], nil
		}
	}
	refusal := unauthorized("Invalid API key.")
	if known {
		refusal = unauthorized("'Invalid access token: " + given["oauth_token"] + "'")
	}
	return nil, &refusal
}

func checkSignature(given map[string]string, secret string) *reply {
	signature, ok := given["oauth_signature"]
	var words string
	switch method := given["oauth_signature_method"]; {
	case !ok:
		words = "'Missing signature.'"
	case method == "HMAC-SHA1":
		words = "'Invalid signature. Expected signature base string: GET&https%3A%2F%2F'"
	case method != "PLAINTEXT":
		words = "'Signature method " + method + " not supported try one of the following: PLAINTEXT, HMAC-SHA1'"
	case signature != "&"+secret:
		words = "'Invalid signature. Expected signature base string: &" + secret + "'"
	default:
		return nil
	}
	refusal := unauthorized(words)
	return &refusal
}
