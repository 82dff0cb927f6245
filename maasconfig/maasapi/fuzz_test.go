package maasapi_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/maasconfig/maasapi"
)

// Whatever MAAS answers, it is read in bounds, the key is in no error, and regions are given with a name and addresses or not at all.
func FuzzRepliesOfMAAS(f *testing.F) {
	f.Add(200, "application/json", []byte(`[{"system_id":"a","hostname":"region1","fqdn":"region1.maas","node_type":4,"interface_set":[{"links":[{"ip_address":"10.0.0.1","subnet":{"cidr":"10.0.0.0/24"}}]}],"ip_addresses":["10.0.0.1","fe80::1%eth0"]}]`))
	f.Add(200, "application/json", []byte(`{"version":"3.7.3","subversion":"","capabilities":[]}`))
	f.Add(200, "application/json", []byte(`"30"`))
	f.Add(401, "text/plain", []byte("Authorization Error: 'Invalid access token: token'"))
	f.Add(503, "text/html", []byte("<html>busy</html>"))
	const secret = "s3cret-part-of-the-key"
	var answer atomic.Pointer[func(http.ResponseWriter)]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { (*answer.Load())(w) }))
	f.Cleanup(server.Close)
	key, err := maasapi.ParseKey("consumer:token:" + secret)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, status int, kind string, body []byte) {
		reply := func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(200 + int(uint(status)%400))
			_, _ = w.Write(body)
		}
		answer.Store(&reply)
		client, err := maasapi.New(maasapi.Config{
			URL: server.URL + "/MAAS", Dial: new(net.Dialer).DialContext, Trust: certstore.Trust{}, Time: time.Second, Pause: time.Microsecond, Key: func() (maasapi.Key, error) { return key, nil },
			TLSPort: func(context.Context) (int, bool) { return 0, true },
		})
		require.NoError(t, err)
		ctx := t.Context()
		regions, err := client.Regions(ctx)
		errs := []error{err}
		for _, region := range regions {
			require.NotEmpty(t, region.Name)
			for _, address := range region.Addresses {
				require.True(t, address.IsValid())
			}
		}
		_, err = client.Version(ctx)
		errs = append(errs, err)
		_, err = client.User(ctx)
		errs = append(errs, err)
		_, err = client.ExpiryNotice(ctx)
		errs = append(errs, err)
		_, err = client.CheckZone(ctx, "_acme-challenge.maas.example.internal.")
		errs = append(errs, err)
		for _, err := range errs {
			if err == nil {
				continue
			}
			require.NotContains(t, err.Error(), secret)
			require.NotContains(t, hint.Of(err), secret)
			require.Less(t, len(err.Error()), 4000)
			require.False(t, strings.ContainsAny(err.Error(), "\x1b\r"), "%q", err.Error())
		}
	})
}
