// Package versions knows every dated wire version of the hub's resources.
//
// There is one internal shape, that of the newest stable version. An older
// version is the same JSON without the fields that it does not know, so nearly
// the whole difference is a table: which field exists since when. The few
// properties that once had another name or form are in shapes.go. Two laws
// follow, and hold for every version:
//
//   - a client never receives a field that its version does not have;
//   - a client never changes a field that its version does not have: what it
//     cannot say is carried over from what is stored.
package versions

import (
	"regexp"
	"slices"
	"strings"

	"headwater.dev/api/resource"
)

// Newest is the newest stable version. NewestPreview has every field that is
// stored, Headwater's own among them.
const (
	Newest        = "2025-04-01"
	NewestPreview = "2026-07-01-preview"
)

// never is a first version that has not come.
const never = "9999-01-01"

var dated = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}(-preview|-privatepreview|-alpha|-beta)?$`)

// Of returns the api-versions of a resource type, newest first; nil means that
// every dated version is accepted. The type compares without regard to case.
func Of(resourceType string) []string {
	provider, kind, _ := strings.Cut(strings.ToLower(resourceType), "/")
	switch provider {
	case "microsoft.kubernetesconfiguration":
		if strings.HasPrefix(kind, "extensiontypes") || strings.HasPrefix(kind, "locations/extensiontypes") {
			return append([]string{"2026-05-01", "2026-04-01"}, configuration()...)
		}
		return configuration()
	case "microsoft.kubernetes":
		return []string{"2026-05-01", "2026-02-01-preview", "2025-12-01-preview", "2025-08-01-preview",
			"2024-12-01-preview", "2024-07-15-preview", "2024-07-01-preview", "2024-06-01-preview",
			"2024-02-01-preview", "2024-01-01", "2023-11-01-preview", "2022-10-01-preview",
			"2022-05-01-preview", "2021-10-01", "2021-04-01-preview", "2021-03-01", "2020-01-01-preview"}
	default:
		return nil
	}
}

// configuration lists the versions of Microsoft.KubernetesConfiguration. One
// list serves all its types: clients send what their build was made for.
func configuration() []string {
	return []string{NewestPreview, "2025-04-01", "2025-03-01", "2024-11-02-preview", "2024-11-01-preview", "2024-11-01",
		"2024-06-01-preview", "2024-04-01-preview", "2023-05-01-preview", "2023-05-01", "2022-11-01",
		"2022-07-01", "2022-04-02-preview", "2022-03-01", "2022-01-15-preview", "2022-01-01-preview",
		"2021-11-01-preview", "2021-09-01", "2021-06-01-preview", "2021-05-01-preview", "2021-03-01",
		"2020-10-01-preview", "2020-07-01-preview", "2019-11-01-preview"}
}

// Known reports whether resourceType is served in version.
func Known(resourceType, version string) bool {
	list := Of(resourceType)
	if list == nil {
		return dated.MatchString(version)
	}
	return slices.Contains(list, strings.ToLower(version))
}

// field is one row of the table: a path in the properties ("*" is any key),
// the first stable and the first preview version that have it, and the last
// that has it (empty: all later ones do).
type field struct {
	path    string
	stable  string
	preview string
	until   string
}

func fields(resourceType string) []field {
	switch {
	case strings.EqualFold(resourceType, resource.TypeFluxConfiguration):
		return append(previewFields(), []field{
			{path: "bucket", stable: "2022-03-01", preview: "2022-01-01"},
			{path: "azureBlob", stable: "2022-07-01", preview: "2022-04-02"},
			{path: "waitForReconciliation", stable: "2023-05-01", preview: "2024-04-01"},
			{path: "reconciliationWaitDuration", stable: "2023-05-01", preview: "2024-04-01"},
			{path: "kustomizations.*.wait", stable: "2023-05-01", preview: "2024-04-01"},
			{path: "kustomizations.*.postBuild", stable: "2023-05-01", preview: "2024-04-01"},
			{path: "gitRepository.provider", stable: "2024-11-01", preview: "2024-04-01"},
			{path: "ociRepository", stable: "2025-03-01", preview: "2024-04-01"},
		}...)
	case strings.EqualFold(resourceType, resource.TypeExtension):
		return []field{
			{path: "installState", until: "2021-05-01"},
			{path: "installedVersion", until: "2022-03-01"},
			{path: "currentVersion", stable: "2022-07-01", preview: "2022-04-02"},
			{path: "isSystemExtension", stable: "2022-07-01", preview: "2022-04-02"},
			{path: "autoUpgradeMode", stable: "2025-03-01", preview: "2025-03-01"},
			{path: "extensionState", stable: "2025-03-01", preview: "2025-03-01"},
			{path: "managementDetails", stable: "2025-03-01", preview: "2025-03-01"},
			{path: "additionalDetails", stable: "2025-03-01", preview: "2025-03-01"},
		}
	case strings.EqualFold(resourceType, resource.TypeConnectedCluster):
		return []field{
			{path: "privateLinkState", stable: "2024-01-01", preview: "2021-04-01"},
			{path: "privateLinkScopeResourceId", stable: "2024-01-01", preview: "2021-04-01"},
			{path: "distributionVersion", stable: "2024-01-01", preview: "2022-10-01"},
			{path: "azureHybridBenefit", stable: "2024-01-01", preview: "2022-10-01"},
			{path: "aadProfile", stable: "2024-01-01", preview: "2023-11-01"},
			{path: "arcAgentProfile", stable: "2024-01-01", preview: "2023-11-01"},
			{path: "miscellaneousProperties", stable: "2024-01-01", preview: "2022-10-01"},
			{path: "oidcIssuerProfile", stable: "2026-05-01", preview: "2024-07-01"},
			{path: "securityProfile", stable: "2026-05-01", preview: "2024-07-01"},
			{path: "gateway", stable: "2026-05-01", preview: "2024-07-01"},
		}
	default:
		return nil
	}
}

// previewFields came with the newest preview only.
func previewFields() []field {
	paths := []string{"gitRepository.sparseCheckout", "kustomizations.*.additionalConfigurations", "kustomizations.*.suspend",
		"kustomizations.*.kubeConfig", "reconcileRequestedAt", "lastHandledReconcileAt"}
	for _, body := range []string{"gitRepository", "bucket", "azureBlob", "ociRepository"} {
		paths = append(paths, body+".objectLevelIdentity", body+".additionalConfigurations")
	}
	var out []field
	for _, p := range paths {
		out = append(out, field{path: p, stable: never, preview: "2026-07-01"})
	}
	return out
}

func (f field) in(version string) bool {
	date, suffix, _ := strings.Cut(version+"#", "#")
	if len(date) > 10 {
		date, suffix = date[:10], date[10:]
	}
	since := f.stable
	if strings.HasPrefix(suffix, "-") {
		since = f.preview
	}
	return date >= since && (f.until == "" || date <= f.until)
}

// hidden lists the paths that version of resourceType does not have.
func hidden(resourceType, version string) [][]string {
	var out [][]string
	for _, f := range fields(resourceType) {
		if !f.in(strings.ToLower(version)) {
			out = append(out, strings.Split(f.path, "."))
		}
	}
	return out
}

// Strip removes from properties, in place, what version does not have.
func Strip(resourceType, version string, properties map[string]any) {
	for _, path := range hidden(resourceType, version) {
		drop(properties, path)
	}
}

// Project brings properties, in place, from the internal shape into that of
// version.
func Project(resourceType, version string, properties map[string]any) {
	Strip(resourceType, version, properties)
	write(resourceType, strings.ToLower(version), properties)
}

// Carry prepares properties that a client of version sent to replace stored:
// what version does not have is removed from sent and taken over from stored,
// where stored has it. Both are JSON in the internal shape; stored may be nil.
func Carry(resourceType, version string, sent, stored map[string]any) {
	for _, path := range hidden(resourceType, version) {
		drop(sent, path)
		carry(sent, stored, path)
	}
}

func drop(m map[string]any, path []string) {
	if len(path) == 1 {
		delete(m, path[0])
		return
	}
	for _, child := range children(m, path[0]) {
		if next, ok := m[child].(map[string]any); ok {
			drop(next, path[1:])
		}
	}
}

func carry(sent, stored map[string]any, path []string) {
	if len(path) == 1 {
		if v, ok := stored[path[0]]; ok {
			sent[path[0]] = v
		}
		return
	}
	for _, child := range children(sent, path[0]) {
		next, ok := sent[child].(map[string]any)
		old, had := stored[child].(map[string]any)
		if ok && had {
			carry(next, old, path[1:])
		}
	}
}

func children(m map[string]any, step string) []string {
	if step != "*" {
		return []string{step}
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}
