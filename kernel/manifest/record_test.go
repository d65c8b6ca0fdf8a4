package manifest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxkustomize "github.com/fluxcd/pkg/apis/kustomize"
)

func TestRecord(t *testing.T) {
	content := map[string]string{
		"app/kustomization.yaml": "resources: [x.yaml, ../base]", "app/x.yaml": configMap("x"),
		"base/kustomization.yaml": "resources: [y.yaml]", "base/y.yaml": configMap("y"), "base/unused.yaml": configMap("u"),
		"plain/a.yaml": configMap("a"), "plain/notes.txt": "n",
	}
	cases := map[string]struct {
		why, path, name, body string
		want                  bool
	}{
		"untouched":            {"same content", "app", "", "", true},
		"other app":            {"a file that was not read", "app", "plain/a.yaml", "x", true},
		"unused file":          {"a file of a base that is not listed", "app", "base/unused.yaml", "x", true},
		"own file":             {"a file of the path", "app", "app/x.yaml", configMap("z"), false},
		"base file":            {"a file of a base", "app", "base/y.yaml", configMap("z"), false},
		"second kustomization": {"a file that was looked for and missing", "app", "app/kustomization.yml", "resources: []", false},
		"new plain file":       {"a plain directory gained a file", "plain", "plain/b.yaml", configMap("b"), false},
		"plain to kustomize":   {"a plain directory gained a kustomization", "plain", "plain/kustomization.yaml", "resources: []", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r, err := Build(context.Background(), Request{Root: files(t, content), Spec: &kustomizev1.KustomizationSpec{Path: c.path}})
			if err != nil {
				t.Fatal(err)
			}
			next := files(t, content)
			if c.name != "" {
				write(t, next, c.name, c.body)
			}
			if got := r.Read.Same(next, nil); got != c.want {
				t.Errorf("%s: same = %v, want %v; record %v", c.why, got, c.want, r.Read)
			}
		})
	}
	if (Record{}).Same(t.TempDir(), nil) {
		t.Error("no record is the same as nothing")
	}
}

// TestRecordIsKept writes and reads records: what comes back answers as the
// original does, for every input that counts.
func TestRecordIsKept(t *testing.T) {
	content := map[string]string{
		"app/kustomization.yaml": "resources: [x.yaml, ../base]\nsecretGenerator: [{name: s, files: [k]}]\n", "app/x.yaml": configMap("x"), "app/k": "v",
		"base/y.yaml": configMap("y"), "base/kustomization.yaml": "resources: [y.yaml]",
	}
	l, other := newLocksmith(t), newLocksmith(t)
	variables := func(post *kustomizev1.PostBuild, strict bool, values map[string]string) *Variables {
		v, err := NewVariables(post, strict, values)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	post := &kustomizev1.PostBuild{Substitute: map[string]string{"a": "1"}}
	request := func() Request {
		return Request{Root: files(t, content), Spec: &kustomizev1.KustomizationSpec{Path: "app", Prune: true},
			Decrypt: l.keys, Variables: variables(post, false, map[string]string{"b": "2"})}
	}
	r, err := Build(context.Background(), request())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.Read.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := UnmarshalRecord(raw)
	if err != nil || kept.Len() != r.Read.Len() {
		t.Fatalf("%d paths of %d, %v", kept.Len(), r.Read.Len(), err)
	}
	cases := map[string]struct {
		change func(*Request)
		want   bool
	}{
		"nothing":          {func(*Request) {}, true},
		"pruning":          {func(r *Request) { r.Spec.Prune = false }, true},
		"path":             {func(r *Request) { r.Spec.Path = "base" }, false},
		"target namespace": {func(r *Request) { r.Spec.TargetNamespace = "n" }, false},
		"patch":            {func(r *Request) { r.Spec.Patches = append(r.Spec.Patches, fluxkustomize.Patch{Patch: "x"}) }, false},
		"common metadata": {func(r *Request) {
			r.Spec.CommonMetadata = &kustomizev1.CommonMetadata{Labels: map[string]string{"a": "b"}}
		}, false},
		"inline variable": {func(r *Request) {
			r.Variables = variables(&kustomizev1.PostBuild{Substitute: map[string]string{"a": "2"}}, false, map[string]string{"b": "2"})
		}, false},
		"variable":     {func(r *Request) { r.Variables = variables(post, false, map[string]string{"b": "3"}) }, false},
		"strict":       {func(r *Request) { r.Variables = variables(post, true, map[string]string{"b": "2"}) }, false},
		"no variables": {func(r *Request) { r.Variables = nil }, false},
		"other keys":   {func(r *Request) { r.Decrypt = other.keys }, false},
		"no keys":      {func(r *Request) { r.Decrypt = nil }, false},
		"remote bases": {func(r *Request) { r.RemoteBases = true }, false},
		"a file":       {func(r *Request) { write(t, r.Root, "base/y.yaml", configMap("z")) }, false},
		"a source":     {func(r *Request) { write(t, r.Root, "app/k", "w") }, false},
		"a new file":   {func(r *Request) { write(t, r.Root, "app/kustomization.yml", "resources: []") }, false},
		"unread file":  {func(r *Request) { write(t, r.Root, "app/unread.yaml", "x") }, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			req := request()
			c.change(&req)
			if got := kept.Fits(req); got != c.want {
				t.Errorf("fits = %v, want %v", got, c.want)
			}
			if got := r.Read.Fits(req); got != c.want {
				t.Errorf("the original fits = %v, want %v", got, c.want)
			}
		})
	}
}

// TestRecordOfNoUse: what is not exactly a record is none.
func TestRecordOfNoUse(t *testing.T) {
	r, err := Build(context.Background(), Request{Root: files(t, map[string]string{"a.yaml": configMap("a")}), Spec: &kustomizev1.KustomizationSpec{}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.Read.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		if _, err := UnmarshalRecord(changed); !errors.Is(err, ErrRecord) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := UnmarshalRecord(raw[:i]); !errors.Is(err, ErrRecord) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := (Record{}).Marshal(); !errors.Is(err, ErrRecord) {
		t.Errorf("an empty record was written: %v", err)
	}
	volatile := r.Read
	volatile.volatile = true
	if _, err := volatile.Marshal(); !errors.Is(err, ErrRecord) || volatile.Same(t.TempDir(), nil) {
		t.Errorf("a build from the network was recorded: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	r, err := Build(context.Background(), Request{Root: files(f, map[string]string{"a.yaml": configMap("a")}), Spec: &kustomizev1.KustomizationSpec{}})
	if err != nil {
		f.Fatal(err)
	}
	raw, err := r.Read.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:len(raw)-sha256.Size])
	f.Add([]byte(recordMagic + "\x01x\x01\x01a\x61"))
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body) // so that the parser is reached
		r, err := UnmarshalRecord(append(body, sum[:]...))
		if err != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := UnmarshalRecord(again); err != nil || back.Len() != r.Len() || back.Inputs != r.Inputs {
			t.Errorf("%d paths became %d: %v", r.Len(), back.Len(), err)
		}
	})
}
