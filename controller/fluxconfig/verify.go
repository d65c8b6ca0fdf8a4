package fluxconfig

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

// trustInSecret is the key of verificationConfig that names a Secret of the
// user's; every other key is trust material itself.
const trustInSecret = "secretName"

func trustName(c *config.FluxConfig) string { return c.Name + "-verify" }

// trustOf is the Secret with the keys that an artifact's signature is checked
// against; nil when the configuration brings none. Cosign reads what ends in
// .pub; notation reads what has the names it knows.
func trustOf(c *config.FluxConfig) (*corev1.Secret, error) {
	if c.Spec.SourceKind != "OCIRepository" || c.Spec.OCIRepository == nil || c.Spec.OCIRepository.Verify == nil {
		return nil, nil
	}
	v := c.Spec.OCIRepository.Verify
	data := map[string][]byte{}
	for name, value := range v.Config {
		if name == trustInSecret {
			continue
		}
		text := []byte(value)
		if trimmed := strings.TrimSpace(value); !strings.HasPrefix(trimmed, "-----BEGIN") && !strings.HasPrefix(trimmed, "{") {
			var err error
			if text, err = decode("ociRepository.verify.verificationConfig."+name, text); err != nil {
				return nil, err
			}
		}
		if v.Provider == "cosign" && !strings.HasSuffix(name, ".pub") {
			name += ".pub"
		}
		data[name] = text
	}
	switch {
	case len(data) == 0:
		return nil, nil
	case v.Config[trustInSecret] != "":
		return nil, phase.Stalled("InvalidVerification", fmt.Errorf("ociRepository.verify.verificationConfig: give either %s or keys, not both", trustInSecret))
	}
	return &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: labelled(c, trustName(c)), Data: data}, nil
}

// keepTrust makes that Secret, or removes the one that is no longer wanted.
func (r *reconciler) keepTrust(ctx context.Context, s *scope) error {
	want, err := trustOf(s.obj)
	if err != nil {
		return err
	}
	if want != nil {
		return r.apply(ctx, want)
	}
	stub := &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: labelled(s.obj, trustName(s.obj))}
	u, err := toUnstructured(stub)
	if err != nil || r.live(ctx, u) == nil {
		return err
	}
	return r.deleteOwn(ctx, stub)
}
