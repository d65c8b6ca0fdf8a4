package hostpod

import (
	"context"
	"fmt"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

const (
	// tokenLife is what is asked for, in seconds; the API server may give less.
	tokenLife = int64(3600)
	// retryToken is the pause after a token could not be had.
	retryToken = 10 * time.Second
)

func (p *pod) serviceAccount() string {
	if name := p.deployment.Spec.Template.Spec.ServiceAccountName; name != "" {
		return name
	}
	return "default"
}

// writeKubeconfig writes access to the cluster by the token file, which
// clients read again from time to time.
func (p *pod) writeKubeconfig() error {
	const name = "cluster"
	source := p.config.Config
	config := api.NewConfig()
	config.Clusters[name] = &api.Cluster{
		Server: source.Host, CertificateAuthorityData: source.CAData, CertificateAuthority: source.CAFile,
		InsecureSkipTLSVerify: source.Insecure, TLSServerName: source.ServerName,
	}
	config.AuthInfos[name] = &api.AuthInfo{TokenFile: p.file("token")}
	config.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name, Namespace: p.deployment.Namespace}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, p.file("kubeconfig")); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// writeToken gets a token of the service account and returns when it expires.
func (p *pod) writeToken(ctx context.Context) (time.Time, error) {
	life := tokenLife
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &life}}
	accounts := p.client.CoreV1().ServiceAccounts(p.deployment.Namespace)
	token, err := accounts.CreateToken(ctx, p.serviceAccount(), request, metav1.CreateOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("get token of service account %s/%s: %w", p.deployment.Namespace, p.serviceAccount(), err)
	}
	// Renamed into place: no reader sees half a token.
	if err := os.WriteFile(p.file("token.new"), []byte(token.Status.Token), 0o600); err != nil {
		return time.Time{}, fmt.Errorf("write token: %w", err)
	}
	if err := os.Rename(p.file("token.new"), p.file("token")); err != nil {
		return time.Time{}, fmt.Errorf("write token: %w", err)
	}
	return token.Status.ExpirationTimestamp.Time, nil
}

// keepToken renews the token when four fifths of its life are over, until the
// context is cancelled.
func (p *pod) keepToken(ctx context.Context, expires time.Time) {
	for {
		pause := time.Until(expires) * 4 / 5
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(pause, retryToken)):
		}
		renewed, err := p.writeToken(ctx)
		if err != nil {
			if ctx.Err() == nil {
				p.config.Logger.Warn("cannot renew token", "deployment", p.key(), "error", err)
			}
			expires = time.Now()
			continue
		}
		expires = renewed
	}
}
