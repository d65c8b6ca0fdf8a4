package helm

import (
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/kernel/release"
)

func statusOf(s string) release.Status { return release.Status(s) }

func TestMergeReference(t *testing.T) {
	base := func() map[string]any {
		return map[string]any{"a": map[string]any{"x": "old", "y": "kept"}, "list": []any{"one"}}
	}
	cases := map[string]struct {
		why  string
		ref  v2.ValuesReference
		data string
		want map[string]any
		err  string
	}{
		"Root":     {why: "maps merge", data: "a: {x: new}", want: map[string]any{"a": map[string]any{"x": "new", "y": "kept"}, "list": []any{"one"}}},
		"NotAMap":  {why: "the bytes are never quoted", data: "hunter2", err: "value is not a YAML map"},
		"Path":     {why: "a flat value at a path", ref: v2.ValuesReference{TargetPath: "a.x"}, data: "new", want: map[string]any{"a": map[string]any{"x": "new", "y": "kept"}, "list": []any{"one"}}},
		"Number":   {why: "typed as --set does", ref: v2.ValuesReference{TargetPath: "a.x"}, data: "42", want: map[string]any{"a": map[string]any{"x": int64(42), "y": "kept"}, "list": []any{"one"}}},
		"Quoted":   {why: "quotes keep a string", ref: v2.ValuesReference{TargetPath: "a.x"}, data: "'42'", want: map[string]any{"a": map[string]any{"x": "42", "y": "kept"}, "list": []any{"one"}}},
		"Literal":  {why: "literal keeps everything", ref: v2.ValuesReference{TargetPath: "a.x", Literal: true}, data: "'a,b={c}'", want: map[string]any{"a": map[string]any{"x": "'a,b={c}'", "y": "kept"}, "list": []any{"one"}}},
		"Comma":    {why: "a comma does not start another value", ref: v2.ValuesReference{TargetPath: "a.x"}, data: "p,q=1", want: map[string]any{"a": map[string]any{"x": "p,q=1", "y": "kept"}, "list": []any{"one"}}},
		"Index":    {why: "lists have positions", ref: v2.ValuesReference{TargetPath: "list[1]"}, data: "two", want: map[string]any{"a": map[string]any{"x": "old", "y": "kept"}, "list": []any{"one", "two"}}},
		"Boolean":  {why: "typed", ref: v2.ValuesReference{TargetPath: "on"}, data: "true", want: map[string]any{"a": map[string]any{"x": "old", "y": "kept"}, "list": []any{"one"}, "on": true}},
		"LeadZero": {why: "not a number", ref: v2.ValuesReference{TargetPath: "on"}, data: "007", want: map[string]any{"a": map[string]any{"x": "old", "y": "kept"}, "list": []any{"one"}, "on": "007"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := mergeReference(base(), tc.ref, []byte(tc.data))
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Fatalf("%s: got %v", tc.why, err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", tc.why, err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.why, diff)
			}
		})
	}
}

func TestRedacted(t *testing.T) {
	secrets := leaves([]byte("user: admin\npassword: hunter2\nnested: [{token: hunter2-longer}, 123456789]\n"))
	got := redacted("field hunter2-longer is not hunter2, says admin", secrets)
	if want := "field *** is not ***, says admin"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestShorten(t *testing.T) {
	if got := shorten("short"); got != "short" {
		t.Errorf("got %q", got)
	}
	long := strings.Repeat("x", 60)
	a, b := shorten(long), shorten(long+"y")
	if len(a) != 53 || a == b {
		t.Errorf("got %q and %q; want two different names of 53 characters", a, b)
	}
}

func TestWithDigest(t *testing.T) {
	for in, want := range map[string]string{
		"1.2.3": "1.2.3+0123456789ab", "1.2.3+b": "1.2.3+b.0123456789ab", "nonsense": "nonsense",
	} {
		if got := withDigest(in, "sha256:0123456789abcdef"); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestRequested(t *testing.T) {
	cases := map[string]struct {
		why         string
		annotations map[string]string
		handled     string
		want        bool
		nextHandled string
	}{
		"None":      {why: "no annotation"},
		"Both":      {why: "asked together with a reconcile", annotations: map[string]string{v2.ForceRequestAnnotation: "1", "reconcile.fluxcd.io/requestedAt": "1"}, want: true, nextHandled: "1"},
		"Handled":   {why: "once only", annotations: map[string]string{v2.ForceRequestAnnotation: "1", "reconcile.fluxcd.io/requestedAt": "1"}, handled: "1", nextHandled: "1"},
		"Different": {why: "the token must be that of the reconcile request", annotations: map[string]string{v2.ForceRequestAnnotation: "1", "reconcile.fluxcd.io/requestedAt": "2"}, nextHandled: "1"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			hr := &v2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Annotations: tc.annotations}}
			handled := tc.handled
			if got := requested(hr, v2.ForceRequestAnnotation, &handled); got != tc.want || handled != tc.nextHandled {
				t.Errorf("%s: got %v, handled %q", tc.why, got, handled)
			}
		})
	}
}

func TestPostRenderer(t *testing.T) {
	hr := &v2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "app"}}
	hr.Spec.CommonMetadata = &v2.CommonMetadata{Labels: map[string]string{"tier": "web"}}
	hr.Spec.PostRenderers = []v2.PostRenderer{{Kustomize: &v2.Kustomize{Patches: patches("- op: replace\n  path: /data/a\n  value: patched\n")}}}
	in := "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  a: b\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata:\n    name: two\n  data:\n    a: b\n"
	out, err := (&renderer{}).For(hr).Run(buffer(in))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"patched", "tier: web", labelName + ": app", labelNS + ": team"} {
		if n := strings.Count(out.String(), want); n != 2 {
			t.Errorf("%q is %d times in the output, want 2:\n%s", want, n, out)
		}
	}
}
