package versions

import (
	"strings"

	"headwater.dev/api/resource"
)

// Versions until which a property of a fluxConfiguration had another form.
const (
	lastWithCAFile        = "2021-11-01" // gitRepository.httpsCAFile, kustomizations.*.validation
	lastWithNamedSyncTime = "2022-01-15" // lastSourceSynced…, dependsOn of objects
)

// old reports whether version is a preview of up to date last.
func old(version, last string) bool {
	return strings.HasSuffix(version, "-preview") && version[:min(len(version), len(last))] <= last
}

// Read brings properties that a client of version sent, in place, into the
// internal shape. Older forms are understood in every version.
func Read(resourceType string, sent map[string]any) {
	if !strings.EqualFold(resourceType, resource.TypeFluxConfiguration) {
		return
	}
	if git, ok := sent["gitRepository"].(map[string]any); ok {
		rename(git, "httpsCAFile", "httpsCACert")
	}
	eachKustomization(sent, func(k map[string]any) {
		delete(k, "validation")
		list, _ := k["dependsOn"].([]any)
		for i, v := range list {
			if o, ok := v.(map[string]any); ok {
				list[i] = o["kustomizationName"]
			}
		}
	})
}

// write brings properties, in place, into the forms of an old version.
func write(resourceType, version string, properties map[string]any) {
	if !strings.EqualFold(resourceType, resource.TypeFluxConfiguration) || !old(version, lastWithNamedSyncTime) {
		return
	}
	rename(properties, "sourceSyncedCommitId", "lastSourceSyncedCommitId")
	rename(properties, "sourceUpdatedAt", "lastSourceSyncedAt")
	delete(properties, "statusUpdatedAt")
	withCAFile := old(version, lastWithCAFile)
	if git, ok := properties["gitRepository"].(map[string]any); ok && withCAFile {
		rename(git, "httpsCACert", "httpsCAFile")
	}
	eachKustomization(properties, func(k map[string]any) {
		if withCAFile {
			k["validation"] = "none"
		}
		list, _ := k["dependsOn"].([]any)
		for i, name := range list {
			list[i] = map[string]any{"kustomizationName": name}
		}
	})
}

func eachKustomization(properties map[string]any, do func(map[string]any)) {
	all, _ := properties["kustomizations"].(map[string]any)
	for _, v := range all {
		if k, ok := v.(map[string]any); ok {
			do(k)
		}
	}
}

func rename(m map[string]any, from, to string) {
	v, ok := m[from]
	if !ok {
		return
	}
	delete(m, from)
	if _, taken := m[to]; !taken {
		m[to] = v
	}
}
