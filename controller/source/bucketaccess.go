package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/fluxcd/pkg/auth"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"golang.org/x/oauth2"

	"headwater.dev/controller/source/bucket"
	"headwater.dev/kernel/cloud"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/secret"
)

// access is how a bucket is reached.
type access struct {
	config    bucket.Config
	keys      secret.Secret // zero when no Secret is named
	proxy     *url.URL
	transport *http.Transport
	options   []auth.Option // of the cloud's identity
}

// openBucket makes the driver of the bucket; done frees its connections.
func (l *loops) openBucket(ctx context.Context, s *bucketScope) (done func(), err error) {
	spec := s.obj.Spec
	a, err := l.bucketAccess(ctx, s.obj)
	if err != nil {
		return nil, err
	}
	switch spec.Provider {
	case sourcev1.BucketProviderGoogle:
		s.driver, err = l.googleDriver(ctx, s.obj, a)
	case sourcev1.BucketProviderAzure:
		s.driver, err = l.azureDriver(ctx, s.obj, a)
	default:
		s.driver, err = l.s3Driver(ctx, s.obj, a)
	}
	switch {
	case err == nil:
		return a.transport.CloseIdleConnections, nil
	case errors.Is(err, bucket.ErrConfig):
		return nil, phase.Stalled(sourcev1.URLInvalidReason, err)
	}
	return nil, err
}

// bucketAccess reads everything that a bucket refers to.
func (l *loops) bucketAccess(ctx context.Context, o *sourcev1.Bucket) (access, error) {
	spec := o.Spec
	var a access
	var err error
	if spec.SecretRef != nil {
		if a.keys, err = l.secret(ctx, o, spec.SecretRef.Name); err != nil {
			return a, err
		}
	}
	var config *tls.Config
	if spec.CertSecretRef != nil {
		if config, err = l.certificates(ctx, o, spec.CertSecretRef.Name); err != nil {
			return a, err
		}
	}
	if spec.ProxySecretRef != nil {
		if a.proxy, err = l.proxy(ctx, o, spec.ProxySecretRef.Name); err != nil {
			return a, err
		}
	}
	a.transport = bucket.NewTransport(config, a.proxy, l.host.Options.LoopbackProxies)
	a.config = bucket.Config{
		Bucket: spec.BucketName, Endpoint: spec.Endpoint, Region: spec.Region, Insecure: spec.Insecure, Transport: patient{a.transport},
	}
	a.options = l.clouds.Options(o, spec.ServiceAccountName, a.proxy)
	return a, nil
}

func (l *loops) s3Driver(ctx context.Context, o *sourcev1.Bucket, a access) (bucket.Driver, error) {
	spec := o.Spec
	var who bucket.S3Credentials
	switch sts := spec.STS; {
	case spec.SecretRef != nil:
		access, key := string(a.keys.Data["accesskey"]), string(a.keys.Data["secretkey"])
		if access == "" || key == "" {
			return nil, badSecret(fmt.Errorf("invalid '%s' secret data: required fields 'accesskey' and 'secretkey'", a.keys.Ref))
		}
		who = bucket.S3Keys(access, key)
	case spec.Provider == sourcev1.BucketProviderAmazon:
		options := a.options
		if spec.Region != "" {
			options = append(options, auth.WithSTSRegion(spec.Region))
		}
		if sts != nil {
			endpoint, err := cloud.STSEndpoint(sts.Endpoint)
			if err != nil {
				return nil, phase.Stalled(sourcev1.URLInvalidReason, fmt.Errorf("spec.sts.endpoint: %w", err))
			}
			options = append(options, endpoint)
		}
		who = bucket.S3FromAWS(l.clouds.AWS(ctx, options...))
	case sts != nil:
		var err error
		if who, err = l.ldap(ctx, o, a); err != nil {
			return nil, err
		}
	}
	return bucket.NewS3(a.config, who)
}

// ldap gives the keys that an STS exchanges for an account of a directory.
func (l *loops) ldap(ctx context.Context, o *sourcev1.Bucket, a access) (bucket.S3Credentials, error) {
	sts := o.Spec.STS
	var account secret.Basic
	var config *tls.Config
	if sts.SecretRef != nil {
		data, err := l.secret(ctx, o, sts.SecretRef.Name)
		if err != nil {
			return bucket.S3Credentials{}, err
		}
		if account, err = data.Basic(); err == nil && account.Username == "" {
			err = fmt.Errorf("invalid '%s' secret data for '%s' STS provider: required fields username, password", data.Ref, sts.Provider)
		}
		if err != nil {
			return bucket.S3Credentials{}, badSecret(err)
		}
	}
	if sts.CertSecretRef != nil {
		var err error
		if config, err = l.certificates(ctx, o, sts.CertSecretRef.Name); err != nil {
			return bucket.S3Credentials{}, err
		}
	}
	transport := bucket.NewTransport(config, a.proxy, l.host.Options.LoopbackProxies)
	transport.DisableKeepAlives = true // it is asked once
	return bucket.S3FromLDAP(sts.Endpoint, account.Username, account.Password, patient{transport})
}

func (l *loops) googleDriver(ctx context.Context, o *sourcev1.Bucket, a access) (bucket.Driver, error) {
	if a.keys.Data == nil {
		shown, err := l.identified(cloud.GCP, o)
		if err != nil {
			return nil, err
		}
		var tokens oauth2.TokenSource
		if shown {
			tokens = l.clouds.GCP(ctx, a.options...)
		}
		return bucket.NewGCS(a.config, tokens)
	}
	key := a.keys.Data["serviceaccount"]
	if len(key) == 0 {
		return nil, badSecret(fmt.Errorf("invalid '%s' secret data: required field 'serviceaccount'", a.keys.Ref))
	}
	tokens, err := bucket.GCSKey(ctx, key, a.config.Transport)
	if err != nil {
		return nil, badSecret(fmt.Errorf("invalid '%s' secret data: %w", a.keys.Ref, err))
	}
	return bucket.NewGCS(a.config, tokens)
}

func (l *loops) azureDriver(ctx context.Context, o *sourcev1.Bucket, a access) (bucket.Driver, error) {
	if a.keys.Data != nil {
		if len(a.keys.Data["tenantId"]) == 0 && len(a.keys.Data["clientId"]) > 0 { // an identity of the node
			if err := l.ownIdentity("", o.Spec.ProxySecretRef != nil || o.Spec.CertSecretRef != nil); err != nil {
				return nil, err
			}
		}
		d, err := bucket.NewAzure(a.config, a.keys.Data, nil)
		if err != nil && !errors.Is(err, bucket.ErrConfig) {
			err = badSecret(fmt.Errorf("invalid '%s' secret data: %w", a.keys.Ref, err))
		}
		return d, err
	}
	shown, err := l.identified(cloud.Azure, o)
	if err != nil {
		return nil, err
	}
	if !shown {
		return bucket.NewAzure(a.config, nil, nil)
	}
	// A public container needs nobody: whoever has no identity reads as nobody.
	who := l.clouds.Azure(ctx, a.options...)
	if o.Spec.ServiceAccountName == "" {
		probe, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if _, err := who.GetToken(probe, policy.TokenRequestOptions{Scopes: []string{"https://storage.azure.com/.default"}}); err != nil {
			who = nil
		}
	}
	return bucket.NewAzure(a.config, nil, who)
}

// identified reports whether the endpoint is shown an identity of the cloud. A
// storage that is not the provider's is read as nobody, unless the bucket names
// a service account to read it as.
func (l *loops) identified(provider string, o *sourcev1.Bucket) (bool, error) {
	raw := o.Spec.Endpoint
	if !strings.Contains(raw, "://") {
		raw = map[bool]string{true: "http://", false: "https://"}[o.Spec.Insecure] + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return false, nil // the driver says so
	}
	err = cloud.ServesStorage(provider, u)
	if err != nil && o.Spec.ServiceAccountName != "" {
		return false, phase.Stalled(sourcev1.InvalidProviderConfigurationReason, fmt.Errorf("spec.endpoint: %w: use spec.secretRef for other storages", err))
	}
	if err != nil {
		return false, nil
	}
	return true, l.ownIdentity(o.Spec.ServiceAccountName, o.Spec.ProxySecretRef != nil || o.Spec.CertSecretRef != nil)
}
