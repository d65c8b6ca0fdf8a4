// Package oci reads artifacts from OCI registries: tags, manifests and layers,
// every one of them pinned by its digest once a tag was resolved.
package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"headwater.dev/kernel/secret"
)

var (
	// ErrInvalid says that a URL or reference can never work.
	ErrInvalid = errors.New("invalid")
	// ErrAuth says that the registry refused the credentials, or wants some.
	ErrAuth = errors.New("authentication failed")
	// ErrNotFound says that the registry has no such repository, tag or digest.
	ErrNotFound = errors.New("not found in the registry")
	// ErrTooLarge says that a layer exceeds the limit that was given.
	ErrTooLarge = errors.New("layer is too large")
)

// maxTags bounds how many tags of a repository are looked at.
const maxTags = 100_000

// Options say how a registry is reached.
type Options struct {
	// Insecure allows HTTP.
	Insecure bool
	// Registries are credentials; those of exactly the registry's host are
	// used.
	Registries secret.Registries
	// TLS and Proxy may be nil.
	TLS   *tls.Config
	Proxy *url.URL
}

// Repository is one repository of a registry. Close it when done.
type Repository struct {
	repo      name.Repository
	options   []remote.Option
	transport *http.Transport
}

// Open checks the URL, "oci://<host>/<repository>". Nothing is sent yet.
func Open(raw string, o Options) (*Repository, error) {
	path, ok := strings.CutPrefix(raw, "oci://")
	if !ok {
		return nil, fmt.Errorf("%w URL: want oci://<host>/<repository>", ErrInvalid)
	}
	if strings.Contains(path, "@") {
		return nil, fmt.Errorf("%w URL: it must hold neither credentials nor a digest", ErrInvalid)
	}
	var options []name.Option
	if o.Insecure {
		options = append(options, name.Insecure)
	}
	repo, err := name.NewRepository(strings.TrimSuffix(path, "/"), options...)
	if err != nil {
		return nil, fmt.Errorf("%w URL: want oci://<host>/<repository> without a tag", ErrInvalid)
	}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 15 * time.Second,
		TLSClientConfig:     o.TLS,
		MaxIdleConns:        4,
		IdleConnTimeout:     10 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	if o.Proxy != nil {
		t.Proxy = http.ProxyURL(o.Proxy)
	}
	r := &Repository{repo: repo, transport: t}
	r.options = []remote.Option{remote.WithTransport(t), remote.WithAuth(authenticator(o.Registries, repo.RegistryStr())), remote.WithUserAgent("headwater/1")}
	return r, nil
}

func authenticator(r secret.Registries, host string) authn.Authenticator {
	reg, ok := r.For(host)
	switch {
	case !ok:
		return authn.Anonymous
	case reg.Token != "":
		return authn.FromConfig(authn.AuthConfig{IdentityToken: reg.Token})
	}
	return authn.FromConfig(authn.AuthConfig{Username: reg.Username, Password: reg.Password})
}

// Close frees the connections.
func (r *Repository) Close() { r.transport.CloseIdleConnections() }

// Host gives the registry's host and port.
func (r *Repository) Host() string { return r.repo.RegistryStr() }

// String gives the URL.
func (r *Repository) String() string { return "oci://" + r.repo.Name() }

func (r *Repository) with(ctx context.Context) []remote.Option {
	return append([]remote.Option{remote.WithContext(ctx)}, r.options...)
}

// Tags lists the tags of the repository.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	tags, err := remote.List(r.repo, r.with(ctx)...)
	if err != nil {
		return nil, r.classify("list tags of "+r.String(), err)
	}
	if len(tags) > maxTags {
		return nil, fmt.Errorf("list tags of %s: more than %d", r, maxTags)
	}
	return tags, nil
}

// Resolve gives the digest of a tag.
func (r *Repository) Resolve(ctx context.Context, tag string) (string, error) {
	t, err := name.NewTag(r.repo.Name()+":"+tag, name.StrictValidation)
	if err != nil {
		return "", fmt.Errorf("%w tag %.128q", ErrInvalid, tag)
	}
	ref := r.repo.Tag(t.TagStr())
	d, err := remote.Head(ref, r.with(ctx)...)
	if err != nil {
		return "", r.classify(fmt.Sprintf("resolve %s:%s", r, tag), err)
	}
	return d.Digest.String(), nil
}

// Image is one manifest.
type Image struct {
	Manifest *v1.Manifest
	image    v1.Image
	repo     *Repository
}

// Image gets the manifest of a digest. Its bytes have that digest.
func (r *Repository) Image(ctx context.Context, digest string) (*Image, error) {
	if _, err := v1.NewHash(digest); err != nil {
		return nil, fmt.Errorf("%w digest %.128q", ErrInvalid, digest)
	}
	img, err := remote.Image(r.repo.Digest(digest), r.with(ctx)...)
	if err != nil {
		return nil, r.classify(fmt.Sprintf("get %s@%s", r, digest), err)
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, r.classify(fmt.Sprintf("read manifest of %s@%s", r, digest), err)
	}
	return &Image{Manifest: m, image: img, repo: r}, nil
}

// Layer picks the layer of a media type, or the first one when mediaType is
// empty.
func (i *Image) Layer(mediaType string) (v1.Descriptor, error) {
	for _, l := range i.Manifest.Layers {
		if mediaType == "" || string(l.MediaType) == mediaType {
			return l, nil
		}
	}
	if mediaType == "" {
		return v1.Descriptor{}, fmt.Errorf("%w: the artifact has no layer", ErrNotFound)
	}
	return v1.Descriptor{}, fmt.Errorf("%w: the artifact has no layer of media type %q", ErrNotFound, mediaType)
}

// Open opens the bytes of a layer as they are stored; reading checks their
// digest at the end. A layer of more than limit bytes is ErrTooLarge.
func (i *Image) Open(d v1.Descriptor, limit int64) (io.ReadCloser, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, d.Size, limit)
	}
	layer, err := i.image.LayerByDigest(d.Digest)
	if err != nil {
		return nil, i.repo.classify("get layer "+d.Digest.String(), err)
	}
	rc, err := layer.Compressed()
	if err != nil {
		return nil, i.repo.classify("get layer "+d.Digest.String(), err)
	}
	return rc, nil
}

// classify gives an error its class, and leaves out what the registry wrote.
func (r *Repository) classify(doing string, err error) error {
	var t *transport.Error
	if !errors.As(err, &t) {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // without URLs and their queries
		}
		return fmt.Errorf("%s: %w", doing, err)
	}
	switch t.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%s: %w: the registry answered %d %s", doing, ErrAuth, t.StatusCode, http.StatusText(t.StatusCode))
	case http.StatusNotFound:
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return fmt.Errorf("%s: the registry answered %d %s", doing, t.StatusCode, http.StatusText(t.StatusCode))
}
