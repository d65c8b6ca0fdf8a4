package tenant

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// TestIdleIdentitiesAreForgotten: preview environments come and go by the
// hundred, and what is in use stays.
func TestIdleIdentitiesAreForgotten(t *testing.T) {
	clients, err := New(&rest.Config{Host: "https://example.invalid"}, scheme.Scheme, meta.NewDefaultRESTMapper(nil))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	clients.now = func() time.Time { return now }
	as := func(namespace string) *Access {
		t.Helper()
		a, err := clients.As(Identity{Namespace: namespace, ServiceAccount: "applier"})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	kept := as("kept")
	for i := range 50 {
		as(fmt.Sprint("preview-", i))
		now = now.Add(2 * time.Minute)
		if as("kept") != kept {
			t.Fatal("an identity in use was made anew")
		}
	}
	if n := len(clients.made); n > 32 || n != len(clients.used) {
		t.Errorf("%d identities of %d are kept after most were idle for an hour", n, len(clients.used))
	}
}
