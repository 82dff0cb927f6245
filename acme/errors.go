package acme

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	lego "github.com/go-acme/lego/v4/acme"
	"golang.org/x/net/http2"

	"maascert/acme/challenge"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// Error is a CA's refusal: a problem document (RFC 8555 section 6.7), or another answer than the one asked for.
type Error struct {
	Op         string    // what was asked: newOrder, finalize, …
	Type       string    // the ACME error type without its URN (RFC 8555 section 6.7); may be empty
	Detail     string    // the CA's own words, subproblems included
	Status     int       // HTTP status, 0 when the error came inside a resource
	RetryAfter time.Time // when the CA wants to be asked again; zero when it did not say
}

// isLimit tells whether the CA asks for less or has no time: the answers whose Retry-After is an instruction.
func (e *Error) isLimit() bool {
	return e.Type == "rateLimited" || e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable
}

func (e *Error) Error() string {
	words := make([]string, 0, 3)
	for _, word := range []string{e.Op, e.Type, e.Detail} {
		if word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(words, ": ")
}

// ErrExternalAccount says that the CA registers only accounts with an external account binding (RFC 8555 section
// 7.3.4).
var ErrExternalAccount = errors.New("the CA registers only accounts that are bound to an external one (EAB)")

const (
	urn = "urn:ietf:params:acme:error:"
	// badNonce stands for lego's own type between normalize and call.
	badNonce = "maascert:badNonce"
)

// retries of one request: of those that the CA's server failed to answer, and of those whose nonce it refused.
const (
	maxTries  = 4
	maxNonces = 100
)

// FailedValidation begins the errors of validations that failed, which CAs count.
const FailedValidation = "validation: "

// BetweenFailures is between the errors of several validations that failed. A CA's own words, which may quote whoever answered it, have no
// such place, so that nobody passes another name off as one that failed.
const BetweenFailures = "; "

// ErrUnfit says that a certificate which the CA issued is not what was asked for, and that it never will be.
var ErrUnfit = errors.New("the CA's certificate is refused")

// opNewOrder is an operation that is asked again only once when its answer stays out: the CA may have done it.
const opNewOrder = "newOrder"

// call asks the CA for something through lego. It signs again at once when a nonce was refused, asks again a few times
// when the CA or the way to it failed, and gives every other failure its place and words.
func call[T any](s *session, op string, ask func() (T, error)) (T, error) {
	pause := 250 * time.Millisecond
	for tries, nonces := 1, 0; ; {
		got, err := ask()
		if err == nil {
			return got, nil
		}
		if cause := context.Cause(s.ctx); cause != nil {
			return got, cause
		}
		err = s.explain(op, err)
		var answered *Error
		isAnswer := errors.As(err, &answered)
		switch {
		case isAnswer && answered.Type == badNonce && nonces < maxNonces:
			nonces++
		case tries < triesOf(op) && isTransient(err) && time.Until(retryAfter(err)) < longestPause:
			tries++
			if err := s.config.Sleep(s.ctx, max(pause, time.Until(retryAfter(err)))); err != nil {
				return got, err
			}
			pause *= 2
		default:
			return got, s.advise(err)
		}
	}
}

func triesOf(op string) int {
	if op == opNewOrder {
		return 2
	}
	return maxTries
}

// longestPause is the longest Retry-After that is waited out within a run; a longer one is remembered instead.
const longestPause = 30 * time.Second

// unanswered is the error of a request to which the CA gave no answer. Other servers' errors are tamed as well, and are none of the CA's.
type unanswered struct{ printable.Tamed }

// tame has such an error shown in one line of bounded length.
func tame(op string, err error) error {
	return &unanswered{printable.Tamed{Text: op + ": " + printable.Phrase(err.Error()), Err: err}}
}

// noNonce is go-jose's error for a nonce that could not be had, which hides the reason.
const noNonce = "Error generating nonce"

// explain turns lego's error into ours.
func (s *session) explain(op string, err error) error {
	if failure := s.wire.nonceFailure.Load(); failure != nil && strings.Contains(err.Error(), noNonce) {
		op, err = "newNonce", *failure
	}
	if problem, ok := errors.AsType[*lego.ProblemDetails](err); ok {
		e := problemError(op, problem)
		if at, ok := s.wire.retryAfter.Load(problem.URL); ok && e.isLimit() {
			e.RetryAfter = at.(time.Time)
		}
		return e
	}
	if transport, ok := errors.AsType[*url.Error](err); ok {
		err = transport.Err
	}
	return tame(op, err)
}

// advise says what to do when a CA wants a person to agree to something, or is away.
func (s *session) advise(err error) error {
	if IsOutage(err) && !IsRateLimited(err) {
		return hint.Add(err, "is the CA up, and can it be reached from here? curl --cacert ROOT %s", s.config.Directory)
	}
	if isType(err, "userActionRequired") {
		return hint.Add(err, "the CA changed its terms or wants something else of the account's owner: do what it says there; the old certificate stays in use")
	}
	return err
}

func problemError(op string, problem *lego.ProblemDetails) *Error {
	var detail strings.Builder
	detail.WriteString(problem.Detail)
	for _, sub := range problem.SubProblems[:min(len(problem.SubProblems), maxSubProblems)] {
		if sub.Identifier.Value != "" {
			detail.WriteString("; " + sub.Identifier.Value + ": " + sub.Detail)
		}
	}
	return &Error{
		Op: op, Type: printable.Phrase(strings.TrimPrefix(problem.Type, urn)), Status: problem.HTTPStatus,
		Detail: printable.Phrase(detail.String()),
	}
}

// failedValidation is why the CA did not believe a name.
func failedValidation(name string, problem *lego.ProblemDetails) *Error {
	e := problemError(FailedValidation+name, problem)
	e.Detail = strings.ReplaceAll(e.Detail, BetweenFailures, ", ")
	return e
}

// maxSubProblems bounds the subproblems of an answer that are told, each of which is about one name.
const maxSubProblems = 20

// isTransient tells whether asking again may help: the server failed, or the way to it did. Nobody listening, an
// unknown host or a wrong certificate stay as they are for the next second.
func isTransient(err error) bool {
	if answered, ok := errors.AsType[*Error](err); ok {
		return answered.Status >= http.StatusInternalServerError && answered.Status != http.StatusNotImplemented
	}
	return isBroken(err)
}

func isType(err error, kind string) bool {
	var answered *Error
	return errors.As(err, &answered) && answered.Type == kind
}

func retryAfter(err error) time.Time {
	if answered, ok := errors.AsType[*Error](err); ok {
		return answered.RetryAfter
	}
	return time.Time{}
}

// RetryAfter returns the time at which the CA wants to be asked again, if the error names one.
func RetryAfter(err error) (time.Time, bool) {
	at := retryAfter(err)
	return at, !at.IsZero()
}

// IsRateLimited tells whether the CA refused because of a limit (RFC 8555 section 6.6). Let's Encrypt answers 503 with a
// Retry-After when it has too much to do.
func IsRateLimited(err error) bool {
	var answered *Error
	return errors.As(err, &answered) && (answered.Type == "rateLimited" || answered.Status == http.StatusTooManyRequests ||
		answered.Status == http.StatusServiceUnavailable && !answered.RetryAfter.IsZero())
}

// validationHint says what has to be so for a proof to be seen; a nil solver stands for any.
func validationHint(err error, solver challenge.Solver) error {
	if solver == nil {
		return hint.Add(err, "the CA could not see what proves the names: maascert check says what it has to see")
	}
	return hint.Add(err, "%s", solver.Remedy())
}

// unwrapURL drops the method and URL that an error of net/http repeats.
func unwrapURL(err error) error {
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err
	}
	return err
}

// isBroken tells whether a connection was cut or an answer stayed out, as opposed to never having been possible.
func isBroken(err error) bool {
	var timeout interface{ Timeout() bool }
	var stream http2.StreamError
	if errors.As(err, &stream) || strings.Contains(err.Error(), "http2: ") { // a GOAWAY, or a connection that was lost, has no type
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

// IsOutage tells whether the CA could not be reached, failed itself, or limits the rate: that says nothing of what it was asked. A
// certificate of the CA's own server that is not trusted is none.
func IsOutage(err error) bool {
	if answered, ok := errors.AsType[*Error](err); ok {
		return answered.Status >= http.StatusInternalServerError || answered.Type == "serverInternal" || IsRateLimited(err)
	}
	var dialled *net.OpError
	var looked *net.DNSError
	if _, ok := errors.AsType[*unanswered](err); !ok {
		return false
	}
	return errors.As(err, &looked) || errors.As(err, &dialled) && dialled.Op == "dial" || isBroken(err)
}

// IsRefusal tells whether the CA answered no, as opposed to not having answered or having failed to.
func IsRefusal(err error) bool {
	var answered *Error
	return errors.Is(err, ErrUnfit) || errors.As(err, &answered) && answered.Status < http.StatusInternalServerError && !IsRateLimited(err)
}
