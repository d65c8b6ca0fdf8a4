package validate

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

	"headwater.dev/api/resource"
)

var (
	gitURL    = regexp.MustCompile(`^((https?|ssh)://|git@)\S+$`)
	scpURL    = regexp.MustCompile(`^git@[^/:]+:\S+$`)
	httpURL   = regexp.MustCompile(`^https?://\S+$`)
	ociURL    = regexp.MustCompile(`^oci://\S+$`)
	digestRef = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// sources reads the bodies of all four kinds and checks the selected one.
func (p *Problems) sources(c *resource.FluxConfigurationProperties, properties map[string]any, keys []string) {
	if m := p.object("properties", properties, "gitRepository"); wanted(m, c, resource.SourceGitRepository) {
		c.GitRepository = &resource.GitRepository{TimeoutInSeconds: defaultSeconds, SyncIntervalInSeconds: defaultSeconds, Provider: "Generic"}
		p.decode("properties.gitRepository", m, c.GitRepository)
		p.gitRepository(c.GitRepository, keys)
	}
	if m := p.object("properties", properties, "bucket"); wanted(m, c, resource.SourceBucket) {
		c.Bucket = &resource.Bucket{TimeoutInSeconds: defaultSeconds, SyncIntervalInSeconds: defaultSeconds, Insecure: true}
		p.decode("properties.bucket", m, c.Bucket)
		p.bucket(c.Bucket, keys)
	}
	if m := p.object("properties", properties, "azureBlob"); wanted(m, c, resource.SourceAzureBlob) {
		c.AzureBlob = &resource.AzureBlob{TimeoutInSeconds: defaultSeconds, SyncIntervalInSeconds: defaultSeconds}
		p.decode("properties.azureBlob", m, c.AzureBlob)
		p.azureBlob(c.AzureBlob, keys)
	}
	if m := p.object("properties", properties, "ociRepository"); wanted(m, c, resource.SourceOCIRepository) {
		c.OCIRepository = &resource.OCIRepository{TimeoutInSeconds: defaultSeconds, SyncIntervalInSeconds: defaultSeconds}
		p.decode("properties.ociRepository", m, c.OCIRepository)
		p.ociRepository(c.OCIRepository, keys)
	}
	present := map[string]bool{
		resource.SourceGitRepository: c.GitRepository != nil, resource.SourceBucket: c.Bucket != nil,
		resource.SourceAzureBlob: c.AzureBlob != nil, resource.SourceOCIRepository: c.OCIRepository != nil,
	}
	if there, known := present[c.SourceKind]; known && !there {
		p.Add("properties.sourceKind", "Invalid source kind match. Config with specified source kind '%s' must contain "+
			"corresponding body specified in the properties.", c.SourceKind)
	}
}

// wanted reports whether a source's body counts: an empty object of a kind that
// is not selected means none.
func wanted(m map[string]any, c *resource.FluxConfigurationProperties, kind string) bool {
	return m != nil && (len(m) > 0 || c.SourceKind == kind)
}

func (p *Problems) gitRepository(g *resource.GitRepository, keys []string) {
	const at = "properties.gitRepository"
	ssh := strings.HasPrefix(g.URL, "ssh://") || strings.HasPrefix(g.URL, "git@")
	if !gitURL.MatchString(g.URL) || strings.HasPrefix(g.URL, "git@") && !scpURL.MatchString(g.URL) {
		p.Add(at+".url", "%q is not the URL of a Git repository: begin with https://, http://, ssh:// or git@", redact(g.URL))
	} else if hasPassword(g.URL) {
		p.Add(at+".url", "holds a password: put the user into httpsUser and the password into configurationProtectedSettings.httpsKey")
	}
	p.seconds(at+".timeoutInSeconds", g.TimeoutInSeconds)
	p.seconds(at+".syncIntervalInSeconds", g.SyncIntervalInSeconds)
	p.enum(at+".provider", &g.Provider, "Generic", "Azure", "GitHub")
	p.sparse(at+".sparseCheckout", g.SparseCheckout)
	p.objectIdentity(at+".objectLevelIdentity", g.ObjectLevelIdentity)
	p.additional(at, resource.SourceGitRepository, &g.AdditionalConfigurations)
	p.base64(at+".sshKnownHosts", g.SSHKnownHosts)
	p.base64(at+".httpsCACert", g.HTTPSCACert)

	sshKey := slices.Contains(keys, resource.ProtectedSSHPrivateKey)
	httpsKey := slices.Contains(keys, resource.ProtectedHTTPSKey)
	switch {
	case g.ObjectLevelIdentity != nil && (ssh || sshKey || httpsKey || set(g.HTTPSUser) || set(g.LocalAuthRef)):
		p.Add(at+".objectLevelIdentity", "is a way to authenticate of its own, for https URLs: leave httpsUser, localAuthRef and the protected settings out")
	case set(g.LocalAuthRef) && (sshKey || httpsKey || set(g.HTTPSUser)):
		p.Add(at+".localAuthRef", "cannot be combined with httpsUser or protected settings: the Secret it names holds the credentials")
	case ssh && (httpsKey || set(g.HTTPSUser)):
		p.Add(at+".httpsUser", "is for http(s) URLs; an SSH URL authenticates with configurationProtectedSettings.sshPrivateKey")
	case !ssh && sshKey:
		p.Add("properties."+settings+".sshPrivateKey", "is for SSH URLs; an http(s) URL authenticates with httpsUser and httpsKey")
	case !ssh && set(g.SSHKnownHosts):
		p.Add(at+".sshKnownHosts", "is for SSH URLs; trust in an https server is given with httpsCACert")
	case set(g.HTTPSUser) != httpsKey && !ssh:
		p.Add(at+".httpsUser", "and configurationProtectedSettings.httpsKey belong together: give both or none")
	}
}

func (p *Problems) bucket(b *resource.Bucket, keys []string) {
	const at = "properties.bucket"
	p.endpoint(at+".url", b.URL)
	if b.BucketName == "" {
		p.Add(at+".bucketName", "is missing")
	}
	p.seconds(at+".timeoutInSeconds", b.TimeoutInSeconds)
	p.seconds(at+".syncIntervalInSeconds", b.SyncIntervalInSeconds)
	p.additional(at, resource.SourceBucket, &b.AdditionalConfigurations)
	if b.ObjectLevelIdentity != nil {
		p.Add(at+".objectLevelIdentity", "is an identity of Azure, which an S3 bucket does not know: use sourceKind AzureBlob, or "+
			"additionalConfigurations with provider (aws, gcp) and serviceAccountName")
	}
	secret := slices.Contains(keys, resource.ProtectedBucketSecretKey)
	switch {
	case set(b.LocalAuthRef) && (secret || set(b.AccessKey)):
		p.Add(at+".localAuthRef", "cannot be combined with accessKey or configurationProtectedSettings.bucketSecretKey")
	case set(b.AccessKey) != secret:
		p.Add(at+".accessKey", "and configurationProtectedSettings.bucketSecretKey belong together: give both or none")
	}
}

func (p *Problems) azureBlob(b *resource.AzureBlob, keys []string) {
	const at = "properties.azureBlob"
	p.endpoint(at+".url", b.URL)
	if b.ContainerName == "" {
		p.Add(at+".containerName", "is missing")
	}
	p.seconds(at+".timeoutInSeconds", b.TimeoutInSeconds)
	p.seconds(at+".syncIntervalInSeconds", b.SyncIntervalInSeconds)
	p.objectIdentity(at+".objectLevelIdentity", b.ObjectLevelIdentity)
	p.additional(at, resource.SourceAzureBlob, &b.AdditionalConfigurations)
	has := func(key string) bool { return slices.Contains(keys, key) }
	families := 0
	for _, used := range []bool{b.ServicePrincipal != nil, b.ManagedIdentity != nil, b.ObjectLevelIdentity != nil, set(b.LocalAuthRef),
		has(resource.ProtectedAzureBlobAccountKey), has(resource.ProtectedAzureBlobSASToken)} {
		if used {
			families++
		}
	}
	if families > 1 {
		p.Add(at, "use one way to authenticate: servicePrincipal, managedIdentity, objectLevelIdentity, accountKey, sasToken or localAuthRef")
	}
	if b.ManagedIdentity != nil && b.ManagedIdentity.ClientID == "" {
		p.Add(at+".managedIdentity.clientId", "is missing")
	}
	if sp := b.ServicePrincipal; sp != nil {
		if sp.ClientID == "" || sp.TenantID == "" {
			p.Add(at+".servicePrincipal", "needs clientId and tenantId")
		}
		if has(resource.ProtectedAzureBlobClientSecret) == has(resource.ProtectedAzureBlobCertificate) {
			p.Add(at+".servicePrincipal", "needs either clientSecret or clientCertificate")
		}
	}
}

func (p *Problems) ociRepository(o *resource.OCIRepository, keys []string) {
	const at = "properties.ociRepository"
	if !ociURL.MatchString(o.URL) {
		p.Add(at+".url", "%q is not the URL of an OCI repository: begin with oci://", redact(o.URL))
	} else if hasPassword(o.URL) {
		p.Add(at+".url", "holds a password: name a Secret with the credentials in localAuthRef")
	}
	p.seconds(at+".timeoutInSeconds", o.TimeoutInSeconds)
	p.seconds(at+".syncIntervalInSeconds", o.SyncIntervalInSeconds)
	if o.RepositoryRef != nil && set(o.RepositoryRef.Digest) && !digestRef.MatchString(*o.RepositoryRef.Digest) {
		p.Add(at+".repositoryRef.digest", "%q is not sha256: followed by 64 hex digits", *o.RepositoryRef.Digest)
	}
	p.objectIdentity(at+".objectLevelIdentity", o.ObjectLevelIdentity)
	p.additional(at, resource.SourceOCIRepository, &o.AdditionalConfigurations)
	if o.ObjectLevelIdentity != nil && (set(o.LocalAuthRef) || set(o.ServiceAccountName)) {
		p.Add(at+".objectLevelIdentity", "cannot be combined with localAuthRef or serviceAccountName: name the account in objectLevelIdentity.serviceAccountName")
	}
	if v := o.Verify; v != nil {
		p.verify(at+".verify", v)
	}
	if o.LayerSelector != nil && set(o.LayerSelector.Operation) {
		p.enum(at+".layerSelector.operation", o.LayerSelector.Operation, "extract", "copy")
	}
	has := func(key string) bool { return slices.Contains(keys, key) }
	cert, key, ca := has(resource.ProtectedOCIClientCertificate), has(resource.ProtectedOCIPrivateKey), has(resource.ProtectedOCICACertificate)
	if cert != key {
		p.Add(at+".tlsConfig", "clientCertificate and privateKey belong together: give both or none")
	}
	if cert || key || ca {
		o.TLSConfig = &resource.OCITLSConfig{ClientCertificate: cert, PrivateKey: key, CACertificate: ca}
	}
}

func (p *Problems) endpoint(target, s string) {
	switch u, err := url.Parse(s); {
	case !httpURL.MatchString(s) || err != nil || u.Host == "":
		p.Add(target, "%q is not an http:// or https:// URL", redact(s))
	case hasPassword(s) || u.Query().Has("sig"):
		p.Add(target, "holds a credential: leave it out and give it as a protected setting")
	}
}

func (p *Problems) base64(target string, s *string) {
	if set(s) && !isBase64(*s) {
		p.Add(target, "is not base64: encode the value with `base64 -w0`")
	}
}

func hasPassword(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return false
	}
	_, has := u.User.Password()
	return has
}

// redact returns a URL without what could be a password.
func redact(s string) string {
	if u, err := url.Parse(s); err == nil && u.User != nil {
		return u.Redacted()
	}
	if strings.Contains(s, "@") && !strings.HasPrefix(s, "git@") {
		return "…@" + s[strings.LastIndex(s, "@")+1:]
	}
	return s
}
