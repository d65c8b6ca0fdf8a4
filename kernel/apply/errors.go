package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// harmless are the parts of the API server's messages that quote no value: which
// field has the wrong type, who may not do what, and who refused.
var harmless = regexp.MustCompile(strings.Join([]string{
	`(?m:^ *|\): )(?:\.[^\s:"\[]+|\[[^\]]*\])+: (?:expected \w+|field not declared in schema|duplicate entries)`,
	`cannot unmarshal \w+ into Go (?:struct field|value of type) [\w.\[\]*]+(?: of type [\w.\[\]*]+)?`,
	`unknown field "[^"]*"`,
	`illegal base64 data at input byte \d+`,
	`field is immutable`,
	`must have at most \d+ bytes`,
	`User "[^"]*" cannot \w+ resource "[^"]*" in API group "[^"]*"(?: in the namespace "[^"]*"| at the cluster scope)`,
	`admission webhook "[^"]*" denied the request`,
	`failed calling webhook "[^"]*"`,
	`ValidatingAdmissionPolicy '[^']*' with binding '[^']*' denied request`,
	`exceeded quota: [\w.-]+`,
	`unable to create new content in namespace [\w-]+ because it is being terminated`,
	`namespaces "[^"]*" not found`,
}, "|"))

// keyed is an item of a list in the path of a field, named by values of it.
var keyed = regexp.MustCompile(`\[[^\]]*=[^\]]*\]`)

// unsaid stands for a message of which nothing may be shown.
const unsaid = "the answer is not shown: it may quote a value"

// shownErrors bounds how many objects a message names.
const shownErrors = 10

// ObjectError is a failure with one object.
type ObjectError struct {
	Ref
	// Verb says what was attempted.
	Verb string
	Err  error
	// Sealed marks an object whose values are secret although it is no Secret.
	Sealed bool
}

func (e *ObjectError) Error() string {
	reason := ""
	if r := apierrors.ReasonForError(e.Err); r != metav1.StatusReasonUnknown {
		reason = " (" + string(r) + ")"
	}
	return fmt.Sprintf("%s %s failed%s: %s", e.Ref, e.Verb, reason, e.message())
}

func (e *ObjectError) Unwrap() error { return e.Err }

// message quotes no value of an object whose values are secret.
func (e *ObjectError) message() string {
	if e.GroupKind.Kind != "Secret" && !e.Sealed {
		return e.Err.Error()
	}
	return withoutValues(e.Err)
}

// withoutValues says what is wrong with which field. The API server's free text,
// and that of the webhooks that it asks, may quote any value in any form; so only
// parts that are known are shown.
func withoutValues(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		if ours(err) {
			return err.Error()
		}
		return orUnsaid(knownParts(err.Error()))
	}
	s := status.Status()
	before, found := strings.CutSuffix(err.Error(), s.Message) // in our words
	if !found {
		before = ""
	}
	parts := knownParts(s.Message)
	if s.Details != nil {
		for _, c := range s.Details.Causes {
			if c.Field != "" {
				parts = append(parts, keyed.ReplaceAllString(c.Field, "[…]")+": "+string(c.Type))
			}
		}
	}
	return before + orUnsaid(parts)
}

// ours reports errors that hold no word of an API server.
func ours(err error) bool {
	return isTransient(err) || errors.Is(err, context.Canceled) || errors.Is(err, errNoKind) || errors.Is(err, errNoNamespace) || errors.Is(err, errBelongs)
}

func knownParts(message string) []string {
	var parts []string
	for _, part := range harmless.FindAllString(message, shownErrors) {
		part = strings.TrimSpace(strings.TrimPrefix(part, "): "))
		parts = append(parts, keyed.ReplaceAllString(part, "[…]"))
	}
	return parts
}

func orUnsaid(parts []string) string {
	if len(parts) == 0 {
		return unsaid
	}
	return strings.Join(parts, "; ")
}

func objectError(u *unstructured.Unstructured, verb string, err error) error {
	return &ObjectError{Ref: RefOf(u), Verb: verb, Err: err}
}

// objectError is one about an object of the request.
func (r Request) objectError(u *unstructured.Unstructured, verb string, err error) error {
	sealed := slices.ContainsFunc(r.Sealed, func(s ID) bool { return s.Name == u.GetName() && s.GroupKind == u.GroupVersionKind().GroupKind() })
	return &ObjectError{Ref: RefOf(u), Verb: verb, Err: err, Sealed: sealed}
}

// joinedErrors names the first objects, and how many more there are.
type joinedErrors []error

func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return joinedErrors(errs)
}

func (j joinedErrors) Error() string {
	var b strings.Builder
	for i, err := range j {
		if i == shownErrors {
			fmt.Fprintf(&b, "\nand %d more", len(j)-i)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(err.Error())
	}
	return b.String()
}

func (j joinedErrors) Unwrap() []error { return j }

// isTransient tells errors that go away by themselves: of a busy API server, of
// one that is not reached, and of two writers at once.
func isTransient(err error) bool {
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || utilnet.IsHTTP2ConnectionLost(err) {
		return !errors.Is(err, context.Canceled)
	}
	return apierrors.IsConflict(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err)
}

// unreachable tells errors of an API server that is not reached at all, or that
// does not answer in time: another request would wait as long.
func unreachable(err error) bool {
	var network net.Error
	if errors.Is(err, context.Canceled) || errors.As(err, &network) && network.Timeout() {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// Transient reports whether every failure in err goes away by itself.
func Transient(err error) bool {
	var all joinedErrors
	if errors.As(err, &all) {
		for _, e := range all {
			if !isTransient(e) {
				return false
			}
		}
		return true
	}
	return isTransient(err)
}

// Uncertain lists the objects whose request failed in a way that leaves open
// whether it was carried out, such as a timeout; all says that err tells
// nothing about single objects. A request that the API server refused was not
// carried out.
func Uncertain(err error) (refs []Ref, all bool) {
	errs := []error{err}
	var many joinedErrors
	if errors.As(err, &many) {
		errs = many
	}
	for _, err := range errs {
		var e *ObjectError
		if !errors.As(err, &e) {
			return nil, true
		}
		if !refused(e.Err) {
			refs = append(refs, e.Ref)
		}
	}
	return refs, false
}

func refused(err error) bool {
	if meta.IsNoMatchError(err) {
		return true
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || isTransient(err) {
		return false
	}
	code := status.Status().Code
	return code >= http.StatusBadRequest && code < http.StatusInternalServerError
}
