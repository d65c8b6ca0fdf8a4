package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"headwater.dev/kernel/tenant"
)

func TestUncertain(t *testing.T) {
	maps := schema.GroupResource{Resource: "configmaps"}
	kind := schema.GroupKind{Kind: "ConfigMap"}
	for name, c := range map[string]struct {
		err       error
		uncertain bool
	}{
		"forbidden":          {apierrors.NewForbidden(maps, "a", errors.New("no")), false},
		"invalid":            {apierrors.NewInvalid(kind, "a", nil), false},
		"not found":          {apierrors.NewNotFound(maps, "a"), false},
		"no match":           {&meta.NoKindMatchError{GroupKind: kind}, false},
		"wrapped":            {fmt.Errorf("apply: %w", apierrors.NewForbidden(maps, "a", nil)), false},
		"timeout":            {apierrors.NewTimeoutError("slow", 1), true},
		"too many requests":  {apierrors.NewTooManyRequests("later", 1), true},
		"internal":           {apierrors.NewInternalError(errors.New("broken")), true},
		"deadline":           {context.DeadlineExceeded, true},
		"connection refused": {syscall.ECONNREFUSED, true},
	} {
		u := newObject("ConfigMap", "a")
		got, all := Uncertain(objectError(u, "apply", c.err))
		var want []Ref
		if c.uncertain {
			want = []Ref{RefOf(u)}
		}
		if diff := cmp.Diff(want, got); all || diff != "" {
			t.Errorf("%s: all %t %s", name, all, diff)
		}
	}
	forbidden := objectError(newObject("ConfigMap", "a"), "apply", apierrors.NewForbidden(maps, "a", nil))
	late := objectError(newObject("ConfigMap", "b"), "apply", context.DeadlineExceeded)
	got, all := Uncertain(fmt.Errorf("stage: %w", joined([]error{forbidden, late})))
	if diff := cmp.Diff([]Ref{RefOf(newObject("ConfigMap", "b"))}, got); all || diff != "" {
		t.Errorf("several: all %t %s", all, diff)
	}
	for name, err := range map[string]error{"no object": errors.New("boom"), "among others": joined([]error{forbidden, errors.New("boom")})} {
		if _, all := Uncertain(err); !all {
			t.Errorf("%s: says something about single objects", name)
		}
	}
}

// TestEachEndsWhenNothingIsReached: what does not reach the API server ends a
// stage; what is refused does not.
func TestEachEndsWhenNothingIsReached(t *testing.T) {
	refused := apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "a", nil)
	for name, c := range map[string]struct {
		err  error
		ends bool
	}{
		"reached":            {nil, false},
		"refused":            {refused, false},
		"lost":               {io.ErrUnexpectedEOF, false},
		"reset":              {&url.Error{Op: "Patch", Err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}}, false},
		"no connection":      {&url.Error{Op: "Patch", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, true},
		"no answer in time":  {fmt.Errorf("look up kind: %w", context.DeadlineExceeded), true},
		"interrupted":        {&url.Error{Op: "Patch", Err: context.Canceled}, true},
		"discovery, no name": {&apiutil.ErrResourceDiscoveryFailed{schema.GroupVersion{}: &net.OpError{Op: "dial", Err: &net.DNSError{}}}, true},
	} {
		begun := (&Engine{Parallel: 2}).each(100, func(int) error { return c.err })
		if ended := begun < 100; ended != c.ends || ended && begun > 2 {
			t.Errorf("%s: %d of 100 were begun", name, begun)
		}
	}
}

// mapperOf counts its look-ups, and finds nothing.
type mapperOf struct {
	meta.RESTMapper
	err   error
	looks int
}

func (m *mapperOf) RESTMapping(schema.GroupKind, ...string) (*meta.RESTMapping, error) {
	m.looks++
	return nil, m.err
}

// TestKindsAreLookedUpOnce in a pass, and not at all when one look-up shows that
// the API server is not reached.
func TestKindsAreLookedUpOnce(t *testing.T) {
	var objects []*unstructured.Unstructured
	var refs []Ref
	for i := range 40 {
		u := newObject("ConfigMap", fmt.Sprint("a", i))
		if i >= 20 {
			u.SetKind("Gizmo")
		}
		u.SetNamespace("n")
		objects, refs = append(objects, u), append(refs, RefOf(u))
	}
	none := &mapperOf{err: &meta.NoKindMatchError{}}
	at := func(m *mapperOf) Tenant { return Tenant{Access: &tenant.Access{Mapper: m}} }
	if got, err := Fit(at(none), objects); err != nil || len(got) != 40 || none.looks != 2 {
		t.Errorf("kinds that are not there: %d references after %d look-ups, %v", len(got), none.looks, err)
	}
	down := &mapperOf{err: &net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}}
	if _, err := Fit(at(down), objects); err == nil || !Transient(err) || down.looks != 1 {
		t.Errorf("not reached: %v after %d look-ups", err, down.looks)
	}
	down.looks = 0
	if got := Scoped(at(down), refs); len(got) != 40 || down.looks != 1 {
		t.Errorf("not reached: %d references after %d look-ups", len(got), down.looks)
	}
}
