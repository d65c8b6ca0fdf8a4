package charts

import (
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMergeValues(t *testing.T) {
	files := map[string]string{"a.yaml": "replicas: 1\nimage: {tag: one, name: app}\n", "b.yaml": "image: {tag: two}\n", "bad.yaml": "{"}
	read := func(name string) ([]byte, error) {
		text, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return []byte(text), nil
	}
	const own = "own: true\n"
	tests := map[string]struct {
		files         []string
		ignoreMissing bool
		used          []string
		values, err   string
	}{
		"later ones go first":                   {files: []string{"a.yaml", "b.yaml"}, used: []string{"a.yaml", "b.yaml"}, values: "image:\n  name: app\n  tag: two\nreplicas: 1\n"},
		"a missing one":                         {files: []string{"a.yaml", "no.yaml"}, values: own, err: `no values file found at path "no.yaml"`},
		"a missing one that may be":             {files: []string{"no.yaml", "b.yaml"}, ignoreMissing: true, used: []string{"b.yaml"}, values: "image:\n  tag: two\n"},
		"all missing: the chart's own are kept": {files: []string{"no.yaml"}, ignoreMissing: true, values: own},
		"one that is no YAML":                   {files: []string{"bad.yaml"}, ignoreMissing: true, values: own, err: `values file "bad.yaml" does not parse as YAML`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := &Bundle{Files: map[string][]byte{"values.yaml": []byte(own)}}
			used, err := b.MergeValues(tt.files, tt.ignoreMissing, read)
			message := ""
			if err != nil {
				message = err.Error()
			}
			if message != tt.err {
				t.Errorf("error %q, want %q", message, tt.err)
			}
			if diff := cmp.Diff(tt.used, used); diff != "" {
				t.Errorf("used (-want +got):\n%s", diff)
			}
			if got := string(b.Files["values.yaml"]); got != tt.values {
				t.Errorf("values %q, want %q", got, tt.values)
			}
		})
	}
}
