package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// secretValues are the parts of API server messages that quote field values.
var secretValues = regexp.MustCompile(`Value:[^}]*}|value: ("[^"]*"|[^:,;]*)|in "[^"]*"`)

// shownErrors bounds how many objects a message names.
const shownErrors = 10

// ObjectError is a failure with one object.
type ObjectError struct {
	Ref
	// Verb says what was attempted.
	Verb string
	Err  error
}

func (e *ObjectError) Error() string {
	reason := ""
	if r := apierrors.ReasonForError(e.Err); r != metav1.StatusReasonUnknown {
		reason = " (" + string(r) + ")"
	}
	return fmt.Sprintf("%s %s failed%s: %s", e.Ref, e.Verb, reason, e.message())
}

func (e *ObjectError) Unwrap() error { return e.Err }

// message never quotes a value of a Secret.
func (e *ObjectError) message() string {
	if e.GroupKind.Kind != "Secret" {
		return e.Err.Error()
	}
	return secretValues.ReplaceAllString(e.Err.Error(), "***")
}

func objectError(u *unstructured.Unstructured, verb string, err error) error {
	return &ObjectError{Ref: RefOf(u), Verb: verb, Err: err}
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
