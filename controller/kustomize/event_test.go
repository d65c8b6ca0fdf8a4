package kustomize

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	eventv1 "github.com/fluxcd/pkg/apis/event/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
)

// receiver stands where the notification controller does.
type receiver struct {
	mu   sync.Mutex
	url  string
	seen []eventv1.Event
}

func (r *receiver) start() {
	r.url = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		var e eventv1.Event
		if json.NewDecoder(q.Body).Decode(&e) == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.seen = append(r.seen, e)
		}
	})).URL
}

// of lists what was received of a Kustomization, as "message revision commit-status".
func (r *receiver) of(ns, name string) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.seen {
		if e.InvolvedObject.Kind == "Kustomization" && e.InvolvedObject.Namespace == ns && e.InvolvedObject.Name == name {
			message, _, _ := strings.Cut(e.Message, " in ")
			out = append(out, strings.Join([]string{message, e.Metadata[group+"/revision"], e.Metadata[group+"/commit_status"]}, " | "))
		}
	}
	return out
}

// TestCommitStatus: each revision that is ready is told to the notification
// controller, also when it changes nothing, and the API server hears of it only
// when something changed.
func TestCommitStatus(t *testing.T) {
	w := newWorld(t, "admin")
	first := w.publish("repo", map[string]string{"app/a.yaml": cm("a", "1"), "docs.md": "one"})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Path = "./app" })
	w.ready("app", first)
	second := w.publish("repo", map[string]string{"app/a.yaml": cm("a", "1"), "docs.md": "two"})
	w.ready("app", second)
	want := "Reconciliation finished | " + second + " | update"
	var got []string
	kubetest.Eventually(t, 5*time.Second, func() error {
		if got = running.receiver.of(w.ns, "app"); len(got) == 0 || got[len(got)-1] != want {
			return fmt.Errorf("received %q, want %q last", got, want)
		}
		return nil
	})
	if want := "ConfigMap/" + w.ns + "/a created | " + first + " | "; got[0] != want || got[1] != "Reconciliation finished | "+first+" | update" {
		t.Errorf("received %q, want %q and the status of its commit first", got, want)
	}
	events := &corev1.EventList{}
	if err := w.client.List(w.ctx, events, client.InNamespace(w.ns)); err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if strings.Contains(e.Message, "finished") {
			t.Errorf("the API server was told %q", e.Message)
		}
	}
}
