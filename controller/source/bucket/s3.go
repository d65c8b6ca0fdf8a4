package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Credentials say who reads an S3 bucket; the zero value is anonymous.
type S3Credentials struct{ from *credentials.Credentials }

// S3Keys are a pair of keys that does not expire.
func S3Keys(access, secret string) S3Credentials {
	return S3Credentials{credentials.NewStaticV4(access, secret, "")}
}

// S3FromLDAP are temporary keys that a Security Token Service with MinIO's API
// gives for the account of a directory. Empty names ask it for what it gives
// anybody.
func S3FromLDAP(endpoint, username, password string, transport http.RoundTripper) (S3Credentials, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
		return S3Credentials{}, fmt.Errorf("%w: spec.sts.endpoint: want http:// or https:// and a host", ErrConfig)
	}
	client := Config{Transport: limited{transport}}.client()
	return S3Credentials{credentials.New(&credentials.LDAPIdentity{Client: client, STSEndpoint: endpoint, LDAPUsername: username, LDAPPassword: password})}, nil
}

// S3FromAWS are the temporary keys of an identity at AWS.
func S3FromAWS(p aws.CredentialsProvider) S3Credentials {
	return S3Credentials{credentials.New(&identity{from: p})}
}

// identity makes keys of AWS's library those of MinIO's.
type identity struct {
	from aws.CredentialsProvider
	credentials.Expiry
}

// RetrieveWithCredContext implements credentials.Provider.
func (i *identity) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return i.Retrieve()
}

// Retrieve implements credentials.Provider.
func (i *identity) Retrieve() (credentials.Value, error) {
	got, err := i.from.Retrieve(context.Background())
	if err != nil {
		return credentials.Value{}, err
	}
	if got.CanExpire {
		i.SetExpiration(got.Expires, credentials.DefaultExpiryWindow)
	}
	return credentials.Value{AccessKeyID: got.AccessKeyID, SecretAccessKey: got.SecretAccessKey, SessionToken: got.SessionToken, SignerType: credentials.SignatureV4}, nil
}

type s3 struct {
	client *minio.Client
	bucket string
}

// NewS3 gives the driver of a bucket with the API of S3.
func NewS3(c Config, creds S3Credentials) (Driver, error) {
	if creds.from == nil {
		creds.from = credentials.NewStatic("", "", "", credentials.SignatureAnonymous)
	}
	client, err := minio.New(c.Endpoint, &minio.Options{
		Creds: creds.from, Secure: !c.Insecure, Region: c.Region, MaxRetries: 1, Transport: limited{c.Transport},
	})
	if err != nil || strings.Contains(c.Endpoint, "/") {
		return nil, fmt.Errorf("%w: spec.endpoint: want <host> or <host>:<port> without a scheme", ErrConfig)
	}
	return &s3{client: client, bucket: c.Bucket}, nil
}

// List implements Driver.
func (s *s3) List(ctx context.Context, prefix string, visit func(Object) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for o := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return s.failed(o.Err)
		}
		if err := visit(Object{Key: o.Key, ETag: o.ETag, Size: o.Size}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Stat implements Driver.
func (s *s3) Stat(ctx context.Context, key string) (Object, error) {
	o, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return Object{}, s.failed(err)
	}
	return Object{Key: key, ETag: o.ETag, Size: o.Size}, nil
}

// Open implements Driver.
func (s *s3) Open(ctx context.Context, o Object) (io.ReadCloser, error) {
	var opts minio.GetObjectOptions
	if err := opts.SetMatchETag(o.ETag); err != nil {
		return nil, err
	}
	core := minio.Core{Client: s.client}
	body, _, _, err := core.GetObject(ctx, s.bucket, o.Key, opts)
	if err != nil {
		return nil, s.failed(err)
	}
	return body, nil
}

func (s *s3) failed(err error) error {
	var a minio.ErrorResponse
	if !errors.As(err, &a) {
		// The STS has error answers of its own type.
		var sts credentials.ErrorResponse
		if errors.As(err, &sts) {
			return fmt.Errorf("%w: the STS gave no keys (%s)", ErrDenied, plainCode(sts.STSError.Code))
		}
		return err
	}
	switch a.Code {
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken":
		return answer(http.StatusForbidden, a.Code)
	}
	return answer(a.StatusCode, a.Code)
}

// maxDocument bounds one page of a listing, and other answers that are not
// objects.
const maxDocument = 16 << 20

// limited bounds the answers that a library reads as a whole: all but those to
// a GET that asks for an object.
type limited struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err != nil || resp.StatusCode == http.StatusOK && r.Method == http.MethodGet && r.Header.Get("If-Match") != "" {
		return resp, err
	}
	resp.Body = &bounded{ReadCloser: resp.Body, left: maxDocument}
	return resp, nil
}

// bounded fails with ErrTooLarge once more than left bytes were read.
type bounded struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, fmt.Errorf("%w: an answer of the storage", ErrTooLarge)
	}
	return n, err
}
