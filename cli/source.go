package cli

import (
	"errors"
	"fmt"
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
	f.StringArrayVar(&o.verification, "verification-config", nil, "NAME=KEY words: trusted public keys, in PEM or base64; @file reads one")
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
	if err := o.foreign(cmd, kind); err != nil {
		return err
	}
	if err := o.check(kind, true); err != nil {
		return err
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
	if err := o.foreign(cmd, kind); err != nil {
		return "", err
	}
	if err := o.check(kind, kind != was); err != nil {
		return "", err
	}
	b := object{}
	secrets, err := o.fill(cmd, kind, b)
	if err != nil {
		return "", err
	}
	if ref, ok := b["repositoryRef"].(object); ok { // the new one is the only one
		others := []string{"branch", "tag", "semver", "commit"}
		if kind == resource.SourceOCIRepository {
			others = []string{"tag", "semver", "digest"}
		}
		for _, other := range others {
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
