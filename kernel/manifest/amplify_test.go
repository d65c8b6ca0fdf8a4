package manifest

import (
	"fmt"
	"strings"
	"testing"
)

// TestA35CopiesOfCopies: an operation doubles an object, a replacement puts a
// large value into many places.
func TestA35CopiesOfCopies(t *testing.T) {
	var ops strings.Builder
	for i := range 30 {
		fmt.Fprintf(&ops, "    - {op: copy, from: /data, path: /data/x%d}\n", i)
	}
	var fields, all strings.Builder
	for i := range 25 {
		fmt.Fprintf(&fields, "data.f%d, ", i)
		fmt.Fprintf(&all, "---\n%s", configMap(fmt.Sprintf("c%d", i)))
	}
	replacements := "resources: [x.yaml]\nreplacements: [{source: {kind: ConfigMap, name: big, fieldPath: data.key}, targets: [{select: {name: 'c.*'}, fieldPaths: [" +
		fields.String() + "], options: {create: true}}]}]\n"
	big := "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: big}\ndata: {key: " + strings.Repeat("x", 1<<20) + "}\n"
	refuse(t, map[string]attack{
		"replacements": {files: map[string]string{"x.yaml": all.String() + big, "kustomization.yaml": replacements}, want: "more than the limit of 4194304 bytes"},
		"patch": {files: map[string]string{"x.yaml": configMap("x"), "kustomization.yaml": "resources: [x.yaml]\npatches:\n- target: {kind: ConfigMap}\n  patch: |\n" + ops.String()},
			want: "copy"},
	})
}
