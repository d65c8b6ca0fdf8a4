// Package manifest renders a directory of an artifact into Kubernetes objects:
// the kustomize build of a Flux Kustomization and what comes after it.
//
// A build sees nothing but the artifact: no file outside it (symbolic links
// included), no network unless remote bases are allowed, no plugin, no Helm, no
// environment. Builds run in parallel and leave nothing behind for each other.
// Each build records what it looked at, so that a later artifact can be
// recognised as giving the same result without building it.
package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
)

// Request says what to build.
type Request struct {
	// Root is the directory of the artifact; nothing outside it is read.
	Root string
	// Files are those of the artifact when they are in no directory; they hold no
	// links. Root counts when they are nil.
	Files fs.FS
	// Spec is the Kustomization's: its path, targetNamespace, name prefix and
	// suffix, patches, images, components, build metadata and common metadata
	// are used. Its postBuild is not: see Variables.
	Spec *kustomizev1.KustomizationSpec
	// RemoteBases allows resources that are fetched over the network.
	RemoteBases bool
	// Decrypt opens what is encrypted with sops; nil means that an encrypted
	// Secret is an error.
	Decrypt Decrypter
	// KeepEncrypted leaves encrypted Secrets as they are, for those who have no
	// keys and apply nothing.
	KeepEncrypted bool
	// Variables of the post-build substitution; nil means none.
	Variables *Variables
	// Limits of the build; the zero value means DefaultLimits.
	Limits Limits
}

// Limits bound what one build may use.
type Limits struct {
	// Reads is how many times files may be read, and Bytes how much.
	Reads int
	Bytes int64
	// Objects and Rendered (bytes of JSON) bound the result.
	Objects  int
	Rendered int64
}

// DefaultLimits let through everything but attacks.
func DefaultLimits() Limits {
	return Limits{Reads: 100_000, Bytes: 256 << 20, Objects: 20_000, Rendered: 128 << 20}
}

// Result is what a build gave.
type Result struct {
	// Objects in the order of the build, which is the same for the same input.
	Objects []*unstructured.Unstructured
	// Opened are those of Objects that may hold what was encrypted: all of them
	// when a patch was, which may be for any.
	Opened []*unstructured.Unstructured
	// Digest of the objects, as sha256:<hex>.
	Digest string
	// Read is what the build looked at.
	Read Record
}

// ErrPath is wrapped by the error for a path that is no directory of the
// artifact.
var ErrPath = errors.New("path not found in the artifact")

// Build renders a directory. Its errors name the file, and the field where one
// is at fault; they hold no value of a variable.
func Build(ctx context.Context, r Request) (*Result, error) {
	if r.Limits == (Limits{}) {
		r.Limits = DefaultLimits()
	}
	rendered, box, err := interruptible(ctx, r)
	if err != nil {
		return nil, err
	}
	objects, opened, err := toObjects(ctx, rendered, r)
	if err != nil {
		return nil, err
	}
	digest, err := digestOf(objects, r.Limits.Rendered)
	if err != nil {
		return nil, err
	}
	if !box.seen.volatile {
		box.seen.Inputs = r.Inputs()
	}
	if box.openedPatch {
		opened = objects
	}
	return &Result{Objects: objects, Opened: opened, Digest: digest, Read: box.seen}, nil
}

// render runs kustomize, or what is the same where that is known: beside others
// when it can, alone when a kustomization brings an OpenAPI schema of its own.
func render(ctx context.Context, r Request) ([]*resource.Resource, *sandbox, error) {
	fs, err := openSandbox(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	defer fs.Close()
	dir, err := fs.directory(r.Spec.Path)
	if err != nil {
		return nil, nil, err
	}
	var found []*resource.Resource
	var k *types.Kustomization
	run := func() (err error) {
		if k == nil {
			if k, err = fs.overlay(dir, r.Spec); err != nil {
				return err
			}
		}
		if flat, ok := fs.flat(dir, k); ok {
			found = flat
			return nil
		}
		if fs.refused != nil || fs.ownSchema != fs.alone {
			return fs.refused
		}
		fs.counting, fs.documents, fs.patches, fs.sources = true, 0, 0, 0
		found, err = kustomize(fs, dir, k.SortOptions != nil)
		return err
	}
	err = withSharedSchema(ctx, run)
	if fs.ownSchema {
		fs.alone = true
		err = withOwnSchema(ctx, run)
	}
	if err != nil {
		return nil, nil, fs.tidy(err)
	}
	return found, fs, nil
}

// kustomize builds one directory; it turns the panics that kustomize has for
// some malformed objects into errors.
func kustomize(fs *sandbox, dir string, sorts bool) (found []*resource.Resource, err error) {
	defer func() {
		if p := recover(); p != nil {
			found, err = nil, fmt.Errorf("kustomize cannot handle this input: %v", p)
		}
	}()
	options := krusty.Options{
		LoadRestrictions: types.LoadRestrictionsNone, // the sandbox restricts
		PluginConfig:     types.DisabledPluginConfig(),
		Reorder:          krusty.ReorderOptionNone,
	}
	if sorts { // kustomize complains when both say something
		options.Reorder = krusty.ReorderOptionUnspecified
	}
	m, err := krusty.MakeKustomizer(&options).Run(fs, dir)
	if err != nil {
		return nil, err
	}
	return m.Resources(), nil
}

// check finds what no API server would take, to say it before anything is
// applied.
func check(u *unstructured.Unstructured) error {
	name := Name(u)
	for field, value := range map[string]string{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), "metadata.name": u.GetName()} {
		if strings.TrimSpace(value) == "" {
			return fmt.Errorf("%s: %s is missing", name, field)
		}
	}
	return nil
}

// isKustomization reports kustomize's own files, which a plain directory may
// hold under other names and which no cluster knows.
func isKustomization(u *unstructured.Unstructured) bool {
	return strings.HasPrefix(u.GetAPIVersion(), "kustomize.config.k8s.io/")
}

func setCommonMetadata(u *unstructured.Unstructured, m *kustomizev1.CommonMetadata) {
	if m == nil {
		return
	}
	if len(m.Labels) > 0 {
		u.SetLabels(merged(u.GetLabels(), m.Labels))
	}
	if len(m.Annotations) > 0 {
		u.SetAnnotations(merged(u.GetAnnotations(), m.Annotations))
	}
}

func merged(into, from map[string]string) map[string]string {
	if into == nil {
		into = make(map[string]string, len(from))
	}
	for k, v := range from {
		into[k] = v
	}
	return into
}

// Name is how messages name an object: Kind/namespace/name.
func Name(u *unstructured.Unstructured) string {
	parts := []string{u.GetKind()}
	if ns := u.GetNamespace(); ns != "" {
		parts = append(parts, ns)
	}
	return strings.Join(append(parts, u.GetName()), "/")
}

func digestOf(objects []*unstructured.Unstructured, limit int64) (string, error) {
	h := sha256.New()
	var n int64
	for _, u := range objects {
		raw, err := json.Marshal(u.Object) // keys are sorted
		if err != nil {
			return "", fmt.Errorf("%s: %w", Name(u), err)
		}
		if n += int64(len(raw)); n > limit {
			return "", fmt.Errorf("the build gives more than the limit of %d bytes", limit)
		}
		h.Write(raw)
		h.Write([]byte{'\n'})
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
