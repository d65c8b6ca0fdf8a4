package validate

import (
	"reflect"
	"strings"

	"headwater.dev/api/resource"
)

// MergeConfiguration applies the properties of a PATCH to the stored ones, both
// as JSON objects: absent keeps, a value sets, null resets; a kustomization that
// is null is removed. Naming a new sourceKind clears the other kinds' bodies, as
// does {} or null for them. Properties that only PUT can set are a problem
// unless they repeat what is stored.
func MergeConfiguration(p *Problems, stored, patch map[string]any) map[string]any {
	for _, key := range []string{"scope", "namespace", "waitForReconciliation", "reconciliationWaitDuration"} {
		if v, ok := patch[key]; ok && v != nil && !reflect.DeepEqual(v, stored[key]) {
			p.Add("properties."+key, "cannot be changed with PATCH: use PUT, or delete the configuration and create it again")
		}
		delete(patch, key)
	}
	merged := merge(stored, patch)
	kind, _ := merged["sourceKind"].(string)
	_, changed := patch["sourceKind"]
	for body, of := range bodies() {
		if strings.EqualFold(of, kind) {
			continue
		}
		sent, mentioned := patch[body]
		o, isObject := sent.(map[string]any)
		if mentioned && isObject && len(o) == 0 || changed && !mentioned {
			delete(merged, body)
		}
	}
	return merged
}

// MergeExtension applies the properties of a PATCH to the stored ones.
// configurationSettings merge key by key; null removes a key.
func MergeExtension(p *Problems, stored, patch map[string]any) map[string]any {
	for _, key := range []string{"extensionType", "scope"} {
		if v, ok := patch[key]; ok && v != nil && !sameJSON(v, stored[key]) {
			p.Add("properties."+key, "cannot be changed: delete the extension and create it again")
		}
		delete(patch, key)
	}
	return merge(stored, patch)
}

// MergeTags applies the tags of a PATCH: a value sets, null removes.
func MergeTags(p *Problems, stored map[string]string, patch any) map[string]string {
	m, ok := patch.(map[string]any)
	if !ok {
		p.Add("tags", "must be an object of strings")
		return stored
	}
	out := map[string]string{}
	for k, v := range stored {
		out[k] = v
	}
	for k, v := range m {
		switch s := v.(type) {
		case string:
			out[k] = s
		case nil:
			delete(out, k)
		default:
			p.Add("tags."+k, "must be a string")
		}
	}
	return out
}

// Merge is a JSON merge patch (RFC 7396); neither argument is changed.
func merge(stored, patch map[string]any) map[string]any {
	out := make(map[string]any, len(stored))
	for k, v := range stored {
		out[k] = v
	}
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(out, k)
		case map[string]any:
			old, _ := out[k].(map[string]any)
			out[k] = merge(old, v)
		default:
			out[k] = v
		}
	}
	return out
}

func sameJSON(a, b any) bool {
	if s, ok := a.(string); ok {
		t, ok := b.(string)
		return ok && strings.EqualFold(s, t)
	}
	return reflect.DeepEqual(a, b)
}

// bodies maps the property of a source's body to its kind.
func bodies() map[string]string {
	return map[string]string{
		"gitRepository": resource.SourceGitRepository, "bucket": resource.SourceBucket,
		"azureBlob": resource.SourceAzureBlob, "ociRepository": resource.SourceOCIRepository,
	}
}
