package mirror

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"headwater.dev/api/config"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/dev/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// noSettings is a keeper for items without protected settings.
type noSettings struct{}

func (noSettings) Keep(context.Context, string, string, string, []byte) error { return nil }

// TestTheKindGoesAndComesBack removes the kind under a mirror, as the removal of
// the extension does, for so long that an informer would have given up looking
// often. When it is back, configurations are there within seconds.
func TestTheKindGoesAndComesBack(t *testing.T) {
	c := kubetest.Start(t)
	kubetest.CRDs(t, c, "fluxconfig")
	namespace := c.Namespace(t)
	objects, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	reports := 0
	m, err := New(Config{REST: c.Config, Settings: noSettings{}, Now: time.Now, Log: testr.New(t),
		Report: func(link.Observed) { mu.Lock(); defer mu.Unlock(); reports++ }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	m.Desired([]link.Item{{ID: "/subscriptions/s/resourcegroups/g/x/fluxconfigurations/app", Name: "app", Generation: 1,
		Configuration: &resource.FluxConfigurationProperties{Namespace: namespace, Scope: resource.ScopeNamespace, SourceKind: resource.SourceGitRepository,
			GitRepository: &resource.GitRepository{URL: "https://git.example/app.git"}}}})
	configs := objects.Resource(config.GroupVersion().WithResource(plural)).Namespace(namespace)
	there := func() error {
		_, err := configs.Get(ctx, "app", metav1.GetOptions{})
		return err
	}
	kubetest.Eventually(t, 20*time.Second, there)

	kinds := objects.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	name := plural + "." + config.Group
	if err := kinds.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 20*time.Second, func() error {
		if _, err := kinds.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the kind is still there: %v", err)
		}
		return nil
	})
	gone := time.Now()
	kubetest.Eventually(t, 30*time.Second, func() error { // long enough for back-offs to grow: the next try would be after 31 s
		if time.Since(gone) < 17*time.Second {
			return fmt.Errorf("the kind is away")
		}
		return nil
	})
	kubetest.CRDs(t, c, "fluxconfig")
	kubetest.Within(t, 10*time.Second, there)
	mu.Lock()
	defer mu.Unlock()
	if reports == 0 {
		t.Error("nothing was reported")
	}
}

// looks counts how often the Secret of a configuration is looked at.
type looks struct {
	mu sync.Mutex
	of map[string]int
}

func (l *looks) Keep(_ context.Context, _, name, _ string, _ []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of[name]++
	return nil
}

// TestWorkIsProportionalToChange changes one of two configurations: every message
// of the hub speaks of both, and only the one that changed may cost requests,
// until it is time to look at Secrets again.
func TestWorkIsProportionalToChange(t *testing.T) {
	c := kubetest.Start(t)
	kubetest.CRDs(t, c, "fluxconfig")
	namespace := c.Namespace(t)
	var ahead atomic.Int64
	secrets := &looks{of: map[string]int{}}
	m, err := New(Config{REST: c.Config, Settings: secrets, Log: testr.New(t), Report: func(link.Observed) {},
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	item := func(name string, generation int64) link.Item {
		return link.Item{ID: "/subscriptions/s/x/" + name, Name: name, Generation: generation,
			Configuration: &resource.FluxConfigurationProperties{Namespace: namespace, Scope: resource.ScopeNamespace, SourceKind: resource.SourceGitRepository,
				GitRepository: &resource.GitRepository{URL: "https://git.example/app.git"}}}
	}
	want := func(why string, a, b int) {
		t.Helper()
		kubetest.Eventually(t, 20*time.Second, func() error {
			m.mu.Lock()
			open := len(m.recheck) + m.queue.Len()
			m.mu.Unlock()
			secrets.mu.Lock()
			defer secrets.mu.Unlock()
			if gotA, gotB := secrets.of[secretName("a")], secrets.of[secretName("b")]; open > 0 || gotA < a || gotB != b {
				return fmt.Errorf("%s: looked at a %d times and at b %d times, want %d and %d (%d open)", why, gotA, gotB, a, b, open)
			}
			return nil
		})
	}
	m.Desired([]link.Item{item("a", 1), item("b", 1)})
	want("both are new", 1, 1)
	for generation := range int64(5) {
		m.Desired([]link.Item{item("a", generation+2), item("b", 1)})
		want("one has changed", int(generation)+2, 1)
	}
	ahead.Store(int64(lookEvery))
	m.Desired([]link.Item{item("a", 6), item("b", 1)})
	want("it is time to look", 7, 2)
}
