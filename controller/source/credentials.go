package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/secret"
)

// registries reads credentials of registries: a Docker configuration, or a
// user name and password for one host.
func (l *loops) registries(ctx context.Context, obj client.Object, name, host string) (secret.Registries, error) {
	data, err := l.secret(ctx, obj, name)
	if err != nil {
		return secret.Registries{}, err
	}
	if basic, err := data.Basic(); err == nil && basic != (secret.Basic{}) {
		return secret.ForHost(host, basic), nil
	}
	r, err := data.Docker()
	if err != nil {
		return secret.Registries{}, badSecret(err)
	}
	return r, nil
}

func (l *loops) certificates(ctx context.Context, obj client.Object, name string) (*tls.Config, error) {
	data, err := l.secret(ctx, obj, name)
	if err != nil {
		return nil, err
	}
	t, err := data.TLS()
	if err != nil {
		return nil, badSecret(err)
	}
	return t.Config(), nil
}

// proxy reads the address of a proxy.
func (l *loops) proxy(ctx context.Context, obj client.Object, name string) (*url.URL, error) {
	data, err := l.secret(ctx, obj, name)
	if err != nil {
		return nil, err
	}
	u, err := data.Proxy()
	if err != nil {
		return nil, badSecret(err)
	}
	return u, nil
}

// secret reads a Secret of the object's namespace. A missing one is waited
// for: its creation wakes the object.
func (l *loops) secret(ctx context.Context, obj client.Object, name string) (secret.Secret, error) {
	s, err := secret.Load(ctx, l.client, obj.GetNamespace(), name)
	switch {
	case errors.Is(err, secret.ErrMissing):
		return s, phase.Waiting(sourcev1.AuthenticationFailedReason, l.host.Options.RequeueDependency, fmt.Errorf("failed to get authentication: %w", err))
	case err != nil:
		return s, phase.Transient(sourcev1.AuthenticationFailedReason, fmt.Errorf("failed to get authentication: %w", err))
	}
	return s, nil
}

// badSecret is the error of a Secret whose content cannot be used: a change of
// it wakes the object.
func badSecret(err error) error {
	return phase.Stalled(sourcev1.AuthenticationFailedReason, fmt.Errorf("failed to get authentication: %w", err))
}

// ownIdentity refuses to show the process's own cloud identity through a proxy,
// or to a certificate authority, that an object brings: together they read what
// is sent to the cloud. Whoever names a service account shows that one's.
func (l *loops) ownIdentity(account string, brings bool) error {
	if account != "" || !brings || !l.host.Options.NoCrossNamespaceRefs || l.host.Options.SharedSourceIdentity {
		return nil
	}
	return phase.Stalled(sourcev1.InvalidProviderConfigurationReason, errors.New("spec.provider: the controllers' own identity is not shown "+
		"through a proxy or to a certificate authority of the object: set spec.serviceAccountName, or leave them out (or run the controllers with --shared-source-identity)"))
}
