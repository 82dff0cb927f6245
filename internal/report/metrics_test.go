package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"maascert/internal/lifecycle"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	b := &Board{Version: "v1"}
	problems, err := testutil.CollectAndLint(b)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Equal(t, 1, testutil.CollectAndCount(b), "before the first pass nothing is known but who we are")
	at := func(seconds int64) Time { return Time{time.Unix(seconds, 0)} }
	b.Show(Public{Node: "region1", At: at(1000), OK: true, Certificates: []PublicCertificate{{
		Name: "maas", State: "due", NotBefore: at(1), NotAfter: at(2), RenewAt: at(3), Failures: 4, LastAttempt: at(5),
		Targets: []Target{{Name: "maas", ConvergedSeconds: 1.5, Endpoints: []Endpoint{
			{Address: "10.0.0.1:5443", State: "match", Chain: "complete", NotAfter: at(2), ConvergedSeconds: 1.5},
			{Address: "10.0.0.2:5443", State: "match", Chain: "incomplete", NotAfter: at(2), ConvergedSeconds: 1.5}, {Address: "10.0.0.3:5443", State: "unknown"},
		}}},
	}}})
	require.NoError(t, testutil.CollectAndCompare(b, strings.NewReader(`
# HELP maascert_certificate_failures Orders that failed in a row.
# TYPE maascert_certificate_failures gauge
maascert_certificate_failures{cert="maas"} 4
# HELP maascert_certificate_not_after_timestamp_seconds When the version in use ends.
# TYPE maascert_certificate_not_after_timestamp_seconds gauge
maascert_certificate_not_after_timestamp_seconds{cert="maas"} 2
# HELP maascert_certificate_state 1 for the state that the certificate is in.
# TYPE maascert_certificate_state gauge
maascert_certificate_state{cert="maas",state="degraded"} 0
maascert_certificate_state{cert="maas",state="due"} 1
maascert_certificate_state{cert="maas",state="expired"} 0
maascert_certificate_state{cert="maas",state="failed"} 0
maascert_certificate_state{cert="maas",state="held"} 0
maascert_certificate_state{cert="maas",state="missing"} 0
maascert_certificate_state{cert="maas",state="ok"} 0
maascert_certificate_state{cert="maas",state="overdue"} 0
maascert_certificate_state{cert="maas",state="waiting"} 0
# HELP maascert_endpoint_converged_seconds How long after its target was first told of the version in use every endpoint was seen to serve it.
# TYPE maascert_endpoint_converged_seconds gauge
maascert_endpoint_converged_seconds{cert="maas",endpoint="10.0.0.1:5443",target="maas"} 1.5
# HELP maascert_endpoint_match 1 where the endpoint serves the version in use with its whole chain.
# TYPE maascert_endpoint_match gauge
maascert_endpoint_match{cert="maas",endpoint="10.0.0.1:5443",target="maas"} 1
maascert_endpoint_match{cert="maas",endpoint="10.0.0.2:5443",target="maas"} 0
maascert_endpoint_match{cert="maas",endpoint="10.0.0.3:5443",target="maas"} 0
# HELP maascert_last_attempt_timestamp_seconds When the last order was made.
# TYPE maascert_last_attempt_timestamp_seconds gauge
maascert_last_attempt_timestamp_seconds{cert="maas"} 5
# HELP maascert_last_pass_success 1 where the last pass left everything as it should be.
# TYPE maascert_last_pass_success gauge
maascert_last_pass_success{node="region1"} 1
`), "maascert_certificate_failures", "maascert_certificate_not_after_timestamp_seconds", "maascert_certificate_state", "maascert_endpoint_converged_seconds", "maascert_endpoint_match",
		"maascert_last_attempt_timestamp_seconds", "maascert_last_success_timestamp_seconds", "maascert_last_pass_success"))
	problems, err = testutil.CollectAndLint(b)
	require.NoError(t, err)
	require.Empty(t, problems)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(b))
	_, err = registry.Gather()
	require.NoError(t, err)
}

// Where a pass could not read the store it did not see whether private keys can be had, and says neither.
func TestKeysThatNobodyLookedFor(t *testing.T) {
	t.Parallel()
	cert := lifecycle.Certificate{Name: "blind"}
	doc := Public{At: Time{time.Unix(1000, 0)}, Certificates: []PublicCertificate{{Name: "away", KeysAway: true}, {Name: "well"}}}
	doc.Add(cert, lifecycle.Result{Name: "blind", After: lifecycle.View{Blind: true, Summary: lifecycle.StateFailed}}, "")
	text, err := json.Marshal(doc) // as the next pass reads it
	require.NoError(t, err)
	var read Public
	require.NoError(t, json.Unmarshal(text, &read))
	b := new(Board)
	b.Show(read)
	require.NoError(t, testutil.CollectAndCompare(b, strings.NewReader(`
# HELP maascert_keys_available 0 where private keys that are kept apart could not be had at the last pass; missing where it could not look.
# TYPE maascert_keys_available gauge
maascert_keys_available{cert="away"} 0
maascert_keys_available{cert="well"} 1
`), "maascert_keys_available"))
}

func TestUnhealthy(t *testing.T) {
	t.Parallel()
	now := time.Now()
	require.Equal(t, []string{"no pass has been made yet"}, Unhealthy(Public{}, now))
	doc := Public{At: Time{now}, StaleAfter: Time{now.Add(time.Hour)}, OK: true, Certificates: []PublicCertificate{{Name: "maas", State: "ok"}, {Name: "other", State: "held"}}}
	require.Empty(t, Unhealthy(doc, now))
	require.Len(t, Unhealthy(doc, now.Add(2*time.Hour)), 1)
	doc.OK = false
	require.Equal(t, []string{"the last pass did not leave everything as it should be"}, Unhealthy(doc, now))
	doc.Certificates[0].State, doc.Certificates[0].Reason = "degraded", "fresh"
	require.Equal(t, []string{"maas: degraded"}, Unhealthy(doc, now))
}

// The alert rules and the dashboard ask for nothing that is not told.
func TestWhatIsAskedForIsTold(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"rules.yaml", "dashboard.json"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "examples", "prometheus", name))
		require.NoError(t, err)
		asked := regexp.MustCompile(`\bmaascert_\w+`).FindAllString(string(text), -1)
		require.Greater(t, len(asked), 10)
		for _, metric := range asked {
			if metric != "maascert_acme_requests_total" {
				require.Contains(t, gauges, strings.TrimPrefix(metric, "maascert_"), name)
			}
		}
	}
}
