package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	provider "headwater.dev/kernel/cloud"
)

// AzureKeys are the keys of a Secret for Azure Blob Storage, by name.
type AzureKeys map[string][]byte

type azure struct{ client *container.Client }

// NewAzure gives the driver of a container in Azure Blob Storage. The keys
// decide who reads it: a service principal with secret or certificate, a managed
// identity, an account key or a SAS key; without any, it is fallback, and
// nobody when that is nil.
func NewAzure(c Config, keys AzureKeys, fallback azcore.TokenCredential) (Driver, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("%w: spec.endpoint: want https://<account>.blob.core.windows.net", ErrConfig)
	}
	options := &container.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: c.client(), Retry: policy.RetryOptions{MaxRetries: 1}, InsecureAllowCredentialWithHTTP: c.Insecure,
	}}
	credential, err := keys.credential(c)
	if err != nil {
		return nil, err
	}
	if credential == nil && len(keys) == 0 {
		credential = fallback
	}
	at := u.JoinPath(c.Bucket)
	var client *container.Client
	switch sas, key := keys["sasKey"], keys["accountKey"]; {
	case credential != nil:
		client, err = container.NewClient(at.String(), credential, options)
	case len(key) > 0:
		shared, sharedErr := container.NewSharedKeyCredential(accountName(u), string(key))
		if sharedErr != nil {
			return nil, errors.New("accountKey is not base64")
		}
		client, err = container.NewClientWithSharedKeyCredential(at.String(), shared, options)
	case len(sas) > 0:
		if at.RawQuery, err = sasQuery(string(sas)); err == nil {
			client, err = container.NewClientWithNoCredential(at.String(), options)
		}
	case len(keys) > 0:
		return nil, errors.New("no usable combination of keys: want tenantId, clientId and clientSecret or clientCertificate; or clientId; or accountKey; or sasKey")
	default:
		client, err = container.NewClientWithNoCredential(at.String(), options)
	}
	if err != nil {
		return nil, err
	}
	return &azure{client}, nil
}

// accountName is the first label of the host, or the first segment of the path
// where hosts are no names of accounts.
func accountName(u *url.URL) string {
	if p := strings.Trim(u.Path, "/"); p != "" {
		return strings.Split(p, "/")[0]
	}
	name, _, _ := strings.Cut(u.Hostname(), ".")
	return name
}

// sasQuery accepts a SAS key with or without its question mark.
func sasQuery(raw string) (string, error) {
	raw = strings.TrimPrefix(strings.TrimSpace(raw), "?")
	q, err := url.ParseQuery(raw)
	if err != nil || q.Get("sig") == "" {
		return "", errors.New("sasKey is no SAS key: it has no signature (sig)")
	}
	return raw, nil
}

// credential gives the identity that the keys name; nil when they name none.
func (k AzureKeys) credential(c Config) (azcore.TokenCredential, error) {
	text := func(name string) string { return string(k[name]) }
	tenant, client := text("tenantId"), text("clientId")
	options := policy.ClientOptions{Transport: Config{Transport: limited{c.Transport}}.client(), Retry: policy.RetryOptions{MaxRetries: 1}}
	custom := text("authorityHost") != ""
	if custom {
		u, err := url.Parse(text("authorityHost"))
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, errors.New("authorityHost must be an https URL")
		}
		options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: u.String()}
	}
	switch {
	case tenant != "" && client != "" && text("clientSecret") != "":
		cred, err := azidentity.NewClientSecretCredential(tenant, client, text("clientSecret"),
			&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: custom})
		return cred, hidden("tenantId, clientId and clientSecret cannot be used", err)
	case tenant != "" && client != "" && text("clientCertificate") != "":
		certs, key, err := azidentity.ParseCertificates(k["clientCertificate"], k["clientCertificatePassword"])
		if err != nil {
			return nil, errors.New("clientCertificate holds no PEM or PKCS#12 certificate with its key, or clientCertificatePassword is wrong")
		}
		cred, err := azidentity.NewClientCertificateCredential(tenant, client, certs, key, &azidentity.ClientCertificateCredentialOptions{
			ClientOptions: options, DisableInstanceDiscovery: custom, SendCertificateChain: text("clientCertificateSendChain") == "1" || text("clientCertificateSendChain") == "true",
		})
		return cred, hidden("tenantId, clientId and clientCertificate cannot be used", err)
	case client != "" && tenant == "":
		u, err := url.Parse(c.Endpoint)
		if err == nil {
			err = provider.ServesStorage(provider.Azure, u)
		}
		if err != nil {
			return nil, fmt.Errorf("clientId is an identity of the node: %w", err)
		}
		// The identity of the node is asked on its own address, which only this
		// credential may reach: not through the transport of the storage.
		cred, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ID: azidentity.ClientID(client)})
		return cred, hidden("clientId cannot be used", err)
	}
	return nil, nil
}

// hidden replaces an error that may quote a value.
func hidden(message string, err error) error {
	if err == nil {
		return nil
	}
	return errors.New(message)
}

// List implements Driver.
func (a *azure) List(ctx context.Context, prefix string, visit func(Object) error) error {
	pages := a.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix})
	for pages.More() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return azureFailed(err)
		}
		for _, b := range page.Segment.BlobItems {
			if b == nil || b.Name == nil || b.Properties == nil || b.Properties.ETag == nil || b.Properties.ContentLength == nil {
				return errors.New("the storage listed an object without name, ETag or size")
			}
			if *b.Properties.ContentLength < 0 {
				return errors.New("the storage gave an object a negative size")
			}
			if err := visit(azureObject(*b.Name, *b.Properties.ETag, *b.Properties.ContentLength)); err != nil {
				return err
			}
		}
	}
	return nil
}

func azureObject(key string, etag azcore.ETag, size int64) Object {
	return Object{Key: key, ETag: strings.Trim(string(etag), `"`), Size: size, version: string(etag)}
}

// Stat implements Driver.
func (a *azure) Stat(ctx context.Context, key string) (Object, error) {
	p, err := a.client.NewBlobClient(key).GetProperties(ctx, nil)
	if err != nil {
		return Object{}, azureFailed(err)
	}
	if p.ETag == nil || p.ContentLength == nil {
		return Object{}, errors.New("the storage gave an object without ETag or size")
	}
	return azureObject(key, *p.ETag, *p.ContentLength), nil
}

// Open implements Driver.
func (a *azure) Open(ctx context.Context, o Object) (io.ReadCloser, error) {
	etag := azcore.ETag(o.version)
	if !strings.HasPrefix(o.version, `"`) {
		etag = azcore.ETag(`"` + o.version + `"`) // listings leave the quotes out
	}
	opts := &blob.DownloadStreamOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &etag}}}
	got, err := a.client.NewBlobClient(o.Key).DownloadStream(ctx, opts)
	if err != nil {
		return nil, azureFailed(err)
	}
	return got.Body, nil
}

func azureFailed(err error) error {
	var denied *azidentity.AuthenticationFailedError
	var none interface{ NonRetriable() }
	var a *azcore.ResponseError
	switch {
	case errors.As(err, &denied):
		status := 0
		if denied.RawResponse != nil {
			status = denied.RawResponse.StatusCode
		}
		return fmt.Errorf("%w: no token for the identity (%d)", ErrDenied, status)
	case errors.As(err, &a):
		code := a.ErrorCode
		if a.StatusCode == http.StatusConflict && code == "PublicAccessNotPermitted" {
			return answer(http.StatusForbidden, code)
		}
		return answer(a.StatusCode, code)
	case errors.As(err, &none):
		return fmt.Errorf("%w: no token for the identity", ErrDenied)
	}
	return err
}
