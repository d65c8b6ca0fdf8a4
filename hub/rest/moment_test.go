package rest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

// TestOneExtensionOfManyAtOnce makes extensions of several names, and a
// configuration that wants one, at the same moment.
func TestOneExtensionOfManyAtOnce(t *testing.T) {
	h := start(t)
	h.furnish()
	for round := range 10 {
		var group sync.WaitGroup
		for i := range 4 {
			group.Go(func() {
				a := h.send("PUT", fmt.Sprintf("%s/e%d?api-version=2023-05-01", inExtensions, i), `{"properties":{"extensionType":"microsoft.flux"}}`)
				if a.status != 201 && a.code() != "Conflict" {
					t.Errorf("extension %d: %d %s", i, a.status, a.body)
				}
			})
		}
		group.Go(func() {
			a := h.send("PUT", inConfigurations+"/apps?api-version=2023-05-01", `{"properties":{"sourceKind":"GitRepository","gitRepository":{"url":"https://git.example/x",`+
				`"repositoryRef":{"branch":"main"}},"kustomizations":{"a":{"path":"./x"}}}}`)
			if a.status != 201 && a.code() != "Conflict" {
				t.Errorf("configuration: %d %s", a.status, a.body)
			}
		})
		group.Wait()
		var there []string
		if _, err := store.Each(t.Context(), h.store, strings.ToLower(inExtensions)+"/", func(r store.Record) error {
			if !strings.Contains(r.Key, "/operations/") {
				there = append(there, r.Key)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if len(there) > 1 {
			t.Fatalf("round %d: the cluster has %v", round, there)
		}
		h.send("DELETE", inConfigurations+"/apps?api-version=2023-05-01&forceDelete=true", "")
		for i := range 4 {
			h.send("DELETE", fmt.Sprintf("%s/e%d?api-version=2023-05-01&forceDelete=true", inExtensions, i), "")
		}
		h.send("DELETE", inExtensions+"/flux?api-version=2023-05-01&forceDelete=true", "")
	}
}

// TestSilenceIsNoCompliance looks at what an agent said last, hours and months
// after.
func TestSilenceIsNoCompliance(t *testing.T) {
	now := time.Now()
	said := resource.FluxConfigurationObserved{ComplianceState: resource.Compliant}
	for name, c := range map[string]struct {
		ago  time.Duration
		want string
	}{
		"just now":   {time.Second, resource.Compliant},
		"hours ago":  {resource.OfflineAfter + time.Hour, resource.Unknown},
		"months ago": {resource.ExpiredAfter + time.Hour, resource.Unknown},
	} {
		at := now.Add(-c.ago)
		if got := compliance(entry[fluxProperties]{}, said, resource.ClusterObserved{LastConnectivityTime: &at}, now); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
