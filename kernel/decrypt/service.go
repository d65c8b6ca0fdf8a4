package decrypt

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"filippo.io/age"
	agearmor "filippo.io/age/armor"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/gcpkms"
	"github.com/getsops/sops/v3/hcvault"
	"github.com/getsops/sops/v3/keyservice"
	"golang.org/x/oauth2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
)

// maxDataKey bounds a decrypted data key; they have 32 or 33 bytes.
const maxDataKey = 1 << 10

// keyARN is the ARN of a key of AWS; its region becomes part of a host name.
var keyARN = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]+:(key|alias)/[A-Za-z0-9/_:-]+$`)

// service answers sops for one document, with the keys of one Kustomization.
type service struct {
	ctx   context.Context
	keys  *Keys
	tried []string
}

var _ keyservice.KeyServiceClient = (*service)(nil)

// Encrypt implements keyservice.KeyServiceClient; nothing is encrypted here.
func (s *service) Encrypt(context.Context, *keyservice.EncryptRequest, ...grpc.CallOption) (*keyservice.EncryptResponse, error) {
	return nil, errors.New("keys of a Kustomization do not encrypt")
}

// Decrypt implements keyservice.KeyServiceClient.
func (s *service) Decrypt(_ context.Context, r *keyservice.DecryptRequest, _ ...grpc.CallOption) (*keyservice.DecryptResponse, error) {
	name, plain, err := s.dataKey(r)
	if err == nil && len(plain) == 0 {
		err = errors.New("gives an empty data key")
	}
	if err != nil {
		s.tried = append(s.tried, name+": "+s.keys.redact(firstLine(err)))
		return nil, err
	}
	return &keyservice.DecryptResponse{Plaintext: plain}, nil
}

func (s *service) explain() error {
	if err := s.ctx.Err(); err != nil {
		return fmt.Errorf("decryption interrupted: %w", err)
	}
	if len(s.tried) == 0 {
		return errors.New("no key for the document: its sops metadata names none")
	}
	return fmt.Errorf("no key for the document: %s", strings.Join(s.tried, "; "))
}

func (s *service) dataKey(r *keyservice.DecryptRequest) (name string, plain []byte, err error) {
	switch key := r.Key.GetKeyType().(type) {
	case *keyservice.Key_AgeKey:
		plain, err = s.keys.openAge(r.Ciphertext)
		return "age recipient " + key.AgeKey.Recipient, plain, err
	case *keyservice.Key_PgpKey:
		plain, err = s.keys.openPGP(r.Ciphertext)
		return "OpenPGP key " + key.PgpKey.Fingerprint, plain, err
	case *keyservice.Key_VaultKey:
		plain, err = s.vault(key.VaultKey, r.Ciphertext)
		return "Vault key " + key.VaultKey.KeyName, plain, err
	case *keyservice.Key_KmsKey:
		plain, err = s.amazon(key.KmsKey, r.Ciphertext)
		return "AWS KMS key " + key.KmsKey.Arn, plain, err
	case *keyservice.Key_AzureKeyvaultKey:
		plain, err = s.azure(key.AzureKeyvaultKey, r.Ciphertext)
		return "Azure Key Vault key " + key.AzureKeyvaultKey.Name, plain, err
	case *keyservice.Key_GcpKmsKey:
		plain, err = s.google(key.GcpKmsKey, r.Ciphertext)
		return "Google KMS key " + key.GcpKmsKey.ResourceId, plain, err
	}
	return "key", nil, errors.New("of a kind that is not supported: use age, OpenPGP, Vault, AWS KMS, Azure Key Vault or Google KMS")
}

func (k *Keys) openAge(ciphertext []byte) ([]byte, error) {
	if len(k.age) == 0 {
		return nil, errors.New("the decryption Secret has no *.agekey")
	}
	r, err := age.Decrypt(agearmor.NewReader(bytes.NewReader(ciphertext)), k.age...)
	var mismatch *age.NoIdentityMatchError
	if errors.As(err, &mismatch) {
		return nil, errors.New("no *.agekey of the decryption Secret belongs to it")
	}
	if err != nil {
		return nil, errors.New("the encrypted data key is malformed")
	}
	return read(r)
}

func (k *Keys) openPGP(ciphertext []byte) ([]byte, error) {
	if len(k.pgp) == 0 {
		return nil, errors.New("the decryption Secret has no *.asc")
	}
	block, err := armor.Decode(bytes.NewReader(ciphertext))
	if err != nil {
		return nil, errors.New("the encrypted data key is malformed")
	}
	md, err := openpgp.ReadMessage(block.Body, k.pgp, nil, nil)
	if err != nil {
		return nil, errors.New("no *.asc of the decryption Secret belongs to it")
	}
	return read(md.UnverifiedBody)
}

func read(r io.Reader) ([]byte, error) {
	plain, err := io.ReadAll(io.LimitReader(r, maxDataKey+1))
	if err != nil || len(plain) > maxDataKey {
		return nil, errors.New("the encrypted data key is malformed")
	}
	return plain, nil
}

func (s *service) vault(key *keyservice.VaultKey, ciphertext []byte) ([]byte, error) {
	if s.keys.vault == "" {
		return nil, errors.New("the decryption Secret has no " + vaultToken)
	}
	address, err := s.keys.vaultAddress(key.VaultAddress)
	if err != nil {
		return nil, err
	}
	if slices.Contains(strings.Split(key.EnginePath+"/"+key.KeyName, "/"), "..") {
		return nil, errors.New("its path leads out of the engine")
	}
	mk := hcvault.NewMasterKey(key.VaultAddress, key.EnginePath, key.KeyName)
	hcvault.Token(s.keys.vault).ApplyToMasterKey(mk)
	hcvault.NewHTTPClient(&http.Client{Transport: oneHost{address.Host, s.keys.transport}}).ApplyToMasterKey(mk)
	mk.EncryptedKey = string(ciphertext)
	return mk.DecryptContext(s.ctx)
}

// vaultAddress judges the address that a document names, before the token is
// sent there.
func (k *Keys) vaultAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return nil, errors.New("its address is no http or https URL")
	}
	if !k.listed {
		return u, nil
	}
	for _, a := range k.addresses {
		if allowed, err := url.Parse(a); err == nil && allowed.Scheme == u.Scheme && strings.EqualFold(allowed.Host, u.Host) {
			return u, nil
		}
	}
	return nil, fmt.Errorf("its address %s is not among the allowed addresses of Vault: whoever runs the controllers allows it with --vault-addresses=%s://%s", u.Host, u.Scheme, u.Host)
}

func (s *service) amazon(key *keyservice.KmsKey, ciphertext []byte) ([]byte, error) {
	m := keyARN.FindStringSubmatch(key.Arn)
	if m == nil {
		return nil, errors.New("is no ARN of a key")
	}
	credentials, err := s.keys.amazonCredentials(s.ctx, m[1])
	if err != nil {
		return nil, err
	}
	blob, err := base64.StdEncoding.DecodeString(string(ciphertext))
	if err != nil {
		return nil, errors.New("the encrypted data key is malformed")
	}
	// the SDK's own loader of configurations, which sops uses, reads the environment
	config := aws.Config{Region: m[1], Credentials: credentials, HTTPClient: &http.Client{Transport: s.keys.transport}}
	if key.Role != "" {
		if config.Credentials, err = s.assume(config, key.Role); err != nil {
			return nil, err
		}
	}
	out, err := kms.NewFromConfig(config).Decrypt(s.ctx, &kms.DecryptInput{KeyId: &key.Arn, CiphertextBlob: blob, EncryptionContext: key.Context})
	if err != nil {
		return nil, err
	}
	return out.Plaintext, nil
}

// assume takes the role that a document names, as sops does.
func (s *service) assume(config aws.Config, role string) (aws.CredentialsProvider, error) {
	session := "headwater-sops"
	out, err := sts.NewFromConfig(config).AssumeRole(s.ctx, &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: &session})
	if err != nil {
		return nil, fmt.Errorf("assume role %s: %w", role, err)
	}
	c := aws.Credentials{
		AccessKeyID: aws.ToString(out.Credentials.AccessKeyId), SecretAccessKey: aws.ToString(out.Credentials.SecretAccessKey),
		SessionToken: aws.ToString(out.Credentials.SessionToken),
	}
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil }), nil
}

func (s *service) azure(key *keyservice.AzureKeyVaultKey, ciphertext []byte) ([]byte, error) {
	u, err := url.Parse(key.VaultUrl)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, errors.New("its vault is no https URL")
	}
	credential, err := s.keys.azureCredential(s.ctx)
	if err != nil {
		return nil, err
	}
	mk := azkv.NewMasterKey(key.VaultUrl, key.Name, key.Version)
	azkv.NewTokenCredential(credential).ApplyToMasterKey(mk)
	azkv.NewClientOptions(&azkeys.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: &http.Client{Transport: s.keys.transport}},
	}).ApplyToMasterKey(mk)
	mk.EncryptedKey = string(ciphertext)
	return mk.DecryptContext(s.ctx)
}

func (s *service) google(key *keyservice.GcpKmsKey, ciphertext []byte) ([]byte, error) {
	tokens, err := s.keys.googleTokens(s.ctx)
	if err != nil {
		return nil, err
	}
	mk := gcpkms.NewMasterKeyFromResourceID(key.ResourceId)
	gcpkms.NewTokenSource(tokens).ApplyToMasterKey(mk)
	gcpkms.UseRESTClient{}.ApplyToMasterKey(mk)
	gcpkms.ClientOptions{option.WithHTTPClient(&http.Client{
		Transport: &oauth2.Transport{Source: tokens, Base: s.keys.transport},
	})}.ApplyToMasterKey(mk)
	mk.EncryptedKey = string(ciphertext)
	return mk.DecryptContext(s.ctx)
}
