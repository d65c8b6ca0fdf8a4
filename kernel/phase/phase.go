// Package phase runs a reconciliation as a list of named phases over a scope.
//
// The list of phases is the documentation of a loop. A phase returns nil or a
// classed error; nothing but the runner writes conditions, events and the
// status, so that one reconcile is one status write at most.
package phase

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Phase is one step over a scope S, which holds what the loop has read so far.
type Phase[S any] struct {
	// Name is a verb phrase for logs, such as "fetch the artifact".
	Name string
	Do   func(context.Context, *S) error
}

// Class says who has to move for an error to go away.
type Class int

const (
	// ClassTransient goes away by itself: retried with back-off.
	ClassTransient Class = iota
	// ClassStalled needs the user: not retried until something changes.
	ClassStalled
	// ClassWaiting needs another object: parked until a watch wakes it.
	ClassWaiting
)

// Error is why a phase ended the chain.
type Error struct {
	Class Class
	// Reason becomes the reason of the Ready condition.
	Reason string
	Err    error
	// After is when to look again: the fallback of ClassWaiting, and for
	// ClassTransient the retry interval when it is not zero.
	After time.Duration
	// Progressing marks a wait for something under way rather than missing:
	// Ready becomes Unknown instead of False.
	Progressing bool
	// Quiet parks without a word: conditions and events stay as they are.
	Quiet bool
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Stalled is an error that only the user can mend.
func Stalled(reason string, err error) error {
	return &Error{Class: ClassStalled, Reason: reason, Err: err}
}

// Waiting parks the object until a watch wakes it, or after has passed.
func Waiting(reason string, after time.Duration, err error) error {
	return &Error{Class: ClassWaiting, Reason: reason, Err: err, After: after}
}

// Progressing parks the object while work that it started goes on.
func Progressing(reason string, after time.Duration, err error) error {
	return &Error{Class: ClassWaiting, Reason: reason, Err: err, After: after, Progressing: true}
}

// Quietly parks the object for after at the longest, with its status untouched:
// nothing is known yet that would be worth saying.
func Quietly(after time.Duration, err error) error {
	return &Error{Class: ClassWaiting, Err: err, After: after, Quiet: true}
}

// Transient is an error that is worth trying again with back-off.
func Transient(reason string, err error) error {
	return &Error{Class: ClassTransient, Reason: reason, Err: err}
}

// RetryAfter is a transient error that is tried again after a fixed time.
func RetryAfter(reason string, after time.Duration, err error) error {
	return &Error{Class: ClassTransient, Reason: reason, Err: err, After: after}
}

// Classify finds the Error in a chain of wrapped errors; wrapping adds to the
// message and never changes the class. An unclassed error is transient.
func Classify(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Class: ClassTransient, Reason: "Failed", Err: err}
	}
	c := *e
	c.Err = err
	return &c
}

// Chain runs phases in order and stops at the first error.
func Chain[S any](ctx context.Context, s *S, phases []Phase[S]) error {
	for _, p := range phases {
		if err := p.Do(ctx, s); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return nil
}
