package compose

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"headwater.dev/kernel/artifact"
)

const (
	// maxYAML is the size of a file that can be merged, maxMerged that of all
	// results of one artifact, in bytes.
	maxYAML   = 4 << 20
	maxMerged = 64 << 20
)

// merge lays the values of one file over those of another, as Helm does with
// values files: maps are merged, everything else is replaced.
func merge(base, overlay artifact.Entry) ([]byte, error) {
	under, err := load(base)
	if err != nil {
		return nil, fmt.Errorf("merge into %.200q: %w", base.Path, err)
	}
	over, err := load(overlay)
	if err != nil {
		return nil, fmt.Errorf("merge %.200q: %w", overlay.Path, err)
	}
	out, err := yaml.Marshal(mergeMaps(under, over))
	if err != nil {
		return nil, fmt.Errorf("merge %.200q: %w", overlay.Path, err)
	}
	return out, nil
}

// load reads the documents of a YAML file, the later laid over the earlier.
func load(e artifact.Entry) (map[string]any, error) {
	if e.Size > maxYAML {
		return nil, fmt.Errorf("has %d bytes; files of at most %d can be merged", e.Size, maxYAML)
	}
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxYAML))
	if err != nil {
		return nil, err
	}
	all := map[string]any{}
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, errors.New("is not YAML")
		}
		var values map[string]any
		if err := yaml.Unmarshal(doc, &values, exactNumbers); err != nil {
			// The parser's words may quote the file.
			return nil, errors.New("is not a YAML map")
		}
		all = mergeMaps(all, values)
	}
}

// exactNumbers keeps large numbers as they are written.
func exactNumbers(d *json.Decoder) *json.Decoder {
	d.UseNumber()
	return d
}

func mergeMaps(base, overlay map[string]any) map[string]any {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range overlay {
		under, isMap := out[k].(map[string]any)
		if over, ok := v.(map[string]any); ok && isMap {
			v = mergeMaps(under, over)
		}
		out[k] = v
	}
	return out
}
