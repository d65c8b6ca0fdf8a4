// Package host runs the loops: it owns the manager with its caches, the
// tenants' access to the API server, the artifact store and the recorders, and
// hands them to each controller's Setup.
package host

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/runtime/metrics"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"headwater.dev/api/config"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/cloud"
	"headwater.dev/kernel/event"
	"headwater.dev/kernel/tenant"
)

// Host is what the loops share.
type Host struct {
	Options Options
	Manager ctrl.Manager
	Tenants *tenant.Clients
	// Artifacts is this process's own store; Reader reads from it, and from
	// other processes' stores over HTTP.
	Artifacts *artifact.Store
	Reader    artifact.Reader

	metrics *metrics.Recorder
	// Cloud gives credentials of cloud providers.
	Cloud *cloud.Providers
}

// Scheme knows every kind that a loop reads or writes.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme,
		sourcev1.AddToScheme, kustomizev1.AddToScheme, helmv2.AddToScheme, swapi.AddToScheme, config.AddToScheme,
	} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("register kinds: %w", err)
		}
	}
	return s, nil
}

// RESTConfig finds the cluster: kubeconfig when given, else the pod's own.
func RESTConfig(kubeconfig string) (*rest.Config, error) {
	config, err := restConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find the cluster (give --kubeconfig, set KUBECONFIG or run in a pod): %w", err)
	}
	config.QPS = -1 // API Priority and Fairness limits us, fairly and at the right place
	return config, nil
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// New opens everything that the loops share; nothing runs yet.
func New(config *rest.Config, o Options) (*Host, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	mgr, err := newManager(config, o, scheme)
	if err != nil {
		return nil, err
	}
	h := &Host{metrics: newMetrics(), Options: o, Manager: mgr}
	if h.Tenants, err = tenant.New(config, scheme, mgr.GetRESTMapper()); err != nil {
		return nil, err
	}
	if h.Cloud, err = cloud.New(cloud.Config{Client: mgr.GetClient(), Live: mgr.GetAPIReader()}); err != nil {
		return nil, err
	}
	return h, h.openArtifacts()
}

func (h *Host) openArtifacts() error {
	o := h.Options
	store, err := artifact.Open(artifact.Options{
		Root: filepath.Join(o.StoragePath, "artifacts"), Address: o.advertised(),
		TTL: o.ArtifactRetentionTTL, Records: o.ArtifactRetentionRecords,
	})
	if err != nil {
		return err
	}
	h.Artifacts = store
	h.Reader = artifact.NewReader(store, filepath.Join(o.StoragePath, "trees"), nil)
	return nil
}

func newManager(config *rest.Config, o Options, scheme *runtime.Scheme) (ctrl.Manager, error) {
	byDefault := cache.Options{DefaultTransform: cache.TransformStripManagedFields(), ReaderFailOnMissingInformer: false}
	if !o.WatchAllNamespaces {
		byDefault.DefaultNamespaces = map[string]cache.Config{o.Namespace: {}}
	}
	sel, err := o.Selector()
	if err != nil {
		return nil, err
	}
	if !sel.Empty() {
		byDefault.DefaultLabelSelector = sel
		// What is reconciled here may use the sources of other shards.
		byDefault.ByObject = map[client.Object]cache.ByObject{}
		for _, kind := range []client.Object{&sourcev1.GitRepository{}, &sourcev1.OCIRepository{}, &sourcev1.Bucket{},
			&sourcev1.HelmRepository{}, &sourcev1.HelmChart{}, &sourcev1.ExternalArtifact{}} {
			byDefault.ByObject[kind] = cache.ByObject{Label: labels.Everything()}
		}
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Cache: byDefault,
		// Secrets and ConfigMaps are read when they are needed: a cache of all
		// of them would cost memory and a cluster-wide list right.
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}}}},
		// Names of controllers label metrics; one process may run the loops again.
		Controller:                    ctrlconfig.Controller{SkipNameValidation: new(true)},
		Metrics:                       server.Options{BindAddress: o.MetricsAddr},
		HealthProbeBindAddress:        o.HealthAddr,
		LeaderElection:                o.LeaderElection,
		LeaderElectionID:              o.lease(),
		LeaderElectionNamespace:       o.Namespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make manager: %w", err)
	}
	if err := mgr.AddHealthzCheck("healthz", healthz.Ping); err != nil {
		return nil, fmt.Errorf("add health check: %w", err)
	}
	synced := func(r *http.Request) error {
		if !mgr.GetCache().WaitForCacheSync(r.Context()) {
			return fmt.Errorf("caches are not filled yet")
		}
		return nil
	}
	if err := mgr.AddReadyzCheck("readyz", synced); err != nil {
		return nil, fmt.Errorf("add readiness check: %w", err)
	}
	return mgr, nil
}

// newMetrics makes Flux's metrics and serves them with the manager's. Those of
// a second host of a process are kept and not served.
func newMetrics() *metrics.Recorder {
	m := metrics.NewRecorder()
	for _, c := range m.Collectors() {
		var twice prometheus.AlreadyRegisteredError
		if err := ctrlmetrics.Registry.Register(c); err != nil && !errors.As(err, &twice) {
			ctrl.Log.Info("metrics are not served", "error", err.Error())
		}
	}
	return m
}

// Recorder returns a recorder in the name of a component, such as
// "kustomize-controller".
func (h *Host) Recorder(component string) (*event.Recorder, error) {
	r, err := event.NewRecorder(h.Manager, h.Options.EventsAddr, component)
	if err != nil {
		return nil, err
	}
	r.Measure(h.metrics)
	return r, nil
}

// ControllerOptions are the queue and the workers of a loop.
func (h *Host) ControllerOptions() controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: h.Options.Concurrent,
		RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](
			h.Options.MinRetryDelay, h.Options.MaxRetryDelay),
	}
}

// Run runs everything that was set up until the context ends.
func (h *Host) Run(ctx context.Context) error {
	if err := os.MkdirAll(h.Options.StoragePath, 0o700); err != nil {
		return fmt.Errorf("make storage directory: %w", err)
	}
	if err := h.Manager.Start(ctx); err != nil {
		return fmt.Errorf("run the loops: %w", err)
	}
	return nil
}
