package manifest

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/resource"
)

// toObjects does what comes after kustomize: decryption, substitution, checks
// and the common metadata. The second list are those of the objects that were
// encrypted.
func toObjects(ctx context.Context, found []*resource.Resource, r Request) (objects, opened []*unstructured.Unstructured, err error) {
	if len(found) > r.Limits.Objects {
		return nil, nil, fmt.Errorf("the build gives %d objects, more than the limit of %d", len(found), r.Limits.Objects)
	}
	objects = make([]*unstructured.Unstructured, 0, len(found))
	work := newWork(r.Limits)
	var rendered int64
	for _, res := range found {
		if err := ctx.Err(); err != nil {
			return nil, nil, fmt.Errorf("build interrupted: %w", err)
		}
		raw, err := res.MarshalJSON()
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", res.CurId(), err)
		}
		if rendered += int64(len(raw)); rendered > r.Limits.Rendered {
			return nil, nil, fmt.Errorf("the build gives more than the limit of %d bytes", r.Limits.Rendered)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", res.CurId(), err)
		}
		read := u
		if u, raw, err = decryptObject(ctx, r, u, raw); err != nil {
			return nil, nil, err
		}
		wasSealed := u != read
		if u, err = r.Variables.substitute(u, raw, work); err != nil {
			return nil, nil, err
		}
		if err := check(u); err != nil {
			return nil, nil, err
		}
		if isKustomization(u) {
			continue
		}
		setCommonMetadata(u, r.Spec.CommonMetadata)
		objects = append(objects, u)
		if wasSealed {
			opened = append(opened, u)
		}
	}
	return objects, opened, nil
}

// decryptKey is the annotation that keeps an object as it is: somebody else
// decrypts it.
const decryptKey = "kustomize.toolkit.fluxcd.io/decrypt"

// decryptObject opens an object that is encrypted as a whole, or the entries of
// a Secret that are documents of their own.
func decryptObject(ctx context.Context, r Request, u *unstructured.Unstructured, raw []byte) (*unstructured.Unstructured, []byte, error) {
	_, sealed := u.Object["sops"].(map[string]any)
	switch {
	case strings.EqualFold(u.GetAnnotations()[decryptKey], kustomizev1.DisabledValue):
		return u, raw, nil
	case r.Decrypt == nil && sealed && u.GetKind() == "Secret" && !r.KeepEncrypted:
		return nil, nil, fmt.Errorf("%s is SOPS encrypted, configuring decryption is required for this secret to be reconciled: set spec.decryption", Name(u))
	case r.Decrypt == nil:
		return u, raw, nil
	case sealed:
		plain, err := r.Decrypt.DecryptObject(ctx, raw)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: decryption failed: %w", Name(u), err)
		}
		return parsed(u, plain)
	case u.GetKind() != "Secret":
		return u, raw, nil
	}
	changed, err := decryptEntries(ctx, r.Decrypt, u)
	if err != nil || !changed {
		return u, raw, err
	}
	plain, err := u.MarshalJSON()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", Name(u), err)
	}
	return parsed(u, plain)
}

// parsed reads a decrypted object. What the parser complains of may be secret.
func parsed(was *unstructured.Unstructured, plain []byte) (*unstructured.Unstructured, []byte, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(plain); err != nil {
		return nil, nil, fmt.Errorf("%s: decryption failed: the result is not a Kubernetes object", Name(was))
	}
	return u, plain, nil
}

func decryptEntries(ctx context.Context, keys Decrypter, u *unstructured.Unstructured) (bool, error) {
	data, ok := u.Object["data"].(map[string]any)
	if !ok {
		return false, nil
	}
	changed := false
	for name, value := range data {
		text, _ := value.(string)
		sealed, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			continue // the API server says it better
		}
		from := formatOfContent(sealed)
		if from == "" {
			continue
		}
		plain, err := keys.Decrypt(ctx, sealed, from, formatOf(name))
		if err != nil {
			return false, fmt.Errorf("%s: data %q: decryption failed: %w", Name(u), name, err)
		}
		data[name] = base64.StdEncoding.EncodeToString(plain)
		changed = true
	}
	return changed, nil
}

// formatOf is the format of sops that a name of a file stands for.
func formatOf(name string) string {
	switch {
	case strings.HasSuffix(name, ".yaml"), strings.HasSuffix(name, ".yml"):
		return "yaml"
	case strings.HasSuffix(name, ".json"), strings.HasSuffix(name, corev1.DockerConfigJsonKey):
		return "json"
	case strings.HasSuffix(name, ".env"):
		return "dotenv"
	case strings.HasSuffix(name, ".ini"):
		return "ini"
	}
	return "binary"
}
