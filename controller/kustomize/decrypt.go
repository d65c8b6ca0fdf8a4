package kustomize

import (
	"context"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/aws/aws-sdk-go-v2/aws"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	"golang.org/x/oauth2"
	corev1 "k8s.io/api/core/v1"

	"headwater.dev/kernel/decrypt"
	"headwater.dev/kernel/manifest"
	"headwater.dev/kernel/phase"
)

// providerSOPS is the only provider of decryption there is.
const providerSOPS = "sops"

// scopeKMS is what tokens for Google's KMS are asked for.
const scopeKMS = "https://www.googleapis.com/auth/cloudkms"

// decryption loads the keys that the Kustomization may decrypt with: those of
// its Secret, read as the tenant, and at the clouds' key services those that
// cloudsOf gives. Nobody else's keys are in reach. It is nil for a Kustomization
// that decrypts nothing.
func (l *loop) decryption(ctx context.Context, s *scope) (manifest.Decrypter, error) {
	d := s.obj.Spec.Decryption
	if d == nil {
		return nil, nil
	}
	if d.Provider != providerSOPS {
		return nil, phase.Stalled(meta.BuildFailedReason, fmt.Errorf("spec.decryption.provider %q is not supported: use %s", d.Provider, providerSOPS))
	}
	if err := serviceAccountName(d.ServiceAccountName); err != nil {
		return nil, phase.Stalled(meta.BuildFailedReason, fmt.Errorf("spec.decryption: %w", err))
	}
	config := decrypt.Config{VaultAddresses: l.options.VaultAddresses, OnlyListedVaults: l.options.NoCrossNamespaceRefs, Clouds: l.cloudsOf(s.obj)}
	if d.SecretRef != nil {
		secret := &corev1.Secret{}
		if err := l.readInput(ctx, s.local, inputRef("Secret", s.obj.Namespace, d.SecretRef.Name), secret); err != nil {
			return nil, l.inputFailed(s.obj, "spec.decryption.secretRef", err)
		}
		config.Secret = secret.Data
	}
	keys, err := decrypt.Load(config)
	if err != nil {
		return nil, phase.RetryAfter(meta.BuildFailedReason, s.obj.GetRetryInterval(), fmt.Errorf("spec.decryption.secretRef: %w", err))
	}
	return keys, nil
}

// cloudsOf gives the credentials of the service account that the Kustomization
// names for decryption, else of the default one, else of this process: in
// lockdown only where that is allowed, because whoever may write a Kustomization
// could decrypt what is meant for others. They are cached by identity.
func (l *loop) cloudsOf(k *kustomizev1.Kustomization) decrypt.Clouds {
	name, identity := k.Spec.Decryption.ServiceAccountName, "controller"
	if name == "" {
		name = l.options.DefaultDecryptionServiceAccount
	}
	if l.clouds == nil || name == "" && l.options.NoCrossNamespaceRefs && !l.options.SharedDecryptionIdentity {
		return decrypt.Clouds{}
	}
	if name != "" {
		identity = "service account " + k.Namespace + "/" + name
	}
	options := func(more ...auth.Option) []auth.Option {
		return append(l.clouds.Options(k, name, nil), more...)
	}
	return decrypt.Clouds{
		Identity: identity,
		AWS: func(ctx context.Context, region string) aws.CredentialsProvider {
			return l.clouds.AWS(ctx, options(auth.WithSTSRegion(region))...)
		},
		Azure: func(ctx context.Context) azcore.TokenCredential { return l.clouds.Azure(ctx, options()...) },
		GCP: func(ctx context.Context) oauth2.TokenSource {
			return l.clouds.GCP(ctx, options(auth.WithScopes(scopeKMS))...)
		},
	}
}
