package release

import (
	"io"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/kubectl/pkg/validation"
)

// getter gives Helm the injected connection in the shapes that it asks for.
type getter struct {
	conn      Connection
	discovery discovery.DiscoveryInterface
	namespace string
}

// ToRESTConfig returns a copy for every caller: the resource builder writes the
// group and version of each kind into it, and releases are worked on in parallel.
func (g *getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.conn.Config), nil }

func (g *getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return memory.NewMemCacheClient(g.discovery), nil
}

func (g *getter) ToRESTMapper() (meta.RESTMapper, error) { return g.conn.Mapper, nil }

func (g *getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), &clientcmd.ConfigOverrides{
		Context: clientcmdapi.Context{Namespace: g.namespace},
	})
}

func (g *getter) DynamicClient() (dynamic.Interface, error) { return g.conn.Dynamic, nil }

func (g *getter) KubernetesClientSet() (*kubernetes.Clientset, error) {
	return kubernetes.NewForConfigAndClient(g.conn.Config, g.conn.HTTP)
}

func (g *getter) NewBuilder() *resource.Builder { return resource.NewBuilder(g) }

// Validator checks nothing here: the API server validates fields strictly on
// every write, which needs no schema on this side.
func (g *getter) Validator(string) (validation.Schema, error) { return validation.NullSchema{}, nil }

func discardHookOutput(_, _, _ string) io.Writer { return io.Discard }
