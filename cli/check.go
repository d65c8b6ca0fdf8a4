package cli

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/crypto/ssh"

	"headwater.dev/api/resource"
)

const (
	maxName = 63
	// maxJoined bounds the names of a configuration and of a kustomization
	// together: with a hyphen between them they name one object.
	maxJoined = 62
)

var (
	subdomainName = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`)
	labelName     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	gitURL        = regexp.MustCompile(`^((https?|ssh)://|git@)\S+$`)
	httpURL       = regexp.MustCompile(`^https?://\S+$`)
	ociURL        = regexp.MustCompile(`^oci://\S+$`)
)

// checkConfiguration checks the names of a configuration.
func checkConfiguration(name, namespace string) error {
	if len(name) > maxName || !subdomainName.MatchString(name) {
		return fmt.Errorf("--name %q cannot name an object in a cluster: use at most %d lower-case letters, digits, hyphens and dots", name, maxName)
	}
	if namespace != "" && (len(namespace) > maxName || !labelName.MatchString(namespace)) {
		return fmt.Errorf("--namespace %q is not a namespace: use at most %d lower-case letters, digits and hyphens", namespace, maxName)
	}
	return nil
}

// checkKustomization checks the name of a kustomization of a configuration.
func checkKustomization(config, name string) error {
	if !labelName.MatchString(name) {
		return fmt.Errorf("the kustomization's name %q is none: use lower-case letters, digits and hyphens", name)
	}
	if n := len(config) + len(name); n > maxJoined {
		return fmt.Errorf("the names %q and %q have %d characters together; at most %d are possible because they name one object: shorten one", config, name, n, maxJoined)
	}
	return nil
}

// check refuses flags that do not go together, before the hub does in the words
// of the API. What a new source needs is asked for when create is set.
func (o *source) check(kind string, create bool) error {
	schemes := map[string]struct {
		url   *regexp.Regexp
		begin string
	}{
		resource.SourceGitRepository: {gitURL, "https://, http://, ssh:// or git@"}, resource.SourceBucket: {httpURL, "https:// or http://"},
		resource.SourceAzureBlob: {httpURL, "https:// or http://"}, resource.SourceOCIRepository: {ociURL, "oci://"},
	}
	if s := schemes[kind]; o.url != "" && !s.url.MatchString(o.url) {
		return fmt.Errorf("--url does not begin with %s, as it has to for --kind %s", s.begin, wordOf(kind))
	}
	switch kind {
	case resource.SourceGitRepository:
		return o.checkGit(create)
	case resource.SourceBucket:
		return o.checkBucket(create)
	case resource.SourceAzureBlob:
		return o.checkBlob(create)
	default:
		return o.checkOCI()
	}
}

func anyOf(flags map[string]*string, names ...string) string {
	for _, n := range names {
		if p := flags[n]; p != nil && *p != "" {
			return n
		}
	}
	return ""
}

func (o *source) checkGit(create bool) error {
	overSSH := strings.HasPrefix(o.url, "ssh://") || strings.HasPrefix(o.url, "git@")
	sshFlag := anyOf(o.git, "ssh-private-key", "ssh-private-key-file", "known-hosts", "known-hosts-file")
	httpsFlag := anyOf(o.git, "https-user", "https-key", "https-ca-cert", "https-ca-cert-file")
	secret := anyOf(o.git, "ssh-private-key", "ssh-private-key-file", "https-user", "https-key")
	switch {
	case o.url != "" && !overSSH && sshFlag != "":
		return fmt.Errorf("--%s is for SSH URLs; an http(s) URL takes --https-user, --https-key and --https-ca-cert", sshFlag)
	case overSSH && httpsFlag != "":
		return fmt.Errorf("--%s is for http(s) URLs; an SSH URL takes --ssh-private-key and --known-hosts", httpsFlag)
	case sshFlag != "" && httpsFlag != "":
		return fmt.Errorf("--%s and --%s cannot be combined: one is for SSH, the other for http(s)", sshFlag, httpsFlag)
	case o.localAuth != "" && secret != "":
		return fmt.Errorf("--local-auth-ref and --%s cannot be combined: the Secret holds the credentials", secret)
	case create && (*o.git["https-user"] == "") != (*o.git["https-key"] == ""):
		return errors.New("--https-user and --https-key belong together: give both or none")
	}
	return nil
}

func (o *source) checkBucket(create bool) error {
	access, secret := *o.bucket["bucket-access-key"], *o.bucket["bucket-secret-key"]
	switch {
	case create && *o.bucket["bucket-name"] == "":
		return errors.New("--kind bucket needs --bucket-name")
	case o.localAuth != "" && (access != "" || secret != ""):
		return errors.New("--local-auth-ref cannot be combined with --bucket-access-key and --bucket-secret-key: the Secret holds them")
	case create && (access == "") != (secret == ""):
		return errors.New("--bucket-access-key and --bucket-secret-key belong together: give both or none")
	}
	return nil
}

func (o *source) checkBlob(create bool) error {
	if create && *o.blob["container-name"] == "" {
		return errors.New("--kind azblob needs --container-name")
	}
	principal := anyOf(o.blob, "sp-client-id", "sp-tenant-id", "sp-client-secret", "sp-client-cert", "sp-cert-password")
	var families []string
	for _, f := range []string{principal, anyOf(o.blob, "account-key"), anyOf(o.blob, "sas-token"), anyOf(o.blob, "mi-client-id")} {
		if f != "" {
			families = append(families, "--"+f)
		}
	}
	if o.localAuth != "" {
		families = append(families, "--local-auth-ref")
	}
	if len(families) > 1 {
		return fmt.Errorf("%s cannot be combined: use one way to authenticate", strings.Join(families, " and "))
	}
	secret, certificate := *o.blob["sp-client-secret"], *o.blob["sp-client-cert"]
	switch {
	case principal == "" || !create:
		return nil
	case *o.blob["sp-client-id"] == "" || *o.blob["sp-tenant-id"] == "":
		return fmt.Errorf("--%s needs --sp-client-id and --sp-tenant-id", principal)
	case (secret == "") == (certificate == ""):
		return errors.New("a service principal needs either --sp-client-secret or --sp-client-cert")
	}
	return nil
}

func (o *source) checkOCI() error {
	n := 0
	for _, v := range []*string{o.git["tag"], o.git["semver"], o.oci["digest"]} {
		if *v != "" {
			n++
		}
	}
	if n > 1 {
		return errors.New("give at most one of --tag, --semver and --digest")
	}
	if op := *o.oci["oci-layer-selector-operation"]; op != "" && op != "extract" && op != "copy" {
		return fmt.Errorf("--oci-layer-selector-operation is %q; use extract or copy", op)
	}
	return nil
}

// checkKey checks a private key in base64. No part of it is in the error.
func checkKey(flag, encoded string) error {
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("--%s is not base64; give the file with --ssh-private-key-file", flag)
	}
	_, err = ssh.ParseRawPrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return fmt.Errorf("--%s is locked by a passphrase, which nobody can type in the cluster: use a key without one", flag)
	case err != nil:
		return fmt.Errorf("--%s is not an RSA, ECDSA or Ed25519 private key in PEM", flag)
	}
	return nil
}

// checkKnownHosts checks host keys in base64 as sshd(8) writes them.
func checkKnownHosts(flag, encoded string) error {
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("--%s is not base64; give the file with --known-hosts-file", flag)
	}
	keys := 0
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if _, _, _, _, _, err := ssh.ParseKnownHosts([]byte(line)); err != nil {
			return fmt.Errorf("--%s: line %d is not a host key such as \"git.example.com ssh-ed25519 AAAA…\"", flag, i+1)
		}
		keys++
	}
	if keys == 0 {
		return fmt.Errorf("--%s holds no host key; \"ssh-keyscan HOST\" prints them", flag)
	}
	return nil
}
