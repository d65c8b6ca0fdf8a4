package apply

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Ignores are fields that others may change once an object exists. The zero
// value ignores nothing.
type Ignores []ignoreRule

type ignoreRule struct {
	target *jsondiff.SelectorRegex
	paths  []pointer
}

// CompileIgnores reads spec.ignore; its errors name the rule and the field.
func CompileIgnores(rules []kustomizev1.IgnoreRule) (Ignores, error) {
	var out Ignores
	for i, r := range rules {
		var c ignoreRule
		if t := r.Target; t != nil {
			var err error
			c.target, err = jsondiff.NewSelectorRegex(&jsondiff.Selector{
				Group: t.Group, Version: t.Version, Kind: t.Kind, Name: t.Name, Namespace: t.Namespace,
				AnnotationSelector: t.AnnotationSelector, LabelSelector: t.LabelSelector,
			})
			if err != nil {
				return nil, fmt.Errorf("spec.ignore[%d].target: %w", i, err)
			}
		}
		for j, p := range r.Paths {
			at, err := parsePointer(p)
			if err != nil {
				return nil, fmt.Errorf("spec.ignore[%d].paths[%d]: %w", i, j, err)
			}
			c.paths = append(c.paths, at)
		}
		out = append(out, c)
	}
	return out, nil
}

func (g Ignores) of(u *unstructured.Unstructured) []pointer {
	var out []pointer
	for _, r := range g {
		if r.target.MatchUnstructured(u) {
			out = append(out, r.paths...)
		}
	}
	return out
}

// yield gives a copy of an object that leaves ignored fields as they are in the
// cluster: a field that somebody else owns is left out, and one that nobody
// else owns keeps its present value, since leaving it out would remove it.
func yield(u, live *unstructured.Unstructured, paths []pointer, manager string) (*unstructured.Unstructured, error) {
	u = u.DeepCopy()
	for _, p := range paths {
		want, wanted := p.get(u.Object)
		have, exists := p.get(live.Object)
		if wanted == exists && reflect.DeepEqual(want, have) {
			continue
		}
		others, err := ownedByOthers(live, p, manager)
		if err != nil {
			return nil, err
		}
		if others || !exists {
			p.remove(u.Object)
			continue
		}
		p.set(u.Object, have)
	}
	return u, nil
}

func ownedByOthers(live *unstructured.Unstructured, p pointer, manager string) (bool, error) {
	for _, f := range live.GetManagedFields() {
		if f.FieldsV1 == nil || f.Manager == manager {
			continue
		}
		var set map[string]any
		if err := json.Unmarshal(f.FieldsV1.GetRawBytes(), &set); err != nil {
			return false, fmt.Errorf("read managed fields of %q: %w", f.Manager, err)
		}
		if p.within(set, live.Object) {
			return true, nil
		}
	}
	return false, nil
}

// pointer is a JSON pointer (RFC 6901), unescaped.
type pointer []string

func parsePointer(text string) (pointer, error) {
	rest, ok := strings.CutPrefix(text, "/")
	if !ok || rest == "" {
		return nil, fmt.Errorf("%q is no JSON pointer: it must begin with / and name a field", text)
	}
	parts := strings.Split(rest, "/")
	for i, s := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(s, "~1", "/"), "~0", "~")
	}
	return parts, nil
}

func step(node any, key string) (any, bool) {
	switch n := node.(type) {
	case map[string]any:
		v, ok := n[key]
		return v, ok
	case []any:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n) {
			return n[i], true
		}
	}
	return nil, false
}

func (p pointer) get(node any) (any, bool) {
	for _, key := range p {
		var ok bool
		if node, ok = step(node, key); !ok {
			return nil, false
		}
	}
	return node, true
}

func (p pointer) remove(root map[string]any) {
	last := p[len(p)-1]
	parent, ok := p[:len(p)-1].get(root)
	if m, isMap := parent.(map[string]any); ok && isMap {
		delete(m, last)
	}
	if list, isList := parent.([]any); ok && isList && len(p) > 1 {
		if _, found := step(list, last); found {
			i, _ := strconv.Atoi(last)
			p[:len(p)-1].set(root, append(list[:i:i], list[i+1:]...))
		}
	}
}

// set does nothing where the parent of the field is not there.
func (p pointer) set(root map[string]any, value any) {
	parent, ok := p[:len(p)-1].get(root)
	if !ok {
		return
	}
	switch n := parent.(type) {
	case map[string]any:
		n[p[len(p)-1]] = value
	case []any:
		if i, err := strconv.Atoi(p[len(p)-1]); err == nil && i >= 0 && i < len(n) {
			n[i] = value
		}
	}
}

// within reports whether a set of managed fields holds the field. A set that
// ends above it is of something that is owned as a whole.
func (p pointer) within(set map[string]any, node any) bool {
	for _, key := range p {
		if len(set) == 0 {
			return true
		}
		next, ok := set[member(set, node, key)].(map[string]any)
		if !ok {
			return false
		}
		set = next
		node, _ = step(node, key)
	}
	return true
}

// member names a field or an item of a list in a set of managed fields.
func member(set map[string]any, node any, key string) string {
	if _, isList := node.([]any); !isList {
		return "f:" + key
	}
	item, _ := step(node, key)
	for name := range maps.Keys(set) {
		kind, raw, _ := strings.Cut(name, ":")
		var want any
		if json.Unmarshal([]byte(raw), &want) != nil {
			continue
		}
		if kind == "v" && fmt.Sprint(want) == fmt.Sprint(item) {
			return name
		}
		if keys, ok := want.(map[string]any); ok && kind == "k" && hasKeys(item, keys) {
			return name
		}
	}
	return ""
}

func hasKeys(item any, keys map[string]any) bool {
	m, ok := item.(map[string]any)
	if !ok {
		return false
	}
	for k, v := range keys {
		if fmt.Sprint(m[k]) != fmt.Sprint(v) {
			return false
		}
	}
	return true
}
