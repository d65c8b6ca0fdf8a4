package apply

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
