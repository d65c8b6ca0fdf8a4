package fluxconfig

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
)

func TestFitMakesRoom(t *testing.T) {
	with := func(children, message int, states ...string) *config.ManagedStatuses {
		list := map[string]config.ManagedStatus{}
		for i := range children {
			text := strings.Repeat("ü", message/2)
			list[fmt.Sprintf("ns/app-%d", i)] = config.ManagedStatus{ComplianceState: states[i%len(states)], Message: text,
				Conditions: []metav1.Condition{{Type: "Ready", Message: text}}}
		}
		return &config.ManagedStatuses{Kustomizations: map[string]config.KustomizationStatus{"ns/k": {ChildStatuses: &config.ChildStatuses{HelmRelease: list}}}}
	}
	cases := map[string]struct {
		why           string
		in            *config.ManagedStatuses
		left, message int
	}{
		"small":           {"nothing to do", with(10, 100, nonCompliant), 10, 100},
		"a large message": {"one message is bounded", with(1, 30<<10, nonCompliant), 1, maxMessage},
		"large messages":  {"the more there are, the shorter", with(200, 30<<10, nonCompliant), 200, 1 << 10},
		"many":            {"what is compliant is left out", with(3000, 100, compliant, compliant, nonCompliant), 1000, 64},
		"many that fail":  {"no children then", with(6000, 100, nonCompliant), 0, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			fit(c.in)
			raw, err := json.Marshal(c.in)
			if err != nil || len(raw) > 1<<20 {
				t.Errorf("%s: %d bytes, %v", c.why, len(raw), err)
			}
			children := c.in.Kustomizations["ns/k"].ChildStatuses
			if children == nil {
				children = &config.ChildStatuses{}
			}
			if len(children.HelmRelease) != c.left {
				t.Errorf("%s: %d children are left, want %d", c.why, len(children.HelmRelease), c.left)
			}
			for _, s := range children.HelmRelease {
				if m := s.Conditions[0].Message; len(m) > c.message || len(m) < c.message-4 || !utf8.ValidString(m) {
					t.Errorf("%s: a message has %d bytes, want %d", c.why, len(m), c.message)
				}
			}
		})
	}
}

// large applies more than one object can tell of, and a time that the API server
// would not take back: the configuration's own status is written all the same.
func large(t *testing.T, c client.Client, ns string) {
	ctx := t.Context()
	fc := newConfig(ns, "large", "https://git.example/x")
	fc.Spec.Kustomizations = fc.Spec.Kustomizations[:1]
	create(t, c, fc)
	eventually(t, func() error { return exists(ctx, c, &kustomizev1.Kustomization{}, ns, "large-a") })
	inventory := &kustomizev1.ResourceInventory{}
	for i := range 60 {
		h := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("app-%d", i)},
			Spec: helmv2.HelmReleaseSpec{Interval: metav1.Duration{Duration: time.Minute}, ChartRef: &helmv2.CrossNamespaceSourceReference{Kind: "HelmChart", Name: "x"}}}
		create(t, c, h)
		h.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "False", Reason: "InstallFailed", Message: strings.Repeat("x", 30<<10), ObservedGeneration: h.Generation,
			LastTransitionTime: metav1.NewTime(time.Now())}}
		if err := c.Status().Update(ctx, h); err != nil {
			t.Fatal(err)
		}
		if i == 0 { // as a client of another kind writes it
			patch := `[{"op":"replace","path":"/status/conditions/0/lastTransitionTime","value":"9999-12-31T23:00:00-14:00"}]`
			if err := c.Status().Patch(ctx, h, client.RawPatch("application/json-patch+json", []byte(patch))); err != nil {
				t.Fatal(err)
			}
		}
		inventory.Entries = append(inventory.Entries, kustomizev1.ResourceRef{ID: ns + "_" + h.Name + "_helm.toolkit.fluxcd.io_HelmRelease", Version: "v2"})
	}
	k := &kustomizev1.Kustomization{}
	eventually(t, func() error {
		if err := c.Get(ctx, client.ObjectKey{Namespace: ns, Name: "large-a"}, k); err != nil {
			return err
		}
		k.Status.Inventory = inventory
		return c.Status().Update(ctx, k)
	})
	setReady(t, c, &sourcev1.GitRepository{}, ns, "large", "True", "Succeeded", "stored")
	setReady(t, c, &kustomizev1.Kustomization{}, ns, "large-a", "True", "ReconciliationSucceeded", "applied")
	eventually(t, func() error { return compliance(ctx, c, fc, nonCompliant) })
	eventually(t, func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(fc), fc); err != nil {
			return err
		}
		children := fc.Status.ManagedStatuses.Kustomizations[ns+"/large-a"].ChildStatuses
		return expect(children != nil && len(children.HelmRelease) == 60, "not all children are told of")
	})
}
