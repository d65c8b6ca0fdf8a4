package kustomize

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/manifest"
	"headwater.dev/kernel/tenant"
)

// store keeps what is known across restarts, a file for each Kustomization.
// It only saves work: a file that is missing, damaged or of another object is
// as good as none. The zero store keeps nothing.
type store struct{ dir string }

// kept is the content of a file.
type kept struct {
	UID        types.UID
	Generation int64
	Identity   tenant.Identity
	Record     []byte
	Artifact   string
	Digest     string
	Refs       []apply.Ref
	Foreign    []apply.Ref
	Requested  string
	Receipts   []apply.Receipt
}

func (s store) file(key types.NamespacedName) string {
	return filepath.Join(s.dir, key.Namespace, key.Name+".json")
}

// load gives what was kept for an object, and how its objects were left.
func (s store) load(key types.NamespacedName, uid types.UID) (known, []apply.Receipt, bool) {
	if s.dir == "" {
		return known{}, nil, false
	}
	raw, err := os.ReadFile(s.file(key))
	if err != nil {
		return known{}, nil, false
	}
	sum, body, _ := bytes.Cut(raw, []byte("\n"))
	var k kept
	if string(sum) != sumOf(body) || json.Unmarshal(body, &k) != nil || k.UID != uid {
		return known{}, nil, false
	}
	record, err := manifest.UnmarshalRecord(k.Record)
	if err != nil {
		return known{}, nil, false
	}
	return known{
		generation: k.Generation, identity: k.Identity, record: record, artifact: k.Artifact, digest: k.Digest,
		refs: k.Refs, foreign: k.Foreign, requested: k.Requested, tried: try{k.Generation, k.Requested}, restored: true,
	}, k.Receipts, true
}

// save replaces what is kept for an object.
func (s store) save(key types.NamespacedName, uid types.UID, n known, receipts []apply.Receipt) error {
	if s.dir == "" {
		return nil
	}
	record, err := n.record.Marshal()
	if err != nil {
		return fmt.Errorf("keep the record of %s: %w", key, err)
	}
	body, err := json.Marshal(kept{
		UID: uid, Generation: n.generation, Identity: n.identity, Record: record, Artifact: n.artifact, Digest: n.digest,
		Refs: n.refs, Foreign: n.foreign, Requested: n.requested, Receipts: receipts,
	})
	if err != nil {
		return fmt.Errorf("keep the record of %s: %w", key, err)
	}
	file := s.file(key)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("keep the record of %s: %w", key, err)
	}
	raw := append([]byte(sumOf(body)+"\n"), body...)
	// A write that is cut off leaves a damaged file, which counts as none.
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return fmt.Errorf("keep the record of %s: %w", key, err)
	}
	return nil
}

// forget removes what is kept for an object.
func (s store) forget(key types.NamespacedName) {
	if s.dir != "" {
		_ = os.Remove(s.file(key)) // a file that stays is recognised as old
	}
}

// sweep removes what is kept of objects that do not exist.
func (s store) sweep(exists func(types.NamespacedName) bool) {
	files, err := filepath.Glob(filepath.Join(s.dir, "*", "*"))
	if err != nil || s.dir == "" {
		return
	}
	for _, f := range files {
		name, ok := strings.CutSuffix(filepath.Base(f), ".json")
		if !ok || !exists(types.NamespacedName{Namespace: filepath.Base(filepath.Dir(f)), Name: name}) {
			_ = os.Remove(f)
		}
	}
}

func sumOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}
