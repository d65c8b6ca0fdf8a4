package versions

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/resource"
)

func object(t *testing.T, s string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

const full = `{"sourceKind":"GitRepository","gitRepository":{"url":"u","provider":"GitHub"},"azureBlob":null,
 "ociRepository":null,"waitForReconciliation":true,"reconciliationWaitDuration":null,
 "kustomizations":{"a":{"path":"p","wait":false,"postBuild":{"substitute":{"x":"1"}}}}}`

func TestProject(t *testing.T) {
	tests := map[string]struct{ why, version, want string }{
		"2022-03-01": {"the oldest stable has git and bucket only", "2022-03-01",
			`{"sourceKind":"GitRepository","gitRepository":{"url":"u"},"kustomizations":{"a":{"path":"p"}}}`},
		"2022-11-01": {"blobs came in July 2022", "2022-11-01",
			`{"sourceKind":"GitRepository","gitRepository":{"url":"u"},"azureBlob":null,"kustomizations":{"a":{"path":"p"}}}`},
		"2023-05-01": {"wait, postBuild and waiting for reconciliation", "2023-05-01",
			`{"sourceKind":"GitRepository","gitRepository":{"url":"u"},"azureBlob":null,"waitForReconciliation":true,
			  "reconciliationWaitDuration":null,"kustomizations":{"a":{"path":"p","wait":false,"postBuild":{"substitute":{"x":"1"}}}}}`},
		"2024-11-01": {"git providers, no OCI yet", "2024-11-01",
			`{"sourceKind":"GitRepository","gitRepository":{"url":"u","provider":"GitHub"},"azureBlob":null,"waitForReconciliation":true,
			  "reconciliationWaitDuration":null,"kustomizations":{"a":{"path":"p","wait":false,"postBuild":{"substitute":{"x":"1"}}}}}`},
		"2024-04-01-preview": {"the preview that az sends is ahead of the stable one after it", "2024-04-01-preview", full},
		"2025-04-01":         {"the newest is the stored shape", "2025-04-01", full},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := object(t, full)
			Project(resource.TypeFluxConfiguration, tc.version, got)
			if diff := cmp.Diff(object(t, tc.want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.why, diff)
			}
		})
	}
}

func TestProjectExtension(t *testing.T) {
	in := `{"extensionType":"microsoft.flux","currentVersion":"1","installedVersion":"1","isSystemExtension":false,"autoUpgradeMode":"patch"}`
	for version, want := range map[string]string{
		"2022-03-01":         `{"extensionType":"microsoft.flux","installedVersion":"1"}`,
		"2022-04-02-preview": `{"extensionType":"microsoft.flux","currentVersion":"1","isSystemExtension":false}`,
		"2023-05-01":         `{"extensionType":"microsoft.flux","currentVersion":"1","isSystemExtension":false}`,
		"2025-03-01":         `{"extensionType":"microsoft.flux","currentVersion":"1","isSystemExtension":false,"autoUpgradeMode":"patch"}`,
	} {
		got := object(t, in)
		Project(resource.TypeExtension, version, got)
		if diff := cmp.Diff(object(t, want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", version, diff)
		}
	}
}

func TestCarry(t *testing.T) {
	sent := object(t, `{"gitRepository":{"url":"new","provider":"Azure"},
	  "kustomizations":{"a":{"path":"q","wait":true},"b":{"path":"r"}}}`)
	Carry(resource.TypeFluxConfiguration, "2022-03-01", sent, object(t, full))
	want := object(t, `{"gitRepository":{"url":"new","provider":"GitHub"},"azureBlob":null,"ociRepository":null,
	  "waitForReconciliation":true,"reconciliationWaitDuration":null,
	  "kustomizations":{"a":{"path":"q","wait":false,"postBuild":{"substitute":{"x":"1"}}},"b":{"path":"r"}}}`)
	if diff := cmp.Diff(want, sent); diff != "" {
		t.Errorf("an old client neither sees nor changes newer fields (-want +got):\n%s", diff)
	}
	created := object(t, `{"gitRepository":{"url":"new","provider":"Azure"}}`)
	Carry(resource.TypeFluxConfiguration, "2022-03-01", created, nil)
	if diff := cmp.Diff(object(t, `{"gitRepository":{"url":"new"}}`), created); diff != "" {
		t.Errorf("creation (-want +got):\n%s", diff)
	}
}

func TestKnown(t *testing.T) {
	tests := []struct {
		typ, version string
		want         bool
	}{
		{resource.TypeFluxConfiguration, "2022-03-01", true},
		{resource.TypeFluxConfiguration, "2024-04-01-PREVIEW", true},
		{resource.TypeFluxConfiguration, "2019-01-01", false},
		{"microsoft.kubernetesconfiguration/FLUXCONFIGURATIONS", "2025-04-01", true},
		{resource.TypeExtension, "2025-03-01", true},
		{"Microsoft.KubernetesConfiguration/extensionTypes", "2026-05-01", true},
		{resource.TypeConnectedCluster, "2021-10-01", true},
		{resource.TypeConnectedCluster, "1999-01-01", false},
		{resource.TypeManagedCluster, "2022-11-01", true},
		{resource.TypeResourceGroup, "2021-04-01", true},
		{resource.TypeResourceGroup, "latest", false},
	}
	for _, tc := range tests {
		if got := Known(tc.typ, tc.version); got != tc.want {
			t.Errorf("Known(%s, %s) = %v", tc.typ, tc.version, got)
		}
	}
}

func FuzzCarryProject(f *testing.F) {
	f.Add(full, full, "2022-03-01")
	f.Add(`{"kustomizations":null}`, `{}`, "2023-05-01")
	f.Fuzz(func(t *testing.T, sent, stored, version string) {
		var in, old map[string]any
		if json.Unmarshal([]byte(sent), &in) != nil || json.Unmarshal([]byte(stored), &old) != nil || in == nil {
			return
		}
		Carry(resource.TypeFluxConfiguration, version, in, old)
		if old != nil {
			Project(resource.TypeFluxConfiguration, version, old)
			Project(resource.TypeFluxConfiguration, version, in)
			for _, path := range hidden(resource.TypeFluxConfiguration, version) {
				if _, ok := in[path[0]]; ok && len(path) == 1 {
					t.Fatalf("%s survived the projection to %s", path[0], version)
				}
			}
		}
	})
}
