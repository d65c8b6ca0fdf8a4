package decrypt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"sigs.k8s.io/yaml"
)

// addAWS reads a static access key.
func (k *Keys) addAWS(value []byte) error {
	var c struct {
		ID      string `json:"aws_access_key_id"`
		Secret  string `json:"aws_secret_access_key"`
		Session string `json:"aws_session_token"`
	}
	if err := yaml.Unmarshal(value, &c); err != nil || c.ID == "" || c.Secret == "" {
		return errors.New("needs aws_access_key_id and aws_secret_access_key, and may have aws_session_token")
	}
	k.hide(c.Secret, c.Session)
	k.aws = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: c.ID, SecretAccessKey: c.Secret, SessionToken: c.Session, Source: awsKMS}, nil
	})
	return nil
}

// azureFile is what a Secret may say: in the words of Azure's SDK, or as the
// Azure CLI prints a service principal.
type azureFile struct {
	TenantID      string `json:"tenantId"`
	ClientID      string `json:"clientId"`
	ClientSecret  string `json:"clientSecret"`
	Certificate   string `json:"clientCertificate"`
	CertPassword  string `json:"clientCertificatePassword"`
	SendChain     bool   `json:"clientCertificateSendChain"`
	AuthorityHost string `json:"authorityHost"`

	Tenant   string `json:"tenant"`
	AppID    string `json:"appId"`
	Password string `json:"password"`
}

// addAzure reads a service principal. A managed identity is the machine's, not
// the tenant's, so it is not taken from a Secret.
func (k *Keys) addAzure(value []byte) error {
	var f azureFile
	if err := yaml.Unmarshal(value, &f); err != nil {
		return errors.New("is no YAML with tenantId, clientId and clientSecret or clientCertificate")
	}
	if f.TenantID == "" && f.Tenant != "" {
		f.TenantID, f.ClientID, f.ClientSecret = f.Tenant, f.AppID, f.Password
	}
	if f.TenantID == "" || f.ClientID == "" || f.ClientSecret == "" && f.Certificate == "" {
		return errors.New("needs tenantId, clientId and clientSecret or clientCertificate; for a workload's identity set spec.decryption.serviceAccountName instead")
	}
	k.hide(f.ClientSecret, f.CertPassword)
	options := azcore.ClientOptions{Transport: &http.Client{Transport: k.transport}}
	if f.AuthorityHost != "" {
		at, err := azureCloud(f.AuthorityHost)
		if err != nil {
			return err
		}
		options.Cloud = at
	}
	cred, err := f.credential(options)
	if err != nil {
		return errors.New(k.redact(firstLine(err)))
	}
	k.azure = cred
	return nil
}

func azureCloud(authority string) (cloud.Configuration, error) {
	known := []cloud.Configuration{cloud.AzurePublic, cloud.AzureChina, cloud.AzureGovernment}
	i := slices.IndexFunc(known, func(c cloud.Configuration) bool {
		return strings.TrimSuffix(c.ActiveDirectoryAuthorityHost, "/") == strings.TrimSuffix(authority, "/")
	})
	if i < 0 {
		return cloud.Configuration{}, errors.New("authorityHost is none of Azure's clouds")
	}
	return known[i], nil
}

func (f azureFile) credential(options azcore.ClientOptions) (azcore.TokenCredential, error) {
	if f.ClientSecret != "" {
		return azidentity.NewClientSecretCredential(f.TenantID, f.ClientID, f.ClientSecret, &azidentity.ClientSecretCredentialOptions{ClientOptions: options})
	}
	certs, key, err := azidentity.ParseCertificates([]byte(f.Certificate), []byte(f.CertPassword))
	if err != nil {
		return nil, errors.New("clientCertificate cannot be read, or clientCertificatePassword is wrong")
	}
	return azidentity.NewClientCertificateCredential(f.TenantID, f.ClientID, certs, key,
		&azidentity.ClientCertificateCredentialOptions{ClientOptions: options, SendCertificateChain: f.SendChain})
}

// addGCP reads the key of a service account. Other kinds of credentials name
// programs to run and addresses to ask.
func (k *Keys) addGCP(value []byte) error {
	var f struct {
		Type     string `json:"type"`
		TokenURI string `json:"token_uri"`
		Key      string `json:"private_key"`
	}
	if err := json.Unmarshal(value, &f); err != nil {
		return errors.New("is no JSON key of a service account")
	}
	if f.Type != "service_account" {
		return fmt.Errorf("credentials of type %q are not supported: use the JSON key of a service account", firstLine(errors.New(f.Type)))
	}
	if !slices.Contains([]string{"", google.JWTTokenURL, "https://accounts.google.com/o/oauth2/token"}, f.TokenURI) {
		return errors.New("token_uri is not Google's")
	}
	if _, err := google.JWTConfigFromJSON(value, kmsScope); err != nil {
		return errors.New("is no JSON key of a service account")
	}
	k.hide(f.Key)
	k.gcp = value
	return nil
}

const kmsScope = "https://www.googleapis.com/auth/cloudkms"

// googleTokens are the tokens for Google's KMS: of the Secret, else of the
// identity.
func (k *Keys) googleTokens(ctx context.Context) (oauth2.TokenSource, error) {
	if k.gcp != nil {
		c, err := google.JWTConfigFromJSON(k.gcp, kmsScope)
		if err != nil {
			return nil, errors.New("sops.gcp-kms is no JSON key of a service account")
		}
		return c.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: k.transport})), nil
	}
	if k.clouds.GCP == nil {
		return nil, errNoCredentials(gcpKMS)
	}
	return k.clouds.GCP(ctx), nil
}

func (k *Keys) amazonCredentials(ctx context.Context, region string) (aws.CredentialsProvider, error) {
	if k.aws != nil {
		return k.aws, nil
	}
	if k.clouds.AWS == nil {
		return nil, errNoCredentials(awsKMS)
	}
	return k.clouds.AWS(ctx, region), nil
}

func (k *Keys) azureCredential(ctx context.Context) (azcore.TokenCredential, error) {
	if k.azure != nil {
		return k.azure, nil
	}
	if k.clouds.Azure == nil {
		return nil, errNoCredentials(azureKV)
	}
	return k.clouds.Azure(ctx), nil
}

func errNoCredentials(entry string) error {
	return fmt.Errorf("no credentials: add %s to the decryption Secret, or set spec.decryption.serviceAccountName", entry)
}
