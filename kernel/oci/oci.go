// Package oci reads artifacts from OCI registries: tags, manifests and layers,
// every one of them pinned by its digest once a tag was resolved.
package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
	// Login is how to log in to the registry; nil means to look into
	// Registries, of which the first that knows exactly the registry's host and
	// port counts.
	Login      *secret.Registry
	Registries []secret.Registries
	// TLS and Proxy may be nil.
	TLS   *tls.Config
	Proxy *url.URL
	// LoopbackProxy allows a proxy on this very machine, where it could reach
	// what listens for this machine alone.
	LoopbackProxy bool
	// Public refuses a registry whose address is not public.
	Public bool
}

// Repository is one repository of a registry. Close it when done. It must not
// be used by several at the same time.
type Repository struct {
	repo   name.Repository
	puller *remote.Puller
	guard  *guard
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
	r := &Repository{repo: repo, guard: newGuard(repo.RegistryStr(), repo.Scheme() == "https", o.TLS, o.Proxy)}
	r.guard.public, r.guard.local = o.Public, o.LoopbackProxy
	r.puller, err = remote.NewPuller(remote.WithTransport(r.guard), remote.WithAuth(authenticator(o, repo.RegistryStr())),
		remote.WithUserAgent("headwater/1"), remote.WithJobs(1),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Steps: 2}),
		remote.WithRetryStatusCodes(http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", raw, err)
	}
	return r, nil
}

func authenticator(o Options, host string) authn.Authenticator {
	login := o.Login
	for _, r := range o.Registries {
		if reg, ok := r.For(host); ok && login == nil {
			login = &reg
		}
	}
	switch {
	case login == nil:
		return authn.Anonymous
	case login.Token != "":
		return authn.FromConfig(authn.AuthConfig{IdentityToken: login.Token})
	}
	return authn.FromConfig(authn.AuthConfig{Username: login.Username, Password: login.Password})
}

// Close frees the connections.
func (r *Repository) Close() { r.guard.CloseIdleConnections() }

// Host gives the registry's host and port.
func (r *Repository) Host() string { return r.repo.RegistryStr() }

// String gives the URL.
func (r *Repository) String() string { return "oci://" + r.repo.Name() }

// Reference names a manifest of the repository: "<host>/<repository>@<digest>".
func (r *Repository) Reference(digest string) string { return r.repo.Name() + "@" + digest }

// Tags lists the tags of the repository.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	doing := "list tags of " + r.String()
	pages, err := r.puller.Lister(ctx, r.repo)
	if err != nil {
		return nil, r.classify(doing, err)
	}
	var tags []string
	for pages.HasNext() {
		page, err := pages.Next(ctx)
		if err != nil {
			return nil, r.classify(doing, err)
		}
		tags = append(tags, page.Tags...)
		if len(tags) > maxTags {
			return nil, fmt.Errorf("%s: more than %d", doing, maxTags)
		}
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
	d, err := r.puller.Head(ctx, ref)
	if err != nil {
		return "", r.classify(fmt.Sprintf("resolve %s:%s", r, tag), err)
	}
	return d.Digest.String(), nil
}

// Describe gives media type, digest and size of the manifest with a digest.
func (r *Repository) Describe(ctx context.Context, d string) (ocispec.Descriptor, error) {
	if _, err := v1.NewHash(d); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w digest %.128q", ErrInvalid, d)
	}
	got, err := r.puller.Head(ctx, r.repo.Digest(d))
	if err != nil {
		return ocispec.Descriptor{}, r.classify("describe "+r.Reference(d), err)
	}
	return ocispec.Descriptor{MediaType: string(got.MediaType), Digest: digest.Digest(d), Size: got.Size}, nil
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
	d, err := r.puller.Get(ctx, r.repo.Digest(digest))
	if err != nil {
		return nil, r.classify(fmt.Sprintf("get %s@%s", r, digest), err)
	}
	img, err := d.Image()
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

// Signed is an artifact that refers to another, such as a signature of it.
type Signed struct {
	Digest, MediaType string
	Size              int64
}

// Referrers lists the artifacts of a type that refer to a digest, at most limit
// of them, by the referrers API or by the tag that stands in for it.
func (r *Repository) Referrers(ctx context.Context, digest, artifactType string, limit int) ([]Signed, error) {
	doing := fmt.Sprintf("list referrers of %s@%s", r, digest)
	index, err := remote.Referrers(r.repo.Digest(digest), remote.WithContext(ctx), remote.Reuse(r.puller), remote.WithFilter("artifactType", artifactType))
	if err != nil {
		return nil, r.classify(doing, err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, r.classify(doing, err)
	}
	var list []Signed
	for _, d := range m.Manifests {
		// Some registries do not filter, whatever they were asked.
		if d.ArtifactType == artifactType && len(list) < limit {
			list = append(list, Signed{Digest: d.Digest.String(), MediaType: string(d.MediaType), Size: d.Size})
		}
	}
	return list, nil
}

// RateError says that a server wants to be asked less often.
type RateError struct {
	Doing string
	// After is when it may be asked again; zero when it did not say.
	After time.Duration
}

func (e *RateError) Error() string {
	if e.After == 0 {
		return e.Doing + ": the server limits the rate of requests"
	}
	return fmt.Sprintf("%s: the server limits the rate of requests, and asks for a pause of %s", e.Doing, e.After)
}

// classify gives an error its class, and leaves out what the registry wrote.
func (r *Repository) classify(doing string, err error) error {
	for _, refused := range []error{ErrRealm, ErrProxy, ErrAddress, ErrDowngrade, ErrTooLarge} {
		if errors.Is(err, refused) {
			return fmt.Errorf("%s: %w", doing, refused)
		}
	}
	var t *transport.Error
	if !errors.As(err, &t) {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // without URLs and their queries
		}
		return fmt.Errorf("%s: %w", doing, err)
	}
	after := time.Duration(r.guard.retry.Swap(0))
	switch code := t.StatusCode; {
	case (code == http.StatusUnauthorized || code == http.StatusForbidden) && r.guard.withheld.Load():
		return fmt.Errorf("%s: %w: %w", doing, ErrAuth, ErrRealm)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%s: %w: the registry answered %d %s", doing, ErrAuth, code, http.StatusText(code))
	case code == http.StatusNotFound:
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable && after > 0:
		return &RateError{Doing: doing, After: after}
	}
	return fmt.Errorf("%s: the registry answered %d %s", doing, t.StatusCode, http.StatusText(t.StatusCode))
}
