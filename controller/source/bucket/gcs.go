package bucket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"
)

// GCSHost is where Google Cloud Storage is.
const GCSHost = "storage.googleapis.com"

// readOnly is the right that the driver asks for.
const readOnly = "https://www.googleapis.com/auth/devstorage.read_only"

// tokenURI is where Google gives tokens for the keys of service accounts.
const tokenURI = "https://oauth2.googleapis.com/token"

// gcs speaks the JSON API of Google Cloud Storage. Two calls of it are all that
// reading takes; Google's own library costs more memory than everything else
// here together.
type gcs struct {
	client *http.Client
	tokens oauth2.TokenSource
	bucket *url.URL
}

// NewGCS gives the driver of a bucket in Google Cloud Storage; a nil source of
// tokens is anonymous.
func NewGCS(c Config, tokens oauth2.TokenSource) (Driver, error) {
	raw := c.Endpoint
	if !strings.Contains(raw, "://") {
		raw = map[bool]string{true: "http://", false: "https://"}[c.Insecure] + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("%w: spec.endpoint: want %s, or the host of another storage with its API", ErrConfig, GCSHost)
	}
	if u.Scheme != "https" && !c.Insecure {
		return nil, fmt.Errorf("%w: spec.endpoint: http needs spec.insecure", ErrConfig)
	}
	u = u.JoinPath("storage", "v1", "b")
	u.RawPath = u.Path + "/" + url.PathEscape(c.Bucket)
	u.Path += "/" + c.Bucket
	return &gcs{client: c.client(), tokens: tokens, bucket: u}, nil
}

// GCSKey reads the JSON key of a service account. Only such keys are accepted,
// and only with Google's own place for tokens: other kinds of credential files
// name files, commands and URLs that would be read, run and asked here.
func GCSKey(ctx context.Context, data []byte, transport http.RoundTripper) (oauth2.TokenSource, error) {
	return gcsKey(ctx, data, transport, tokenURI)
}

func gcsKey(ctx context.Context, data []byte, transport http.RoundTripper, tokenURI string) (oauth2.TokenSource, error) {
	var key struct {
		Type         string `json:"type"`
		ClientEmail  string `json:"client_email"`
		PrivateKey   string `json:"private_key"`
		PrivateKeyID string `json:"private_key_id"`
		TokenURI     string `json:"token_uri"`
	}
	if json.Unmarshal(data, &key) != nil {
		return nil, errors.New("serviceaccount is not JSON")
	}
	switch {
	case key.Type != "service_account":
		return nil, errors.New(`serviceaccount must be the key of a service account ("type": "service_account"); other kinds of credentials are refused`)
	case key.ClientEmail == "" || key.PrivateKey == "":
		return nil, errors.New("serviceaccount lacks client_email or private_key")
	case key.TokenURI != "" && key.TokenURI != tokenURI:
		return nil, fmt.Errorf("serviceaccount: token_uri must be %s", tokenURI)
	}
	config := jwt.Config{Email: key.ClientEmail, PrivateKey: []byte(key.PrivateKey), PrivateKeyID: key.PrivateKeyID, Scopes: []string{readOnly}, TokenURL: tokenURI}
	client := Config{Transport: limited{transport}}.client()
	return config.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, client)), nil
}

// List implements Driver.
func (g *gcs) List(ctx context.Context, prefix string, visit func(Object) error) error {
	q := url.Values{"prefix": {prefix}, "fields": {"nextPageToken,items(name,etag,size,generation)"}, "maxResults": {"1000"}}
	for {
		var page struct {
			NextPageToken string      `json:"nextPageToken"`
			Items         []gcsObject `json:"items"`
		}
		if err := g.json(ctx, g.url("", q), &page); err != nil {
			if errors.Is(err, ErrNotFound) {
				return ErrNoBucket
			}
			return err
		}
		for _, item := range page.Items {
			o, err := item.object()
			if err == nil {
				err = visit(o)
			}
			if err != nil {
				return err
			}
		}
		if page.NextPageToken == "" {
			return nil
		}
		q.Set("pageToken", page.NextPageToken)
	}
}

// gcsObject is an object in the JSON API; numbers are strings there.
type gcsObject struct {
	Name       string `json:"name"`
	Etag       string `json:"etag"`
	Size       string `json:"size"`
	Generation string `json:"generation"`
}

func (o gcsObject) object() (Object, error) {
	size, err := strconv.ParseInt(o.Size, 10, 64)
	if err != nil || size < 0 {
		return Object{}, errors.New("the storage gave an object without a size")
	}
	return Object{Key: o.Name, ETag: o.Etag, Size: size, version: o.Generation}, nil
}

// Stat implements Driver.
func (g *gcs) Stat(ctx context.Context, key string) (Object, error) {
	var o gcsObject
	if err := g.json(ctx, g.url(key, nil), &o); err != nil {
		return Object{}, err
	}
	return o.object()
}

// Open implements Driver.
func (g *gcs) Open(ctx context.Context, o Object) (io.ReadCloser, error) {
	q := url.Values{"alt": {"media"}}
	if o.version != "" {
		q.Set("ifGenerationMatch", o.version)
	}
	resp, err := g.get(ctx, g.url(o.Key, q))
	if err != nil {
		return nil, err
	}
	// Not every storage with this API knows the condition.
	if got := resp.Header.Get("X-Goog-Generation"); got != "" && o.version != "" && got != o.version {
		resp.Body.Close()
		return nil, ErrChanged
	}
	return resp.Body, nil
}

// url gives the address of an object, or of the listing.
func (g *gcs) url(key string, q url.Values) *url.URL {
	u := *g.bucket
	u.Path, u.RawPath = u.Path+"/o", u.EscapedPath()+"/o"
	if key != "" {
		u.Path, u.RawPath = u.Path+"/"+key, u.RawPath+"/"+url.PathEscape(key)
	}
	u.RawQuery = q.Encode()
	return &u
}

func (g *gcs) json(ctx context.Context, u *url.URL, into any) error {
	resp, err := g.get(ctx, u)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(&bounded{ReadCloser: resp.Body, left: maxDocument}).Decode(into); err != nil {
		return fmt.Errorf("read the storage's answer: %w", err)
	}
	return nil
}

func (g *gcs) get(ctx context.Context, u *url.URL) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: spec.endpoint", ErrConfig)
	}
	// Without it the storage unpacks objects that it keeps compressed.
	if u.Query().Get("alt") == "media" {
		r.Header.Set("Accept-Encoding", "gzip")
	}
	if g.tokens != nil {
		t, err := g.tokens.Token()
		if err != nil {
			return nil, tokenFailed(err)
		}
		t.SetAuthHeader(r)
	}
	resp, err := g.client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, answer(resp.StatusCode, "")
	}
	return resp, nil
}

// tokenFailed leaves out what the answer said.
func tokenFailed(err error) error {
	var r *oauth2.RetrieveError
	if errors.As(err, &r) && r.Response != nil {
		return fmt.Errorf("%w: no token for the service account (%d %s)", ErrDenied, r.Response.StatusCode, plainCode(r.ErrorCode))
	}
	return fmt.Errorf("%w: no token for the service account: %w", ErrDenied, err)
}
