package fluxconfig

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/fluxcd/pkg/ssh"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

// Keys of the Secret that sources read, as upstream documents them.
const (
	keyIdentity    = "identity"
	keyIdentityPub = "identity.pub"
	keyKnownHosts  = "known_hosts"
	keyUsername    = "username"
	keyPassword    = "password"
	keyCA          = "ca.crt"
)

// rsaBits is the size of generated keys. RSA is what every Git service takes.
const rsaBits = 3072

// credentialsOf decides what the source's Secret holds; nil when it needs none.
// The generated key pair is taken over from the Secret as it is; where it is
// missing, generate makes one.
func credentialsOf(spec config.FluxConfigSpec, protected, existing map[string][]byte, generate func() (*ssh.KeyPair, error)) (map[string][]byte, error) {
	switch spec.SourceKind {
	case "GitRepository":
		if spec.GitRepository == nil || spec.GitRepository.LocalAuthRef != "" {
			return nil, nil
		}
		if isSSH(spec.GitRepository.URL) {
			return sshCredentials(spec.GitRepository, protected, existing, generate)
		}
		return httpsCredentials(spec.GitRepository, protected)
	case "Bucket":
		return bucketCredentials(spec.Bucket, protected)
	case "AzureBlob":
		return blobCredentials(spec.AzureBlob, protected)
	case "OCIRepository":
		return ociCredentials(spec.OCIRepository, protected)
	default:
		return nil, phase.Stalled("InvalidSource", fmt.Errorf("spec.sourceKind: %q is not a source; use GitRepository, Bucket, AzureBlob or OCIRepository", spec.SourceKind))
	}
}

func sshCredentials(g *config.GitRepository, protected, existing map[string][]byte, generate func() (*ssh.KeyPair, error)) (map[string][]byte, error) {
	out := map[string][]byte{}
	if g.SSHKnownHosts != "" {
		hosts, err := decode("gitRepository.sshKnownHosts", []byte(g.SSHKnownHosts))
		if err != nil {
			return nil, err
		}
		out[keyKnownHosts] = hosts
	} else if hosts := publishedHosts(g.URL); len(hosts) > 0 {
		out[keyKnownHosts] = hosts
	}
	if given := protected[config.ProtectedSSHPrivateKey]; len(given) > 0 {
		key, err := decode(config.ProtectedSSHPrivateKey, given)
		if err != nil {
			return nil, err
		}
		out[keyIdentity] = key
		return out, nil
	}
	// A public half is there only when we generated the pair.
	if len(existing[keyIdentity]) > 0 && len(existing[keyIdentityPub]) > 0 {
		out[keyIdentity], out[keyIdentityPub] = existing[keyIdentity], existing[keyIdentityPub]
		return out, nil
	}
	pair, err := generate()
	if err != nil {
		return nil, fmt.Errorf("generate SSH key pair: %w", err)
	}
	out[keyIdentity], out[keyIdentityPub] = pair.PrivateKey, pair.PublicKey
	return out, nil
}

func httpsCredentials(g *config.GitRepository, protected map[string][]byte) (map[string][]byte, error) {
	out := map[string][]byte{}
	if g.HTTPSCACert != "" {
		ca, err := decode("gitRepository.httpsCACert", []byte(g.HTTPSCACert))
		if err != nil {
			return nil, err
		}
		out[keyCA] = ca
	}
	if given := protected[config.ProtectedHTTPSKey]; len(given) > 0 {
		key, err := decode(config.ProtectedHTTPSKey, given)
		if err != nil {
			return nil, err
		}
		if g.HTTPSUser == "" {
			return nil, phase.Stalled("InvalidCredentials", fmt.Errorf("gitRepository.httpsUser is empty, but %s is set: give both or neither", config.ProtectedHTTPSKey))
		}
		out[keyUsername], out[keyPassword] = []byte(g.HTTPSUser), key
	}
	return orNone(out), nil
}

func bucketCredentials(b *config.Bucket, protected map[string][]byte) (map[string][]byte, error) {
	if b == nil || b.LocalAuthRef != "" || b.AccessKey == "" {
		return nil, nil
	}
	secret, err := decode(config.ProtectedBucketSecretKey, protected[config.ProtectedBucketSecretKey])
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"accesskey": []byte(b.AccessKey), "secretkey": secret}, nil
}

func blobCredentials(b *config.AzureBlob, protected map[string][]byte) (map[string][]byte, error) {
	if b == nil || b.LocalAuthRef != "" {
		return nil, nil
	}
	out := map[string][]byte{}
	for key, from := range map[string]string{"accountKey": config.ProtectedAzureBlobAccountKey, "sasKey": config.ProtectedAzureBlobSASToken} {
		if v := protected[from]; len(v) > 0 {
			out[key] = v
		}
	}
	if p := b.ServicePrincipal; p != nil {
		out["tenantId"], out["clientId"] = []byte(p.TenantID), []byte(p.ClientID)
		if v := protected[config.ProtectedAzureBlobClientSecret]; len(v) > 0 {
			out["clientSecret"] = v
		}
		if v := protected[config.ProtectedAzureBlobCertificate]; len(v) > 0 {
			certificate, err := decode(config.ProtectedAzureBlobCertificate, v)
			if err != nil {
				return nil, err
			}
			out["clientCertificate"] = certificate
			out["clientCertificatePassword"] = protected[config.ProtectedAzureBlobCertificatePassword]
			out["clientCertificateSendChain"] = []byte(strconv.FormatBool(p.ClientCertificateSendChain))
		}
	}
	if b.ManagedIdentityClientID != "" {
		out["clientId"] = []byte(b.ManagedIdentityClientID)
	}
	return orNone(out), nil
}

func ociCredentials(o *config.OCIRepository, protected map[string][]byte) (map[string][]byte, error) {
	if o == nil || !o.TLS {
		return nil, nil
	}
	out := map[string][]byte{}
	for key, from := range map[string]string{
		"tls.crt": config.ProtectedOCIClientCertificate, "tls.key": config.ProtectedOCIPrivateKey, keyCA: config.ProtectedOCICACertificate,
	} {
		v := protected[from]
		if len(v) == 0 {
			continue
		}
		pem, err := decode(from, v)
		if err != nil {
			return nil, err
		}
		out[key] = pem
	}
	return orNone(out), nil
}

func orNone(m map[string][]byte) map[string][]byte {
	if len(m) == 0 {
		return nil
	}
	return m
}

// decode takes a value off its base64 coat, which every client puts on it. The
// error names the setting and never its value.
func decode(setting string, value []byte) ([]byte, error) {
	out, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(value)))
	if err != nil || len(out) == 0 {
		return nil, phase.Stalled("InvalidCredentials", fmt.Errorf("%s is empty or not base64: encode the value and apply the configuration again", setting))
	}
	return out, nil
}

// isSSH reports whether a Git URL is for SSH, in either notation.
func isSSH(raw string) bool {
	return strings.HasPrefix(raw, "ssh://") || scp(raw) != ""
}

// scp turns user@host:path into its ssh:// form; empty when raw is not that.
func scp(raw string) string {
	if strings.Contains(raw, "://") {
		return ""
	}
	at, path, ok := strings.Cut(raw, ":")
	if !ok || !strings.Contains(at, "@") {
		return ""
	}
	u := url.URL{Scheme: "ssh", Path: "/" + strings.TrimPrefix(path, "/")}
	user, host, _ := strings.Cut(at, "@")
	u.User, u.Host = url.User(user), host
	return u.String()
}

func (r *reconciler) decideCredentials(_ context.Context, s *scope) error {
	var existing map[string][]byte
	if s.auth != nil {
		existing = s.auth.Data
	}
	generate := func() (*ssh.KeyPair, error) { return ssh.NewRSAGenerator(rsaBits).Generate() }
	var err error
	s.credentials, err = credentialsOf(s.obj.Spec, s.protected, existing, generate)
	return err
}
