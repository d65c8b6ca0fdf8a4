package tenant

import (
	"errors"
	"net"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// slow takes its time to find a kind, or not to reach the cluster.
type slow struct {
	meta.RESTMapper
	clock *time.Time
	takes time.Duration
	err   error
	looks int
}

func (s *slow) RESTMapping(kind schema.GroupKind, _ ...string) (*meta.RESTMapping, error) {
	s.looks++
	*s.clock = s.clock.Add(s.takes)
	if s.err != nil {
		return nil, s.err
	}
	return &meta.RESTMapping{GroupVersionKind: kind.WithVersion("v1")}, nil
}

// TestAClusterThatDoesNotAnswerIsAskedOnce by all who look up kinds at a time,
// and again when as much time has passed.
func TestAClusterThatDoesNotAnswerIsAskedOnce(t *testing.T) {
	clock := time.Unix(1000, 0)
	inner := &slow{clock: &clock}
	m := newSparing(inner)
	m.now = func() time.Time { return clock }
	known, unknown := schema.GroupKind{Kind: "Known"}, schema.GroupKind{Kind: "Unknown"}
	if _, err := m.RESTMapping(known, "v1"); err != nil {
		t.Fatal(err)
	}
	inner.takes, inner.err, inner.looks = 10*time.Second, &net.OpError{Op: "dial", Err: errors.New("timed out")}, 0
	for range 5 {
		if _, err := m.RESTMapping(unknown, "v1"); !errors.Is(err, inner.err) {
			t.Errorf("error = %v", err)
		}
	}
	if got, err := m.RESTMapping(known, "v1"); err != nil || got.GroupVersionKind.Kind != "Known" {
		t.Errorf("a kind that was found before: %v, %v", got, err)
	}
	if inner.looks != 1 {
		t.Errorf("asked %d times", inner.looks)
	}
	clock, inner.takes, inner.err = clock.Add(10*time.Second), 0, nil
	if _, err := m.RESTMapping(unknown, "v1"); err != nil {
		t.Errorf("when it answers again: %v", err)
	}

	inner.err, inner.looks = &meta.NoKindMatchError{GroupKind: unknown}, 0
	for range 2 {
		_, _ = m.RESTMapping(schema.GroupKind{Kind: "None"}, "v1")
	}
	if inner.looks != 2 {
		t.Errorf("a kind that is not there may come at any time: asked %d times", inner.looks)
	}
}
