package activity

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Change is one field that was added, replaced or removed; Path is a JSON
// pointer into the resource, "" for the resource itself.
type Change struct {
	Op   string `json:"op"`
	Path string `json:"path"`
}

// maxChanges bounds the changes of one entry, maxPath each path in bytes: a change
// whose entry is too large to be kept would leave no trace.
const maxChanges, maxPath = 100, 512

// bookkeeping are the fields of a record that every write changes.
func bookkeeping(name string) bool {
	switch name {
	case "id", "name", "type", "systemData", "operationId", "correlationId", "traceParent", "updatedAt", "protectedVersion", "protectedKeys":
		return true
	}
	return false
}

// diff lists which fields differ between two desired parts. Protected settings
// are one field, whichever of them changed.
func diff(before, after json.RawMessage) []Change {
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil:
		return []Change{{Op: "add"}}
	case after == nil:
		return []Change{{Op: "remove"}}
	}
	var was, is map[string]any
	if json.Unmarshal(before, &was) != nil || json.Unmarshal(after, &is) != nil {
		return []Change{{Op: "replace"}}
	}
	var out []Change
	for _, name := range keys(was, is) {
		switch {
		case bookkeeping(name):
		case name == "protectedHash":
			if !reflect.DeepEqual(was[name], is[name]) {
				out = append(out, Change{Op: op(was, is, name), Path: "/properties/configurationProtectedSettings"})
			}
		default:
			out = walk(out, "", name, was, is)
		}
	}
	if len(out) > maxChanges {
		out = append(out[:maxChanges], Change{Op: "more"})
	}
	for i := range out {
		out[i].Path = clip(out[i].Path, maxPath)
	}
	return out
}

func keys(a, b map[string]any) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

func op(was, is map[string]any, name string) string {
	_, had := was[name]
	_, has := is[name]
	switch {
	case !had:
		return "add"
	case !has:
		return "remove"
	default:
		return "replace"
	}
}

// walk compares one member of two objects, member by member where both are objects.
func walk(out []Change, at, name string, was, is map[string]any) []Change {
	a, b := was[name], is[name]
	if reflect.DeepEqual(a, b) {
		return out
	}
	path := at + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	x, objects := a.(map[string]any)
	y, both := b.(map[string]any)
	if !objects || !both {
		return append(out, Change{Op: op(was, is, name), Path: path})
	}
	for _, inner := range keys(x, y) {
		out = walk(out, path, inner, x, y)
	}
	return out
}
