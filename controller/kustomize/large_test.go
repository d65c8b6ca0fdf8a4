package kustomize

import (
	"fmt"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/apply"
)

// many is how many objects one Kustomization has in the large test.
const many = 10_000

// manyMaps needs no transformation: such a build takes what one object takes, for each.
func manyMaps(ns string, n int, value string) map[string]string {
	files := map[string]string{"kustomization.yaml": "resources:\n"}
	for f := 0; f*500 < n; f++ {
		var b strings.Builder
		for i := f * 500; i < min(n, (f+1)*500); i++ {
			b.WriteString(cm(fmt.Sprintf("a-config-map-with-a-name-%05d\n  namespace: %s", i, ns), value) + "---\n")
		}
		files[fmt.Sprintf("f%02d.yaml", f)] = b.String()
		files["kustomization.yaml"] += fmt.Sprintf("- f%02d.yaml\n", f)
	}
	return files
}

// TestF13TenThousandObjects: applied, applied again after one changed, and
// pruned by a process that is killed in the middle of it.
func TestF13TenThousandObjects(t *testing.T) {
	w := newWorld(t, "admin")
	c := newChild(t, w)
	c.start("")
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.TargetNamespace, s.Timeout = "", &metav1.Duration{Duration: 5 * time.Minute}
	})
	start := time.Now()
	files := manyMaps(w.ns, many, "1")
	revision := w.publish("repo", files)
	w.readyIn(3*time.Minute, "app", revision)
	t.Logf("applied %d objects in %s", many, time.Since(start).Round(time.Millisecond))
	if n := len(apply.Refs(w.get("app").Status.Inventory)); n != many {
		t.Errorf("%d objects in the inventory", n)
	}
	if n := w.count(); n != many {
		t.Errorf("%d objects in the cluster", n)
	}

	start = time.Now()
	mark := len(w.requests())
	files["f00.yaml"] = strings.Replace(files["f00.yaml"], `"1"`, `"2"`, 1)
	revision = w.publish("repo", files)
	w.readyIn(time.Minute, "app", revision)
	t.Logf("one changed in %s", time.Since(start).Round(time.Millisecond))
	w.budget("one of many", mark, 4)

	c.kill()
	start = time.Now()
	revision = w.publish("repo", manyMaps(w.ns, 100, "1"))
	c.start("prune:3000")
	c.dies()
	if n := w.count(); n >= many || n <= 100 {
		t.Errorf("%d objects after half a prune", n)
	}
	c.start("")
	w.readyIn(3*time.Minute, "app", revision)
	if n := w.count(); n != 100 {
		t.Errorf("%d objects are left", n)
	}
	if n := len(apply.Refs(w.get("app").Status.Inventory)); n != 100 {
		t.Errorf("%d objects in the inventory", n)
	}
	t.Logf("pruned, interrupted, in %s", time.Since(start).Round(time.Millisecond))
}

func (w *world) count() int {
	w.t.Helper()
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
	if err := w.client.List(w.ctx, list, client.InNamespace(w.ns), client.MatchingLabels{group + "/name": "app"}); err != nil {
		w.t.Fatal(err)
	}
	return len(list.Items)
}

// readyIn is ready for what takes longer.
func (w *world) readyIn(timeout time.Duration, name, revision string) {
	w.t.Helper()
	kubetest.Eventually(w.t, timeout, func() error {
		k := w.get(name)
		if k.Status.LastAppliedRevision != revision {
			return fmt.Errorf("%s is at %q: %v", name, k.Status.LastAppliedRevision, k.Status.Conditions)
		}
		return nil
	})
}
