package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/types"
)

var (
	// anchored finds documents that may use YAML aliases: both signs begin a
	// node, which begins after one of these.
	anchored = regexp.MustCompile(`(?m)(^|[\s\[{,:-])[&*][^\s,\]}]`)
	// userAt is the start of an SCP-style Git address.
	userAt = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]*@`)
	// beginsRemote is the start of everything that kustomize fetches.
	beginsRemote = regexp.MustCompile(`^(?i:[a-z][a-z0-9+.-]*://|[a-z][a-z0-9-]*@|git::|gh:|https?:|github\.com[/:])`)
	// builtinConfig finds files that configure a built-in plugin.
	builtinConfig = regexp.MustCompile(`(?m)^["']?apiVersion["']?\s*:\s*["']?builtin\b`)
)

// guard refuses what a file of the artifact must not ask for. Every file that
// kustomize reads passes here before kustomize sees it.
func (s *sandbox) guard(rel string, data []byte) error {
	if err := aliasBomb(rel, data); err != nil {
		return s.refuse(err)
	}
	if err := s.guardEnv(rel, data); err != nil {
		return s.refuse(err)
	}
	dir := path.Dir(rel)
	isKustomization := slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(rel))
	if !isKustomization && !s.plugins[rel] && !builtinConfig.Match(data) {
		return nil
	}
	if err := s.guardDocuments(rel, dir, data); err != nil || !isKustomization {
		return err
	}
	if s.pluginDirs[dir] {
		return s.guardPluginDir(rel, dir, data)
	}
	return nil
}

// guardPluginDir allows a directory of plugin configurations to list them, and
// nothing that changes them after they were looked at.
func (s *sandbox) guardPluginDir(rel, dir string, data []byte) error {
	k := &types.Kustomization{}
	if k.Unmarshal(data) != nil {
		return nil // kustomize reports it
	}
	if !onlyResources(k) {
		return s.refuse(fmt.Errorf("%s: a directory of generators, transformers or validators may list resources only", rel))
	}
	for _, r := range k.Resources {
		s.notePlugin(dir, r)
	}
	return nil
}

// notePlugin remembers a file or directory of plugin configurations. What is
// outside is refused when it is read.
func (s *sandbox) notePlugin(dir, value string) {
	p := value
	if !path.IsAbs(p) {
		p = path.Join(mount, dir, p)
	}
	p = path.Clean(p)
	rel, ok := strings.CutPrefix(p, mount+"/")
	if p == mount {
		rel, ok = ".", true
	}
	if value == "" || len(value) > maxPath || !ok || isRemote(value) {
		return
	}
	if !s.IsDir(p) {
		s.plugins[rel] = true
		return
	}
	if real, _, err := s.CleanedAbs(p); err == nil {
		if rel, err := s.rel(string(real)); err == nil {
			s.pluginDirs[rel] = true
		}
	}
}

const (
	// maxPath is the length of the longest path, in bytes.
	maxPath = 4096
	// maxNodes and maxDepth bound what is looked at of one document.
	maxNodes = 1_000_000
	maxDepth = 1_000
)

func (s *sandbox) guardDocuments(rel, dir string, data []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil { // kustomize reports it better, unless it understands it
			if slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(rel)) && (&types.Kustomization{}).Unmarshal(data) == nil {
				return s.refuse(fmt.Errorf("%s: it is no valid YAML: %w", rel, err))
			}
			return nil
		}
		var plain any
		if doc.Decode(&plain) == nil {
			s.noteEncrypted(dir, plain)
		}
		w := &walk{sandbox: s, rel: rel, dir: dir, left: maxNodes}
		if err := w.node("", &doc, 0); err != nil {
			if errors.Is(err, errOwnSchema) {
				return err
			}
			return s.refuse(err)
		}
	}
}

// walk looks at a kustomization as it is written: what is given twice is looked
// at twice. It judges by the names of fields wherever they are, so that a plugin
// configuration is held to the same rules.
type walk struct {
	*sandbox
	rel, dir string
	left     int
}

func (w *walk) node(field string, n *yaml.Node, depth int) error {
	if w.left--; w.left < 0 || depth > maxDepth {
		return fmt.Errorf("%s: it has more than %d nodes, or more than %d levels", w.rel, maxNodes, maxDepth)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return w.node(field, n.Alias, depth+1)
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if err := w.field(textOf(n.Content[i]), n.Content[i+1], depth+1); err != nil {
				return err
			}
		}
	case yaml.ScalarNode:
		return w.guardString(w.rel, w.dir, field, textOf(n))
	default:
		for _, item := range n.Content {
			if err := w.node(field, item, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walk) field(name string, value *yaml.Node, depth int) error {
	name = canonical(name)
	switch name {
	case "helmCharts", "helmChartInflationGenerator", "helmGlobals":
		return fmt.Errorf("%s: %s is not supported: use a HelmRelease", w.rel, name)
	case "kind":
		if textOf(value) == "HelmChartInflationGenerator" {
			return fmt.Errorf("%s: HelmChartInflationGenerator is not supported: use a HelmRelease", w.rel)
		}
	case "openapi":
		if !w.alone {
			w.ownSchema = true
			return errOwnSchema
		}
	}
	return w.node(name, value, depth)
}

// textOf is the text of a scalar, whatever its type; empty for others.
func textOf(n *yaml.Node) string {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		return ""
	}
	var v any
	if err := n.Decode(&v); err == nil {
		if text, ok := v.(string); ok { // binary is decoded
			return text
		}
	}
	return n.Value
}

// canonical is a name as kustomize understands it, which takes no notice of
// case.
func canonical(name string) string {
	for _, known := range []string{
		"helmCharts", "helmChartInflationGenerator", "helmGlobals", "kind", "openapi", "generators", "transformers", "validators", "env", "envs",
		"files", "resources", "bases", "components", "crds", "configurations", "path", "paths", "patchesStrategicMerge", "targetFilePath",
		"valuesFile", "additionalValuesFiles", "argsFromFile",
	} {
		if strings.EqualFold(name, known) {
			return known
		}
	}
	return name
}

func (s *sandbox) guardString(rel, dir, field, value string) error {
	if err := aliasBomb(rel, []byte(value)); err != nil { // patches are documents
		return err
	}
	switch field {
	case "generators", "transformers", "validators":
		// It may be the configuration itself.
		if err := s.guardDocuments(path.Join(dir, "inline"), dir, []byte(value)); err != nil {
			return err
		}
		s.notePlugin(dir, value)
	case "env", "envs":
		s.envs[path.Join(dir, value)] = true
		s.envs[path.Base(value)] = true
	case "files":
		if _, file, ok := strings.Cut(value, "="); ok {
			value = file
		}
	case "resources", "bases", "components", "crds", "configurations", "path", "paths",
		"patchesStrategicMerge", "targetFilePath", "valuesFile", "additionalValuesFiles", "argsFromFile":
	default:
		return nil
	}
	if !isRemote(value) || strings.Contains(value, "\n") && !beginsRemote.MatchString(strings.TrimSpace(value)) { // a patch may hold an address
		return nil
	}
	if s.remote {
		if isRepository(value) {
			return fmt.Errorf("%s: %s: remote base %q is a Git repository, which a build does not fetch: make it a source", rel, field, withoutUser(value))
		}
		s.seen.volatile = true
		return nil
	}
	return fmt.Errorf("%s: %s: remote base %q is not allowed: copy it into the source", rel, field, withoutUser(value))
}

// isRemote is at least as wide as kustomize's own rules for what it fetches.
func isRemote(p string) bool {
	lower := strings.ToLower(strings.TrimSpace(p))
	if strings.Contains(lower, "://") || userAt.MatchString(lower) {
		return true
	}
	for _, prefix := range []string{"git::", "gh:", "http:", "https:", "github.com/", "github.com:"} {
		if strings.HasPrefix(lower, prefix) {
			return true
		}
	}
	return false
}

// isRepository tells remote bases that are no single file.
func isRepository(p string) bool {
	lower := strings.ToLower(strings.TrimSpace(p))
	after, ok := strings.CutPrefix(lower, "https://")
	if !ok {
		after, ok = strings.CutPrefix(lower, "http://")
	}
	file, query, _ := strings.Cut(after, "?")
	return !ok || strings.Contains(file, "//") || strings.Contains(file, ".git/") || strings.HasSuffix(file, ".git") || strings.Contains(file, "/_git/") ||
		strings.Contains(query, "ref=") || strings.Contains(query, "version=") || path.Ext(file) == ""
}

// withoutUser drops a password from an address, for messages.
func withoutUser(p string) string {
	u, err := url.Parse(p)
	if err != nil || u.User == nil {
		return p
	}
	u.User = nil
	return u.String()
}

// guardEnv refuses env files with names without values: kustomize would take
// the values from the environment of the controller.
func (s *sandbox) guardEnv(rel string, data []byte) error {
	if !s.envs[rel] && !s.envs[path.Base(rel)] {
		return nil
	}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(strings.TrimPrefix(line, "\ufeff"))
		if line == "" || strings.HasPrefix(line, "#") || strings.Contains(line, "=") {
			continue
		}
		return fmt.Errorf("%s: line %d: a variable without a value is not supported: write NAME=value", rel, i+1)
	}
	return nil
}

const (
	// maxTransformed objects of one build by kustomize, which compares each with
	// all others.
	maxTransformed = 10_000
	// maxPatched bounds the bytes of patches times the objects they may go into.
	maxPatched = 1 << 30
)

// count bounds what kustomize makes of what it reads, before it does.
func (s *sandbox) count(rel string, data []byte) error {
	if !s.counting {
		return nil
	}
	isKustomization := slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(rel))
	switch ext := path.Ext(rel); {
	case isKustomization || s.patchFiles[rel]:
		s.patches += int64(len(data))
	case ext == ".yaml" || ext == ".yml" || ext == ".json":
		s.documents += int64(bytes.Count(data, []byte("\n---"))) + 1
		if bytes.Contains(data, []byte("List")) {
			s.documents += int64(bytes.Count(data, []byte("kind:")) + bytes.Count(data, []byte(`"kind"`)))
		}
	default:
		s.sources += int64(len(data))
	}
	if s.sources > s.limits.Rendered {
		return s.refuse(fmt.Errorf("the build generates from more than the limit of %d bytes", s.limits.Rendered))
	}
	if limit := int64(min(s.limits.Objects, maxTransformed)); s.documents > limit {
		return s.refuse(fmt.Errorf("the build transforms more than %d objects: split it, or let its kustomizations list resources only", limit))
	}
	if err := mayBegin(s.documents, schema.left.Load()); err != nil {
		return s.refuse(err)
	}
	if s.documents > 0 && s.patches > maxPatched/s.documents {
		return s.refuse(fmt.Errorf("the build applies patches of %d bytes to %d objects: split it", s.patches, s.documents))
	}
	return nil
}

// maxExpanded nodes that YAML aliases may make of a document.
const maxExpanded = 100_000

// aliasBomb refuses aliases that expand to too much or to themselves: kustomize
// expands them without a bound, and the latter would end the process. Documents
// are looked at one by one, and together, whichever way they are taken apart.
func aliasBomb(rel string, data []byte) error {
	wide := bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) // UTF-16
	if !wide && (!bytes.ContainsAny(data, "&") || !anchored.Match(data)) {
		return nil
	}
	parts := [][]byte{data}
	if !wide {
		parts = append(parts, bytes.Split(data, []byte("\n---"))...)
	}
	for _, part := range parts {
		dec := yaml.NewDecoder(bytes.NewReader(part))
		for {
			var doc yaml.Node
			if err := dec.Decode(&doc); err != nil {
				break // the end, or something that kustomize reports better
			}
			w := weighing{sizes: map[*yaml.Node]int{}}
			if n := w.size(&doc); n < 0 || n > max(maxExpanded, 5*len(w.sizes)) {
				return fmt.Errorf("%s: its YAML aliases expand to too much", rel)
			}
		}
	}
	return nil
}

// weighing counts the nodes of a document with aliases expanded.
type weighing struct{ sizes map[*yaml.Node]int }

// size is negative for a node that contains itself.
func (w *weighing) size(n *yaml.Node) int {
	if n == nil {
		return 0
	}
	if size, ok := w.sizes[n]; ok {
		return size
	}
	w.sizes[n] = -1 // until it is known
	total := 1
	for _, child := range append(n.Content[:len(n.Content):len(n.Content)], n.Alias) {
		size := w.size(child)
		if size < 0 {
			return -1
		}
		total = min(total+size, 1<<40)
	}
	w.sizes[n] = total
	return total
}
