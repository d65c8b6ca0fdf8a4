package auth

import (
	"context"
	"net"
	"net/http"
	"time"
)

// Attempt is something that a principal is about to do at the users' door, and
// then how it ended: what locks, limits and the activity log go by.
type Attempt struct {
	Who Principal
	// Action as roles name it, "Microsoft.Authorization/locks/write"; Scope is
	// the ARM id that it is on, "" for the whole tenant.
	Action, Scope string
	// Resource is the ARM id of what would change; Scope when empty.
	Resource string
	Method   string
	// From is the peer's address, without its port.
	From                       string
	RequestID, Correlation     string
	ClientRequestID, UserAgent string
	At                         time.Time
	// Header is that of the answer; it may be added to until the answer begins.
	Header http.Header
	// Missing says that the resource was not there when the attempt began; only
	// where somebody has looked.
	Missing, Looked bool
	// Status of the answer and, when it is an error, its code. Zero until the
	// attempt has ended.
	Status int
	Code   string

	notes map[string]string
}

type attemptKey struct{}

// NewContext is a context in which Note finds the attempt.
func NewContext(ctx context.Context, a *Attempt) context.Context {
	return context.WithValue(ctx, attemptKey{}, a)
}

// Note adds a detail to the attempt of a context, for the activity log. Never a
// secret.
func Note(ctx context.Context, name, value string) {
	a, ok := ctx.Value(attemptKey{}).(*Attempt)
	if !ok {
		return
	}
	if a.notes == nil {
		a.notes = map[string]string{}
	}
	a.notes[name] = value
}

// Notes are the details that were added, after the attempt has ended.
func (a *Attempt) Notes() map[string]string { return a.notes }

// Write reports whether the attempt would change something.
func (a *Attempt) Write() bool { return a.Method != http.MethodGet && a.Method != http.MethodHead }

// Demand is what a request to a mounted part of the users' door needs.
type Demand struct {
	// Action and Scope are as in Attempt.
	Action, Scope string
	// Resource is as in Attempt.
	Resource string
	// Filtered is a list: the action is needed at anything at or below the scope.
	Filtered bool
	// Free asks for no rights: who is signed in may.
	Free bool
}

// Gate is a step that an attempt passes: it calls next, or answers why not.
type Gate func(ctx context.Context, a *Attempt, next func() error) error

// Address is the peer of a request's connection; headers can be made up.
func Address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
