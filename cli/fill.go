package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"headwater.dev/api/resource"
)

func (o *source) fillGit(cmd *cobra.Command, b object) (map[string]string, error) {
	ref := object{}
	for _, name := range []string{"branch", "tag", "semver", "commit"} {
		if v := *o.git[name]; v != "" {
			ref[name] = v
		}
	}
	if len(ref) > 0 {
		b["repositoryRef"] = ref
	}
	put(b, "httpsUser", *o.git["https-user"])
	put(b, "provider", *o.git["provider"])
	for flag, property := range map[string]string{"https-ca-cert": "httpsCACert", "known-hosts": "sshKnownHosts"} {
		v, err := inlineOrFile(flag, *o.git[flag], *o.git[flag+"-file"])
		if err != nil {
			return nil, err
		}
		if v != "" && flag == "known-hosts" {
			err = checkKnownHosts(flag, v)
		}
		if err != nil {
			return nil, err
		}
		put(b, property, v)
	}
	secrets := map[string]string{}
	key, err := content("ssh-private-key", *o.git["ssh-private-key"], cmd.InOrStdin())
	if err != nil {
		return nil, err
	}
	if key, err = inlineOrFile("ssh-private-key", key, *o.git["ssh-private-key-file"]); err != nil {
		return nil, err
	}
	if key != "" {
		if err := checkKey("ssh-private-key", key); err != nil {
			return nil, err
		}
		secrets[resource.ProtectedSSHPrivateKey] = key
	}
	return secrets, raw(cmd, "https-key", *o.git["https-key"], resource.ProtectedHTTPSKey, secrets)
}

func (o *source) fillBucket(cmd *cobra.Command, b object) (map[string]string, error) {
	put(b, "bucketName", *o.bucket["bucket-name"])
	put(b, "accessKey", *o.bucket["bucket-access-key"])
	if cmd.Flags().Changed("bucket-insecure") || cmd.Name() == "create" {
		b["insecure"] = *o.switches["bucket-insecure"]
	}
	secrets := map[string]string{}
	return secrets, raw(cmd, "bucket-secret-key", *o.bucket["bucket-secret-key"], resource.ProtectedBucketSecretKey, secrets)
}

func (o *source) fillBlob(cmd *cobra.Command, b object) error {
	put(b, "containerName", *o.blob["container-name"])
	sp := object{}
	put(sp, "clientId", *o.blob["sp-client-id"])
	put(sp, "tenantId", *o.blob["sp-tenant-id"])
	for _, s := range []struct {
		into           object
		flag, property string
	}{{b, "account-key", "accountKey"}, {b, "sas-token", "sasToken"}, {sp, "sp-client-secret", "clientSecret"},
		{sp, "sp-client-cert", "clientCertificate"}, {sp, "sp-cert-password", "clientCertificatePassword"}} {
		v, err := content(s.flag, *o.blob[s.flag], cmd.InOrStdin())
		if err != nil {
			return err
		}
		put(s.into, s.property, v)
	}
	if cmd.Flags().Changed("sp-cert-send-chain") {
		sp["clientCertificateSendChain"] = *o.switches["sp-cert-send-chain"]
	}
	if len(sp) > 0 {
		b["servicePrincipal"] = sp
	}
	if id := *o.blob["mi-client-id"]; id != "" {
		b["managedIdentity"] = object{"clientId": id}
	}
	return nil
}

func (o *source) fillOCI(cmd *cobra.Command, b object) error {
	ref, layer, tls, verify := object{}, object{}, object{}, object{}
	put(ref, "tag", *o.git["tag"])
	put(ref, "semver", *o.git["semver"])
	put(ref, "digest", *o.oci["digest"])
	put(layer, "mediaType", *o.oci["oci-layer-selector-media-type"])
	put(layer, "operation", *o.oci["oci-layer-selector-operation"])
	put(verify, "provider", *o.oci["verification-provider"])
	put(b, "serviceAccountName", *o.oci["service-account-name"])
	for flag, property := range map[string]string{"tls-ca-certificate": "caCertificate", "tls-client-certificate": "clientCertificate", "tls-private-key": "privateKey"} {
		v, err := content(flag, *o.oci[flag], cmd.InOrStdin())
		if err != nil {
			return err
		}
		put(tls, property, v)
	}
	if len(o.verification) > 0 {
		config, err := pairs("--verification-config", o.verification)
		if err != nil {
			return err
		}
		for name, value := range config {
			if config[name], err = content("verification-config "+name, value, cmd.InOrStdin()); err != nil {
				return err
			}
		}
		verify["verificationConfig"] = config
	}
	var identities []object
	for _, text := range strings.Split(strings.Join(o.identities, separator), separator) {
		if text == "" {
			continue
		}
		var identity object
		if err := json.Unmarshal([]byte(text), &identity); err != nil {
			return fmt.Errorf(`--match-oidc-identity: %q is not JSON such as {"issuer":"…","subject":"…"}`, text)
		}
		identities = append(identities, identity)
	}
	if len(identities) > 0 {
		verify["matchOidcIdentity"] = identities
	}
	for property, o := range map[string]object{"repositoryRef": ref, "layerSelector": layer, "tlsConfig": tls, "verify": verify} {
		if len(o) > 0 {
			b[property] = o
		}
	}
	for flag, property := range map[string]string{"oci-insecure": "insecure", "use-workload-identity": "useWorkloadIdentity"} {
		if cmd.Flags().Changed(flag) {
			b[property] = *o.switches[flag]
		}
	}
	return nil
}

func put(o object, key, value string) {
	if value != "" {
		o[key] = value
	}
}

// raw reads a secret as it is typed and keeps it as the base64 that the API takes.
func raw(cmd *cobra.Command, flag, value, key string, into map[string]string) error {
	v, err := content(flag, value, cmd.InOrStdin())
	if err != nil || v == "" {
		return err
	}
	into[key] = base64.StdEncoding.EncodeToString([]byte(v))
	return nil
}

// inlineOrFile is a base64 value, or that of a file's content.
func inlineOrFile(flag, inline, file string) (string, error) {
	if inline != "" && file != "" {
		return "", fmt.Errorf("give either --%s or --%s-file", flag, flag)
	}
	if file == "" {
		return inline, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--%s-file: %w", flag, err)
	}
	return base64.StdEncoding.EncodeToString(data), nil
}
