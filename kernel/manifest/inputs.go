package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"

	"headwater.dev/kernel/process"
)

// Inputs digests everything that a build depends on beside the artifact: the
// fields of the specification that it reads, the values of the variables, the
// keys, the options, and the version of this program. Root is not read.
func (r Request) Inputs() string {
	h := sha256.New()
	enc := json.NewEncoder(h) // keys of maps are sorted
	spec := kustomizev1.KustomizationSpec{}
	if r.Spec != nil {
		spec = kustomizev1.KustomizationSpec{
			Path: r.Spec.Path, TargetNamespace: r.Spec.TargetNamespace, NamePrefix: r.Spec.NamePrefix, NameSuffix: r.Spec.NameSuffix,
			Patches: r.Spec.Patches, Images: r.Spec.Images, Components: r.Spec.Components,
			IgnoreMissingComponents: r.Spec.IgnoreMissingComponents, BuildMetadata: r.Spec.BuildMetadata,
			CommonMetadata: r.Spec.CommonMetadata,
		}
	}
	keys := ""
	if r.Decrypt != nil {
		keys = r.Decrypt.Digest()
	}
	options := []any{recordMagic, process.Version(), r.RemoteBases, r.KeepEncrypted, r.Decrypt != nil, keys, r.Variables != nil}
	if v := r.Variables; v != nil {
		options = append(options, v.always, v.strict, v.values)
	}
	if err := enc.Encode([]any{spec, options}); err != nil {
		return "" // fits nothing
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
