package tenant

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Policy says what a kubeconfig that a tenant brings may ask of this process.
// The zero Policy is the safe one.
type Policy struct {
	// InsecureTLS lets it turn off the verification of the server.
	InsecureTLS bool
	// Exec lets it name a command to get credentials from.
	Exec bool
	// Proxy lets it name a proxy.
	Proxy bool
}

// KubeConfig reads a kubeconfig that a tenant wrote. It takes everything from
// the kubeconfig itself: what would read files of this process, run commands or
// weaken the connection is an error that names the entry and the way out. No
// error quotes a credential.
func KubeConfig(raw []byte, p Policy) (*rest.Config, error) {
	loaded, err := clientcmd.Load(raw)
	if err != nil {
		return nil, errors.New("it is no kubeconfig") // the parser's error would quote it
	}
	for name, c := range loaded.Clusters {
		if err := p.cluster(c); err != nil {
			return nil, fmt.Errorf("cluster %q: %w", name, err)
		}
	}
	for name, u := range loaded.AuthInfos {
		if err := p.user(u); err != nil {
			return nil, fmt.Errorf("user %q: %w", name, err)
		}
	}
	config, err := clientcmd.NewDefaultClientConfig(*loaded, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, errors.New("its current-context names no complete cluster and user")
	}
	if config.Host == "" {
		return nil, errors.New("its cluster has no server")
	}
	config.QPS = -1 // API Priority and Fairness limits us, fairly and at the right place
	return config, nil
}

func (p Policy) cluster(c *api.Cluster) error {
	switch {
	case c == nil:
		return errors.New("is empty")
	case c.CertificateAuthority != "":
		return errors.New("certificate-authority names a file of the controller: give certificate-authority-data")
	case c.InsecureSkipTLSVerify && !p.InsecureTLS:
		return errors.New("insecure-skip-tls-verify is not allowed: give certificate-authority-data (or run the controllers with --insecure-kubeconfig-tls)")
	case !strings.HasPrefix(c.Server, "https://") && !p.InsecureTLS:
		return errors.New("server must begin with https:// (or run the controllers with --insecure-kubeconfig-tls)")
	case c.ProxyURL != "" && !p.Proxy:
		return errors.New("proxy-url is not allowed: remove it (or run the controllers with --kubeconfig-proxy)")
	}
	return nil
}

func (p Policy) user(u *api.AuthInfo) error {
	switch {
	case u == nil:
		return errors.New("is empty")
	case u.Exec != nil && !p.Exec:
		return errors.New("exec would run a command in the controller: give a token or client-certificate-data (or run the controllers with --insecure-kubeconfig-exec)")
	case u.AuthProvider != nil:
		return errors.New("auth-provider is not supported: give a token or client-certificate-data")
	case u.TokenFile != "":
		return errors.New("tokenFile names a file of the controller: give token")
	case u.ClientCertificate != "":
		return errors.New("client-certificate names a file of the controller: give client-certificate-data")
	case u.ClientKey != "":
		return errors.New("client-key names a file of the controller: give client-key-data")
	case u.Impersonate != "" || u.ImpersonateUID != "" || len(u.ImpersonateGroups)+len(u.ImpersonateUserExtra) > 0:
		return errors.New("as is not supported: set spec.serviceAccountName")
	}
	return nil
}
