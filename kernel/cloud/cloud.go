// Package cloud gets short-lived credentials from cloud providers, for
// registries, Git servers, clusters, buckets and keys, through the library that
// Flux publishes for it.
//
// An object that names a service account gets credentials of that account alone
// (workload identity of the object); one that names none gets those of the
// process. Credentials are cached by everything that they depend on: provider,
// identity, service account, audience, scope, STS endpoint, proxy and what they
// are for.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/auth/aws"
	"github.com/fluxcd/pkg/auth/azure"
	"github.com/fluxcd/pkg/auth/gcp"
	"github.com/fluxcd/pkg/auth/generic"
	"github.com/fluxcd/pkg/auth/utils"
	"github.com/fluxcd/pkg/cache"
	"golang.org/x/oauth2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The names of the providers, as specifications write them.
const (
	AWS     = aws.ProviderName
	Azure   = azure.ProviderName
	GCP     = gcp.ProviderName
	Generic = generic.ProviderName
)

var (
	// ErrUnsupported says that there is no such provider, or that it does not
	// offer what is asked of it. Trying again does not help.
	ErrUnsupported = errors.New("unsupported provider")
	// ErrCredentials says that a provider gave no credentials.
	ErrCredentials = errors.New("no credentials from the provider")
)

// DefaultCacheSize is how many tokens are kept unless told otherwise.
const DefaultCacheSize = 1000

// maxMessage bounds what is told of a provider's answer.
const maxMessage = 400

// Config is what the providers need of the cluster.
type Config struct {
	// Client asks for the tokens of service accounts.
	Client client.Client
	// Live reads service accounts and ConfigMaps past any cache, so that no
	// informer of them is started.
	Live client.Reader
	// CacheSize bounds the tokens that are kept; 0 means DefaultCacheSize, and
	// the least recently used go first.
	CacheSize int
}

// Providers gives credentials. Its methods may be called at the same time.
type Providers struct {
	client client.Client
	tokens *cache.TokenCache
}

// New makes the providers of a process. It lets objects name service accounts,
// which is a setting of the whole process in the library.
func New(c Config) (*Providers, error) {
	if c.Client == nil || c.Live == nil {
		return nil, errors.New("make cloud providers: Client and Live must be set")
	}
	if c.CacheSize == 0 {
		c.CacheSize = DefaultCacheSize
	}
	tokens, err := cache.NewTokenCache(c.CacheSize)
	if err != nil {
		return nil, fmt.Errorf("make cloud providers: %w", err)
	}
	auth.EnableObjectLevelWorkloadIdentity()
	return &Providers{client: direct{c.Client, c.Live}, tokens: tokens}, nil
}

// direct reads past the cache.
type direct struct {
	client.Client
	live client.Reader
}

// Get implements client.Reader.
func (d direct) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	return d.live.Get(ctx, key, obj, opts...)
}

// List implements client.Reader.
func (d direct) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return d.live.List(ctx, list, opts...)
}

// Options are the options of a request on behalf of an object: as the service
// account of its namespace when it names one, else as the process. proxy may be
// nil. Further options of the library can be appended, such as
// auth.WithSTSRegion.
func (p *Providers) Options(obj client.Object, serviceAccountName string, proxy *url.URL) []auth.Option {
	options := []auth.Option{
		auth.WithClient(p.client),
		auth.WithCache(*p.tokens, cache.InvolvedObject{
			Kind: kindOf(obj), Name: obj.GetName(), Namespace: obj.GetNamespace(), Operation: "reconcile",
		}),
		auth.WithServiceAccountNamespace(obj.GetNamespace()),
	}
	if serviceAccountName != "" {
		options = append(options, auth.WithServiceAccountName(serviceAccountName))
	}
	if proxy != nil {
		options = append(options, auth.WithProxyURL(*proxy))
	}
	return options
}

func kindOf(obj client.Object) string {
	if k := obj.GetObjectKind().GroupVersionKind().Kind; k != "" {
		return k
	}
	return reflect.Indirect(reflect.ValueOf(obj)).Type().Name()
}

// Login is how to log in to a registry or a Git server. Bearer goes alone.
type Login struct {
	Username, Password string
	// Bearer is a token for the Authorization header.
	Bearer string
	// Identity is a refresh token of a registry.
	Identity string
}

// Registry gives the credentials of a registry, for "<host>/<repository>" or
// "oci://<host>/<repository>". A host that is not the provider's gets none: it
// is ErrUnsupported.
func (p *Providers) Registry(ctx context.Context, provider, repository string, options ...auth.Option) (Login, error) {
	found, err := utils.ProviderByName[auth.ArtifactRegistryCredentialsProvider](provider)
	if err != nil {
		return Login{}, fmt.Errorf("%w: %q has no credentials for registries: use aws, azure or gcp", ErrUnsupported, provider)
	}
	repository = strings.TrimPrefix(repository, "oci://")
	if _, err := found.ParseArtifactRepository(repository); err != nil {
		return Login{}, fmt.Errorf("%w: %q does not serve this registry: %w", ErrUnsupported, provider, short(err))
	}
	if err := ServesRegistry(provider, repository); err != nil {
		return Login{}, err
	}
	got, err := auth.GetArtifactRegistryCredentials(ctx, found, repository, options...)
	if err != nil {
		return Login{}, failed(provider, err)
	}
	c, err := got.Authorization()
	if err != nil {
		return Login{}, failed(provider, err)
	}
	return Login{Username: c.Username, Password: c.Password, Bearer: c.RegistryToken, Identity: c.IdentityToken}, nil
}

// Git gives the credentials of a Git repository. A server that is not the
// provider's gets none: it is ErrUnsupported.
func (p *Providers) Git(ctx context.Context, provider string, repository *url.URL, options ...auth.Option) (Login, error) {
	found, err := utils.ProviderByName[auth.GitCredentialsProvider](provider)
	if err != nil {
		return Login{}, fmt.Errorf("%w: %q has no credentials for Git repositories", ErrUnsupported, provider)
	}
	if _, err := found.ParseGitRepository(repository); err != nil {
		return Login{}, fmt.Errorf("%w: %q does not serve this Git repository: %w", ErrUnsupported, provider, short(err))
	}
	if err := ServesGit(provider, repository); err != nil {
		return Login{}, err
	}
	c, err := auth.GetGitCredentials(ctx, found, append(options[:len(options):len(options)], auth.WithGitURL(*repository))...)
	if err != nil {
		return Login{}, failed(provider, err)
	}
	return Login{Username: c.Username, Password: c.Password, Bearer: c.BearerToken}, nil
}

// RESTConfig gives the access to the cluster that a ConfigMap of the object's
// namespace describes (spec.kubeConfig.configMapRef). What counts is the
// ConfigMap that is given, which the caller has judged: it is not read again.
// Tokens are renewed while the configuration is used.
func (p *Providers) RESTConfig(ctx context.Context, obj client.Object, cm *corev1.ConfigMap) (*rest.Config, error) {
	key := client.ObjectKeyFromObject(cm)
	if key.Namespace != obj.GetNamespace() {
		return nil, fmt.Errorf("ConfigMap %q is of another namespace than the object that names it", key)
	}
	provider := cm.Data[meta.KubeConfigKeyProvider]
	if _, err := utils.ProviderByName[auth.RESTConfigProvider](provider); err != nil {
		return nil, fmt.Errorf("ConfigMap %q: data.%s: %w: %q has no access to clusters: use aws, azure, gcp or generic", key, meta.KubeConfigKeyProvider, ErrUnsupported, provider)
	}
	ref := meta.KubeConfigReference{ConfigMapRef: &meta.LocalObjectReference{Name: cm.Name}}
	config, err := utils.GetRESTConfig(ctx, ref, obj.GetNamespace(), given{p.client, cm.DeepCopy()}, p.Options(obj, "", nil)...)
	if err != nil {
		return nil, failed(provider, err)
	}
	return config, nil
}

// given is a client that knows one ConfigMap as it was given, whatever became
// of it since.
type given struct {
	client.Client
	configMap *corev1.ConfigMap
}

// Get implements client.Reader.
func (g given) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	if into, ok := obj.(*corev1.ConfigMap); ok && key == client.ObjectKeyFromObject(g.configMap) {
		g.configMap.DeepCopyInto(into)
		return nil
	}
	return g.Client.Get(ctx, key, obj, opts...)
}

// Azure gives a credential for Azure's clients. It works for as long as ctx
// lives.
func (p *Providers) Azure(ctx context.Context, options ...auth.Option) azcore.TokenCredential {
	return azure.NewTokenCredential(ctx, options...)
}

// AWS gives credentials for clients of AWS. They work for as long as ctx lives.
func (p *Providers) AWS(ctx context.Context, options ...auth.Option) awssdk.CredentialsProvider {
	return aws.NewCredentialsProvider(ctx, options...)
}

// GCP gives tokens for Google's clients. It works for as long as ctx lives.
func (p *Providers) GCP(ctx context.Context, options ...auth.Option) oauth2.TokenSource {
	return gcp.NewTokenSource(ctx, options...)
}

// failed is the error of a provider that gave no credentials.
func failed(provider string, err error) error {
	return fmt.Errorf("%w %q: %w", ErrCredentials, provider, short(err))
}

// shortened is an error without the answer that a provider's library quotes.
type shortened struct {
	message string
	err     error
}

func (s shortened) Error() string { return s.message }
func (s shortened) Unwrap() error { return s.err }

// short leaves the first line of a message: what follows are requests and
// answers.
func short(err error) error {
	message, _, _ := strings.Cut(err.Error(), "\n")
	if len(message) > maxMessage {
		message = message[:maxMessage] + "…"
	}
	return shortened{message, err}
}
