package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/konfig"
)

var (
	// anchored finds documents that may use YAML aliases.
	anchored = regexp.MustCompile(`(?m)(^|[\s\[{,:-])[&*][^\s,\]}]`)
	// userAt is the start of an SCP-style Git address.
	userAt = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]*@`)
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
	isKustomization := slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(rel))
	if !isKustomization && !builtinConfig.Match(data) {
		return nil
	}
	return s.guardDocuments(rel, path.Dir(rel), data)
}

func (s *sandbox) guardDocuments(rel, dir string, data []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc any
		if err := dec.Decode(&doc); err != nil {
			return nil // the end, or something that kustomize reports better
		}
		s.noteEncrypted(dir, doc)
		if err := s.guardNode(rel, dir, "", doc); err != nil {
			if errors.Is(err, errOwnSchema) {
				return err
			}
			return s.refuse(err)
		}
	}
}

// guardNode walks a kustomization. It judges by the names of fields wherever
// they are, so that a plugin configuration is held to the same rules.
func (s *sandbox) guardNode(rel, dir, field string, node any) error {
	switch n := node.(type) {
	case map[string]any:
		for key, value := range n {
			if err := s.guardField(rel, dir, key, value); err != nil {
				return err
			}
		}
	case []any:
		for _, item := range n {
			if err := s.guardNode(rel, dir, field, item); err != nil {
				return err
			}
		}
	case string:
		return s.guardString(rel, dir, field, n)
	}
	return nil
}

func (s *sandbox) guardField(rel, dir, key string, value any) error {
	switch key {
	case "helmCharts", "helmChartInflationGenerator", "helmGlobals":
		return fmt.Errorf("%s: %s is not supported: use a HelmRelease", rel, key)
	case "kind":
		if value == "HelmChartInflationGenerator" {
			return fmt.Errorf("%s: HelmChartInflationGenerator is not supported: use a HelmRelease", rel)
		}
	case "openapi":
		if !s.alone {
			s.ownSchema = true
			return errOwnSchema
		}
	}
	return s.guardNode(rel, dir, key, value)
}

func (s *sandbox) guardString(rel, dir, field, value string) error {
	switch field {
	case "generators", "transformers", "validators":
		if strings.Contains(value, "\n") { // an inline plugin configuration
			return s.guardDocuments(rel, dir, []byte(value))
		}
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
	if strings.Contains(value, "\n") || !isRemote(value) {
		return nil
	}
	if s.remote {
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

// aliasBomb lets the YAML library judge aliases, because kustomize expands
// them without a bound.
func aliasBomb(rel string, data []byte) error {
	if !bytes.ContainsAny(data, "&") || !anchored.Match(data) {
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc any
		err := dec.Decode(&doc)
		if err == nil {
			continue
		}
		if strings.Contains(err.Error(), "excessive aliasing") {
			return fmt.Errorf("%s: its YAML aliases expand to too much", rel)
		}
		return nil
	}
}
