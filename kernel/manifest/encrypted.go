package manifest

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"
)

// Decrypter opens documents of sops for one Kustomization; see kernel/decrypt.
type Decrypter interface {
	// Decrypt gives the plain text of a document. Formats are json, yaml,
	// dotenv, ini and binary.
	Decrypt(ctx context.Context, data []byte, from, to string) ([]byte, error)
	// DecryptObject gives the plain form of an encrypted object, in JSON.
	DecryptObject(ctx context.Context, data []byte) ([]byte, error)
	// Digest of the keys, for telling whether they changed.
	Digest() string
}

// marker is what every encrypted document of a format holds.
func marker(format string) []byte {
	switch format {
	case "yaml":
		return []byte("mac: ENC[")
	case "dotenv":
		return []byte("sops_mac=ENC[")
	case "ini":
		return []byte("[sops]")
	}
	return []byte(`"mac": "ENC[`)
}

// formatOfContent tells an encrypted document by what it holds; empty for all
// others.
func formatOfContent(data []byte) string {
	for _, format := range []string{"yaml", "dotenv", "ini", "json"} {
		if bytes.Contains(data, marker(format)) {
			return format
		}
	}
	return ""
}

// noteEncrypted remembers the files of a kustomization that may be encrypted:
// what secret generators and patches are read from; and which are patches.
func (s *sandbox) noteEncrypted(dir string, doc any) {
	k, ok := doc.(map[string]any)
	if !ok {
		return
	}
	note := func(file, format string) {
		if file != "" && !strings.Contains(file, "\n") && !path.IsAbs(file) {
			s.encrypted[path.Join(dir, file)] = format
		}
	}
	for _, generator := range tables(k["secretGenerator"]) {
		for _, source := range texts(generator["files"]) {
			key, file, named := strings.Cut(source, "=")
			if !named {
				file = key
			}
			note(file, formatOf(key))
		}
		one, _ := generator["env"].(string)
		for _, file := range append(texts(generator["envs"]), one) {
			format := formatOf(file)
			if format == "binary" {
				format = "dotenv"
			}
			note(file, format)
		}
	}
	patches := texts(k["patchesStrategicMerge"])
	for _, field := range []string{"patches", "patchesJson6902"} {
		for _, patch := range tables(k[field]) {
			file, _ := patch["path"].(string)
			patches = append(patches, file)
		}
	}
	for _, file := range patches {
		note(file, formatOf(file))
		s.patchFiles[path.Join(dir, file)] = true
	}
}

func tables(node any) []map[string]any {
	list, _ := node.([]any)
	var out []map[string]any
	for _, item := range list {
		if m, ok := item.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

func texts(node any) []string {
	list, _ := node.([]any)
	var out []string
	for _, item := range list {
		if text, ok := item.(string); ok {
			out = append(out, text)
		}
	}
	return out
}

// plain opens a file that was noted, in memory. What was opened is held to the
// same rules as what was not encrypted.
func (s *sandbox) plain(rel string, data []byte) ([]byte, error) {
	format, ok := s.encrypted[rel]
	if !ok || s.keys == nil || !bytes.Contains(data, marker(format)) {
		return data, nil
	}
	out, err := s.keys.Decrypt(s.ctx, data, format, format)
	if err != nil {
		return nil, s.refuse(fmt.Errorf("%s: decryption failed: %w", rel, err))
	}
	s.openedPatch = s.openedPatch || s.patchFiles[rel]
	return out, s.guard(rel, out)
}
