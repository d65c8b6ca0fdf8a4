package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/cloud"
	"headwater.dev/kernel/oci"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/secret"
	"headwater.dev/kernel/verify"
)

// door is how a specification wants a registry to be reached.
type door struct {
	url                 string
	insecure            bool
	provider            string
	serviceAccount      string
	secret, cert, proxy *meta.LocalObjectReference
}

// registryOptions reads the credentials that a specification names.
func (l *loops) registryOptions(ctx context.Context, obj client.Object, d door) (oci.Options, error) {
	o := oci.Options{Insecure: d.insecure, LoopbackProxy: l.host.Options.LoopbackProxies}
	identity := d.provider != "" && d.provider != sourcev1.GenericOCIProvider
	if identity && d.secret == nil {
		if err := l.ownIdentity(d.serviceAccount, d.cert != nil || d.proxy != nil); err != nil {
			return o, err
		}
	}
	names, err := l.pullSecrets(ctx, obj, d)
	if err != nil {
		return o, err
	}
	for _, name := range names {
		r, err := l.registries(ctx, obj, name, hostOf(d.url))
		if err != nil {
			return o, err
		}
		o.Registries = append(o.Registries, r)
	}
	if d.cert != nil {
		if o.TLS, err = l.certificates(ctx, obj, d.cert.Name); err != nil {
			return o, err
		}
	}
	if d.proxy != nil {
		if o.Proxy, err = l.proxy(ctx, obj, d.proxy.Name); err != nil {
			return o, err
		}
	}
	if len(o.Registries) == 0 && identity {
		if d.insecure {
			return o, phase.Stalled(sourcev1.InvalidProviderConfigurationReason, errors.New("spec.insecure: the credentials of a provider are not sent without TLS: remove it, or spec.provider"))
		}
		login, err := l.host.Cloud.Registry(ctx, d.provider, d.url, l.host.Cloud.Options(obj, d.serviceAccount, o.Proxy)...)
		if err != nil {
			return o, cloudFailed(err)
		}
		o.Login = &secret.Registry{Username: login.Username, Password: login.Password, Token: login.Identity}
	}
	return o, nil
}

// cloudFailed is the error of a provider that gives no credentials.
func cloudFailed(err error) error {
	if errors.Is(err, cloud.ErrUnsupported) {
		return phase.Stalled(sourcev1.InvalidProviderConfigurationReason, fmt.Errorf("spec.provider: %w", err))
	}
	return phase.Transient(sourcev1.AuthenticationFailedReason, fmt.Errorf("failed to get credential from the provider: %w", err))
}

// pullSecrets names the Secrets with credentials: the one that the
// specification names, and those of its service account.
func (l *loops) pullSecrets(ctx context.Context, obj client.Object, d door) ([]string, error) {
	list := names(d.secret)
	if d.serviceAccount == "" {
		return list, nil
	}
	var account corev1.ServiceAccount
	key := client.ObjectKey{Namespace: obj.GetNamespace(), Name: d.serviceAccount}
	err := l.host.Manager.GetAPIReader().Get(ctx, key, &account)
	if apierrors.IsNotFound(err) {
		return nil, phase.Waiting(sourcev1.AuthenticationFailedReason, l.host.Options.RequeueDependency,
			fmt.Errorf("failed to get authentication: spec.serviceAccountName: service account %q not found", key))
	}
	if err != nil {
		return nil, phase.Transient(sourcev1.AuthenticationFailedReason, fmt.Errorf("failed to get authentication: spec.serviceAccountName: %w", err))
	}
	for _, s := range account.ImagePullSecrets {
		if !slices.Contains(list, s.Name) {
			list = append(list, s.Name)
		}
	}
	return list, nil
}

// trust is whom a specification trusts to sign.
type trust struct {
	kind        string // of the objects that say so
	provider    string
	secret      *meta.LocalObjectReference
	trustedRoot *meta.LocalObjectReference
	identities  []sourcev1.OIDCIdentityMatch
}

func ociTrust(v *sourcev1.OCIRepositoryVerification) trust {
	return trust{sourcev1.OCIRepositoryKind, v.Provider, v.SecretRef, v.TrustedRootSecretRef, v.MatchOIDCIdentity}
}

func chartTrust(v *sourcev1.HelmChartVerification) trust {
	return trust{kind: sourcev1.HelmChartKind, provider: v.Provider, secret: v.SecretRef, identities: v.MatchOIDCIdentity}
}

// how names the way of verification in messages.
func (t trust) how() string {
	if t.provider == "cosign" && t.secret == nil {
		return "cosign keyless"
	}
	return t.provider
}

// Keys of the Secrets of verification.
const (
	policyKey      = "trustpolicy.json"
	trustedRootKey = "trusted_root.json"
)

// verdict is what a check of a signature came to.
type verdict int

const (
	unchecked verdict = iota // the settings want no check
	knownGood                // it was checked before
	newlyGood
)

// checkSignature checks that who is trusted has signed a digest. What was
// checked before, with the same settings, is not checked again as long as the
// status says so too.
func (l *loops) checkSignature(ctx context.Context, obj phase.Object, repo *oci.Repository, digest string, t trust) (verdict, error) {
	data, err := l.trustData(ctx, obj, t)
	if err != nil {
		return unchecked, err
	}
	seen := fingerprint(repo.Reference(digest), t, data)
	notes, key := l.notes(t.kind), client.ObjectKeyFromObject(obj)
	if _, ok := notes.Get(key, seen); ok && conditions.IsTrue(obj, sourcev1.SourceVerifiedCondition) {
		return knownGood, nil
	}
	v, err := l.verifier(ctx, t, data)
	if err == nil {
		err = v.Verify(ctx, repo, digest)
	}
	if errors.Is(err, verify.ErrSkipped) {
		return unchecked, nil
	}
	if err != nil {
		notes.Forget(key)
		return unchecked, verificationFailed(t, err)
	}
	notes.Set(key, seen, "verified")
	return newlyGood, nil
}

func verificationFailed(t trust, err error) error {
	wrapped := fmt.Errorf("failed to verify the signature using provider '%s': %w", t.how(), err)
	var rate *oci.RateError
	switch {
	case errors.Is(err, verify.ErrConfig):
		return phase.Stalled(sourcev1.VerificationError, wrapped)
	case errors.As(err, &rate) && rate.After > 0:
		return phase.RetryAfter(sourcev1.VerificationError, rate.After, wrapped)
	}
	return phase.Transient(sourcev1.VerificationError, wrapped)
}

// trustData reads the Secrets of verification. Keys, certificates and policies
// are under their own names.
func (l *loops) trustData(ctx context.Context, obj client.Object, t trust) (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, ref := range []*meta.LocalObjectReference{t.secret, t.trustedRoot} {
		if ref == nil {
			continue
		}
		s, err := secret.Load(ctx, l.client, obj.GetNamespace(), ref.Name)
		if errors.Is(err, secret.ErrMissing) {
			return nil, phase.Waiting(sourcev1.VerificationError, l.host.Options.RequeueDependency, verificationFailed(t, err))
		}
		if err != nil {
			return nil, verificationFailed(t, err)
		}
		if ref == t.trustedRoot && len(s.Data[trustedRootKey]) == 0 {
			return nil, verificationFailed(t, fmt.Errorf("%w: secret %q lacks the key %s", verify.ErrConfig, s.Ref, trustedRootKey))
		}
		maps.Copy(all, s.Data)
	}
	return all, nil
}

// verifier makes the verifier of a specification.
func (l *loops) verifier(ctx context.Context, t trust, data map[string][]byte) (verify.Verifier, error) {
	switch {
	case t.provider == "notation" && t.secret == nil:
		return nil, fmt.Errorf("%w: spec.verify.secretRef must name a Secret with %s and certificates", verify.ErrConfig, policyKey)
	case t.provider == "notation":
		if len(data[policyKey]) == 0 {
			return nil, fmt.Errorf("%w: the Secret of spec.verify.secretRef lacks the key %s", verify.ErrConfig, policyKey)
		}
		return verify.NewNotation(data[policyKey], withSuffix(data, ".crt", ".pem"))
	case t.provider != "cosign":
		return nil, fmt.Errorf("%w: spec.verify.provider: %q is not supported: use cosign or notation", verify.ErrConfig, t.provider)
	case t.secret != nil:
		keys := withSuffix(data, ".pub")
		if len(keys) == 0 {
			return nil, fmt.Errorf("%w: the Secret of spec.verify.secretRef has no key that ends in .pub", verify.ErrConfig)
		}
		return verify.NewKeys(keys)
	}
	return l.keyless(ctx, t, data)
}

func (l *loops) keyless(ctx context.Context, t trust, data map[string][]byte) (verify.Verifier, error) {
	var identities []verify.Identity
	for _, m := range t.identities {
		identities = append(identities, verify.Identity{Issuer: m.Issuer, Subject: m.Subject})
	}
	if t.trustedRoot != nil {
		trusted, err := verify.ParseTrustedRoot(data[trustedRootKey])
		if err != nil {
			return nil, fmt.Errorf("spec.verify.trustedRootSecretRef: %w", err)
		}
		return verify.NewKeyless(trusted, identities)
	}
	trusted, err := l.sigstore.Trusted(ctx)
	if err != nil {
		return nil, err
	}
	return verify.NewKeyless(trusted, identities)
}

func withSuffix(data map[string][]byte, suffixes ...string) map[string][]byte {
	found := map[string][]byte{}
	for k, v := range data {
		if slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(k, s) }) {
			found[k] = v
		}
	}
	return found
}

// fingerprint is the same for the same question to a verifier.
func fingerprint(reference string, t trust, data map[string][]byte) string {
	h := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(data)) {
		fmt.Fprintf(h, "%q %x\n", k, sha256.Sum256(data[k]))
	}
	settings, _ := json.Marshal(t.identities) // strings always encode
	fmt.Fprintf(h, "%q %q %s", reference, t.how(), settings)
	return hex.EncodeToString(h.Sum(nil))
}
