package cli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"headwater.dev/api/resource"
)

// source are the flags that say where a configuration comes from.
type source struct {
	kind, url, timeout, interval, localAuth string
	git, bucket, blob, oci                  map[string]*string
	switches                                map[string]*bool
	verification, identities                []string
}

// flags defines the flags of all kinds; those of other kinds than the chosen
// one are refused when the command runs.
func (o *source) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.kind, "kind", "git", "git, bucket, azblob or oci")
	f.StringVarP(&o.url, "url", "u", "", "URL of the source")
	f.StringVar(&o.timeout, "timeout", "10m", "longest time to fetch the source, such as 1h30m")
	f.StringVar(&o.interval, "interval", "10m", "longest time between two looks at the source (also --sync-interval)")
	f.StringVar(&o.localAuth, "local-auth-ref", "", "Secret in the configuration's namespace with the credentials")
	text := func(name, usage string) *string { return f.String(name, "", usage) }
	o.git = map[string]*string{
		"branch": text("branch", "branch to follow"), "tag": text("tag", "tag to follow (git, oci)"),
		"semver": text("semver", "range of tags to follow (git, oci)"), "commit": text("commit", "commit to stay at"),
		"ssh-private-key":      text("ssh-private-key", "private key, base64; may be @file"),
		"ssh-private-key-file": text("ssh-private-key-file", "file with the private key"),
		"https-user":           text("https-user", "user name"), "https-key": text("https-key", "password or token; may be @file"),
		"https-ca-cert": text("https-ca-cert", "certificate authority, base64 of PEM"), "https-ca-cert-file": text("https-ca-cert-file", "file with the certificate authority"),
		"known-hosts": text("known-hosts", "host keys, base64"), "known-hosts-file": text("known-hosts-file", "file with host keys"),
		"provider": text("provider", "generic, azure or github"),
	}
	o.bucket = map[string]*string{
		"bucket-name": text("bucket-name", "name of the bucket"), "bucket-access-key": text("bucket-access-key", "access key"),
		"bucket-secret-key": text("bucket-secret-key", "secret key; may be @file"),
	}
	o.blob = map[string]*string{
		"container-name": text("container-name", "name of the container"), "sp-client-id": text("sp-client-id", "client id of a service principal"),
		"sp-tenant-id": text("sp-tenant-id", "tenant id of a service principal"), "sp-client-secret": text("sp-client-secret", "its secret; may be @file"),
		"sp-client-cert": text("sp-client-cert", "its certificate, base64; may be @file"), "sp-cert-password": text("sp-cert-password", "password of the certificate; may be @file"),
		"account-key": text("account-key", "key of the storage account; may be @file"), "sas-token": text("sas-token", "shared access signature; may be @file"),
		"mi-client-id": text("mi-client-id", "client id of a managed identity"),
	}
	o.oci = map[string]*string{
		"digest": text("digest", "digest to stay at"), "oci-layer-selector-media-type": text("oci-layer-selector-media-type", "media type of the layer"),
		"oci-layer-selector-operation": text("oci-layer-selector-operation", "extract or copy"), "tls-ca-certificate": text("tls-ca-certificate", "certificate authority, base64; may be @file"),
		"tls-client-certificate": text("tls-client-certificate", "client certificate, base64; may be @file"), "tls-private-key": text("tls-private-key", "its key, base64; may be @file"),
		"service-account-name": text("service-account-name", "service account with the pull secrets"), "verification-provider": text("verification-provider", "cosign or notation"),
	}
	o.switches = map[string]*bool{
		"bucket-insecure": f.Bool("bucket-insecure", false, "talk to the bucket without TLS"), "sp-cert-send-chain": f.Bool("sp-cert-send-chain", false, "send the certificate's chain"),
		"use-workload-identity": f.Bool("use-workload-identity", false, "use the workload identity"), "oci-insecure": f.Bool("oci-insecure", false, "talk to the registry without TLS"),
	}
	f.StringArrayVar(&o.verification, "verification-config", nil, "KEY=VALUE words")
	f.StringArrayVar(&o.identities, "match-oidc-identity", nil, `{"issuer":…,"subject":…}; repeatable`)
	complete(cmd, "kind", "git", "bucket", "azblob", "oci")
}

// body is the property and the kind that a word of --kind stands for.
func body(kind string) (property, of string, err error) {
	switch strings.ToLower(kind) {
	case "git":
		return "gitRepository", resource.SourceGitRepository, nil
	case "bucket":
		return "bucket", resource.SourceBucket, nil
	case "azblob":
		return "azureBlob", resource.SourceAzureBlob, nil
	case "oci":
		return "ociRepository", resource.SourceOCIRepository, nil
	}
	return "", "", fmt.Errorf("--kind is %q; use git, bucket, azblob or oci", kind)
}

func wordOf(kind string) string {
	switch kind {
	case resource.SourceBucket:
		return "bucket"
	case resource.SourceAzureBlob:
		return "azblob"
	case resource.SourceOCIRepository:
		return "oci"
	}
	return "git"
}

// create fills in sourceKind, the body and the secrets of a new configuration.
func (o *source) create(cmd *cobra.Command, props object) error {
	property, kind, err := body(o.kind)
	if err != nil {
		return err
	}
	if kind == resource.SourceGitRepository && o.refs() != 1 {
		return errors.New("give exactly one of --branch, --tag, --semver and --commit")
	}
	b := object{}
	secrets, err := o.fill(cmd, kind, b)
	if err != nil {
		return err
	}
	props["sourceKind"], props[property] = kind, b
	if len(secrets) > 0 {
		props["configurationProtectedSettings"] = secrets
	}
	return nil
}

// update fills in what changes and returns the kind that results.
func (o *source) update(cmd *cobra.Command, was string, props object) (string, error) {
	if !cmd.Flags().Changed("kind") {
		o.kind = wordOf(was)
	}
	property, kind, err := body(o.kind)
	if err != nil {
		return "", err
	}
	if o.refs() > 1 {
		return "", errors.New("give at most one of --branch, --tag, --semver and --commit")
	}
	b := object{}
	secrets, err := o.fill(cmd, kind, b)
	if err != nil {
		return "", err
	}
	if ref, ok := b["repositoryRef"].(object); ok && kind == resource.SourceGitRepository {
		for _, other := range []string{"branch", "tag", "semver", "commit"} { // the new one is the only one
			if _, ok := ref[other]; !ok {
				ref[other] = nil
			}
		}
	}
	if kind != was {
		props["sourceKind"] = kind
		for _, other := range []string{"gitRepository", "bucket", "azureBlob", "ociRepository"} {
			if other != property {
				props[other] = object{}
			}
		}
	}
	if len(b) > 0 {
		props[property] = b
	}
	if len(secrets) > 0 {
		props["configurationProtectedSettings"] = secrets
	}
	return kind, nil
}

func (o *source) refs() int {
	n := 0
	for _, name := range []string{"branch", "tag", "semver", "commit"} {
		if *o.git[name] != "" {
			n++
		}
	}
	return n
}

// fill puts the flags that were given into a source's body and returns the
// protected settings.
func (o *source) fill(cmd *cobra.Command, kind string, b object) (map[string]string, error) {
	if err := o.foreign(cmd, kind); err != nil {
		return nil, err
	}
	changed := cmd.Flags().Changed
	if o.url != "" {
		b["url"] = o.url
	}
	if o.localAuth != "" {
		b["localAuthRef"] = o.localAuth
	}
	for flag, property := range map[string]string{"timeout": "timeoutInSeconds", "interval": "syncIntervalInSeconds"} {
		if changed(flag) {
			seconds, err := seconds("--"+flag, map[string]string{"timeout": o.timeout, "interval": o.interval}[flag])
			if err != nil {
				return nil, err
			}
			b[property] = seconds
		}
	}
	switch kind {
	case resource.SourceGitRepository:
		return o.fillGit(cmd, b)
	case resource.SourceBucket:
		return o.fillBucket(cmd, b)
	case resource.SourceAzureBlob:
		return nil, o.fillBlob(cmd, b)
	default:
		return nil, o.fillOCI(cmd, b)
	}
}

// foreign refuses flags of another kind than the chosen one.
func (o *source) foreign(cmd *cobra.Command, kind string) error {
	sets := map[string][]string{
		resource.SourceGitRepository: {"branch", "tag", "semver", "commit", "ssh-private-key", "ssh-private-key-file", "https-user", "https-key",
			"https-ca-cert", "https-ca-cert-file", "known-hosts", "known-hosts-file", "provider"},
		resource.SourceBucket: {"bucket-name", "bucket-access-key", "bucket-secret-key", "bucket-insecure"},
		resource.SourceAzureBlob: {"container-name", "sp-client-id", "sp-tenant-id", "sp-client-secret", "sp-client-cert", "sp-cert-password",
			"sp-cert-send-chain", "account-key", "sas-token", "mi-client-id"},
		resource.SourceOCIRepository: {"tag", "semver", "digest", "oci-layer-selector-media-type", "oci-layer-selector-operation", "tls-ca-certificate",
			"tls-client-certificate", "tls-private-key", "service-account-name", "use-workload-identity", "oci-insecure", "verification-provider",
			"verification-config", "match-oidc-identity"},
	}
	for other, names := range sets {
		for _, n := range names {
			if other != kind && cmd.Flags().Changed(n) && !slices.Contains(sets[kind], n) {
				return fmt.Errorf("--%s is not for --kind %s; its flags are --%s", n, wordOf(kind), strings.Join(sets[kind], ", --"))
			}
		}
	}
	return nil
}

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
	if v := *o.git["https-user"]; v != "" {
		b["httpsUser"] = v
	}
	if v := *o.git["provider"]; v != "" {
		b["provider"] = v
	}
	for flag, property := range map[string]string{"https-ca-cert": "httpsCACert", "known-hosts": "sshKnownHosts"} {
		v, err := inlineOrFile(flag, *o.git[flag], *o.git[flag+"-file"])
		if err != nil {
			return nil, err
		}
		if v != "" {
			b[property] = v
		}
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
