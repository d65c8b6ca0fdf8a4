package manifest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
)

// transformed is a directory that kustomize takes long for, with n objects.
func transformed(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c-%d}\ndata: {a: b}\n", i)
	}
	for name, text := range map[string]string{
		"all.yaml":           all.String(),
		"kustomization.yaml": "resources: [all.yaml]\nnamePrefix: x-\nnamespace: there\nlabels: [{pairs: {team: a}}]\nimages: [{name: a, newTag: b}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestBuildEndsWithItsContext: a build that takes longer than it may holds
// nobody up, and others are built meanwhile.
func TestBuildEndsWithItsContext(t *testing.T) {
	large, small := transformed(t, 3000), transformed(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // until it is under way
	defer cancel()
	began := time.Now()
	_, err := Build(ctx, Request{Root: large, Spec: &kustomizev1.KustomizationSpec{}})
	took := time.Since(began)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error = %v, want that of the context (after %s)", err, took)
	}
	if schema.left.Load() == 0 {
		t.Error("the build that was left is not counted")
	}
	built, err := Build(t.Context(), Request{Root: small, Spec: &kustomizev1.KustomizationSpec{}})
	if err != nil || len(built.Objects) != 1 || built.Objects[0].GetName() != "x-c-0" {
		t.Errorf("a build beside it: %v, %v", built, err)
	}
	whole := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Minute); schema.left.Load() > 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the build that was left never ended")
		}
	}
	t.Logf("interrupted after %s; it would have taken %s more", took, time.Since(whole))
	if _, err := Build(ctx, Request{Root: small, Spec: &kustomizev1.KustomizationSpec{}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// take takes shares of the guard.
func take(t *testing.T, n int64) {
	t.Helper()
	if err := schema.guard.Acquire(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// TestOwnSchemaWaitsForTheLeft: a build that has to run alone keeps nobody from
// building while it waits for one that was left.
func TestOwnSchemaWaitsForTheLeft(t *testing.T) {
	alone := files(t, map[string]string{"kustomization.yaml": "namePrefix: p-\nresources: [x.yaml]\nopenapi: {path: s.json}\n", "x.yaml": configMap("x"), "s.json": `{"definitions":{}}`})
	take(t, 1) // as the build that was left does
	done := make(chan error, 1)
	go func() {
		_, err := Build(t.Context(), Request{Root: alone, Spec: &kustomizev1.KustomizationSpec{}})
		done <- err
	}()
	for range 5 { // beside it
		if _, err := Build(t.Context(), Request{Root: transformed(t, 1), Spec: &kustomizev1.KustomizationSpec{}}); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("it ran beside a build that was left: %v", err)
	default:
	}
	schema.guard.Release(1)
	if err := <-done; err != nil {
		t.Errorf("when nothing is left: %v", err)
	}
}

func TestMayBegin(t *testing.T) {
	cores := int64(runtime.GOMAXPROCS(0))
	cases := map[string]struct {
		why           string
		objects, left int64
		refused       bool
	}{
		"quiet":          {"nothing was left", 10_000, 0, false},
		"small, crowded": {"small builds are short", manyObjects, 10 * cores, false},
		"large, some":    {"a core is free", manyObjects + 1, cores - 1, false},
		"large, crowded": {"it would be the next to be left", manyObjects + 1, cores, true},
	}
	for name, c := range cases {
		if err := mayBegin(c.objects, c.left); (err != nil) != c.refused {
			t.Errorf("%s: %v, %s", name, err, c.why)
		}
	}
}

// BenchmarkTransformed shows that the time grows with the square of the objects.
func BenchmarkTransformed(b *testing.B) {
	for _, n := range []int{500, 2000} {
		dir := transformed(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if _, err := Build(b.Context(), Request{Root: dir, Spec: &kustomizev1.KustomizationSpec{}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestWaitingForAloneKeepsNobodyFromBuilding has a build with a schema of its own
// wait for one that takes longer than it can.
func TestWaitingForAloneKeepsNobodyFromBuilding(t *testing.T) {
	running, end := make(chan struct{}), make(chan struct{})
	long := make(chan error, 1)
	go func() { long <- withSharedSchema(t.Context(), func() error { close(running); <-end; return nil }) }()
	<-running
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- withOwnSchema(ctx, func() error { return nil }) }()
	for tries := 0; tries < 3; { // of the one that waits, which holds others back
		if schema.guard.TryAcquire(1) {
			schema.guard.Release(1)
			continue
		}
		tries++
		if err := withSharedSchema(t.Context(), func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that waited: %v", err)
	}
	close(end)
	if err := <-long; err != nil {
		t.Error(err)
	}
	if err := withOwnSchema(t.Context(), func() error { return nil }); err != nil {
		t.Errorf("when nobody builds: %v", err)
	}
}
