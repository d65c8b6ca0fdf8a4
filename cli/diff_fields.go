package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// masked stands for values of Secrets.
const masked = "***"

// difference is a field that would change. A value that is nil is not there.
type difference struct {
	path     string
	was, now any
	secret   bool
}

// differences of two forms of an object, by path.
func differences(was, now *unstructured.Unstructured) []difference {
	if was == nil || now == nil {
		return nil
	}
	var out []difference
	compareFields("", was.Object, now.Object, &out)
	if now.GetKind() == "Secret" && now.GroupVersionKind().Group == "" {
		for i := range out {
			top, _, _ := strings.Cut(out[i].path, ".")
			// annotations hold what kubectl applied last
			out[i].secret = top == "data" || top == "stringData" || strings.HasPrefix(out[i].path, "metadata.annotations")
		}
	}
	return out
}

func compareFields(path string, was, now any, out *[]difference) {
	if reflect.DeepEqual(was, now) {
		return
	}
	if a, ok := was.(map[string]any); ok {
		if b, ok := now.(map[string]any); ok {
			compareMaps(path, a, b, out)
			return
		}
	}
	a, isList := was.([]any)
	b, isList2 := now.([]any)
	if isList && isList2 {
		compareLists(path, a, b, out)
		return
	}
	*out = append(*out, difference{path: path, was: was, now: now})
}

func compareMaps(path string, was, now map[string]any, out *[]difference) {
	keys := map[string]bool{}
	for k := range was {
		keys[k] = true
	}
	for k := range now {
		keys[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		compareFields(join(path, k), was[k], now[k], out)
	}
}

func join(path, key string) string {
	if strings.ContainsAny(key, "./[]") {
		key = fmt.Sprintf("[%q]", key)
	}
	if path == "" || strings.HasPrefix(key, "[") {
		return path + key
	}
	return path + "." + key
}

// compareLists compares items of the same name, where all have one, else items
// at the same place.
func compareLists(path string, was, now []any, out *[]difference) {
	a, named := byName(was)
	b, named2 := byName(now)
	if named && named2 {
		keys := map[string]bool{}
		for k := range a {
			keys[k] = true
		}
		for k := range b {
			keys[k] = true
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			compareFields(path+"["+k+"]", a[k], b[k], out)
		}
		return
	}
	for i := range max(len(was), len(now)) {
		var x, y any
		if i < len(was) {
			x = was[i]
		}
		if i < len(now) {
			y = now[i]
		}
		compareFields(fmt.Sprintf("%s[%d]", path, i), x, y, out)
	}
}

func byName(list []any) (map[string]any, bool) {
	out := make(map[string]any, len(list))
	for _, item := range list {
		m, _ := item.(map[string]any)
		name, ok := m["name"].(string)
		if _, twice := out[name]; !ok || twice {
			return nil, false
		}
		out[name] = item
	}
	return out, true
}

func (d difference) print(b *strings.Builder) {
	fmt.Fprintf(b, "  %s\n", clean(d.path))
	for _, side := range []struct {
		sign  string
		value any
	}{{"-", d.was}, {"+", d.now}} {
		if side.value == nil {
			continue
		}
		text := masked
		if !d.secret {
			raw, err := json.Marshal(side.value)
			if err != nil {
				raw = []byte(fmt.Sprint(side.value))
			}
			text = string(raw)
		}
		fmt.Fprintf(b, "    %s %s\n", side.sign, clean(text))
	}
}
