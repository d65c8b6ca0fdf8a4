package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"

	"headwater.dev/kernel/tenant"
)

// Options of the process that runs the loops. Flags carry the names that users
// of Flux know; the environment gives defaults where a supervisor has to choose
// addresses.
type Options struct {
	Kubeconfig string
	// Namespace that the process runs in: leases live there.
	Namespace          string
	WatchAllNamespaces bool
	WatchLabelSelector string

	MetricsAddr, HealthAddr string
	LeaderElection          bool
	LogLevel                string

	// NoCrossNamespaceRefs refuses references to sources and other objects in
	// another namespace; DefaultServiceAccount is who acts for an object that
	// names nobody; NoRemoteBases refuses bases that a build would fetch.
	NoCrossNamespaceRefs  bool
	DefaultServiceAccount string
	NoRemoteBases         bool
	// DefaultDecryptionServiceAccount and DefaultKubeConfigServiceAccount are who
	// asks clouds, for decryption and for remote clusters, when nobody is named.
	// With neither, in lockdown, nobody does, unless SharedDecryptionIdentity
	// lets everybody decrypt as the process.
	DefaultDecryptionServiceAccount string
	DefaultKubeConfigServiceAccount string
	SharedDecryptionIdentity        bool

	// Concurrent is the number of workers of each kind. Workers never wait, so
	// it bounds CPU use, not the number of objects in progress.
	Concurrent        int
	RequeueDependency time.Duration
	MinRetryDelay     time.Duration
	MaxRetryDelay     time.Duration

	// DetectDrift has the drift of HelmReleases mended that say nothing of it.
	DetectDrift bool
	// VaultAddresses are the Vaults that an encrypted file may name. When empty,
	// none in lockdown, and otherwise all that are not on the machine or its link.
	VaultAddresses []string
	// StrictSubstitution makes a variable that is not set and has no default an
	// error of its Kustomization.
	StrictSubstitution bool

	// PrivateChartHosts are hosts, with or without port, that the index of a
	// Helm repository may lead to although their addresses are not public.
	PrivateChartHosts []string

	// SharedSourceIdentity lets sources show the process's own cloud identity
	// through proxies and to certificate authorities that they bring themselves,
	// also in lockdown.
	SharedSourceIdentity bool
	// LoopbackProxies lets sources use a proxy on the controllers' own machine.
	LoopbackProxies bool

	// SigstoreRoot is the file of a trusted_root.json; keyless signatures are
	// checked against it when an object names no other.
	SigstoreRoot string

	StoragePath, StorageAddr, StorageAdvAddr string
	ArtifactRetentionTTL                     time.Duration
	ArtifactRetentionRecords                 int

	// EventsAddr is the notification controller's address; empty for none.
	EventsAddr string

	// KubeConfigs says what kubeconfigs of tenants may ask for.
	KubeConfigs tenant.Policy
	// OverrideManagers are field managers whose fields are taken over, beside
	// kubectl's.
	OverrideManagers []string
	// ApplyStageKinds ("group/Kind", or "Kind" of the core group) are applied
	// before the other objects of a Kustomization.
	ApplyStageKinds []string

	// Fault is called at named points of a reconcile. It has no flag: tests
	// let the process die there.
	Fault func(point string)
}

// BindFlags adds the options to a flag set.
func (o *Options) BindFlags(f *pflag.FlagSet) {
	f.StringVar(&o.Kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "Kubeconfig of the cluster; in a pod its service account is used.")
	f.StringVar(&o.Namespace, "runtime-namespace", env("POD_NAMESPACE", env("RUNTIME_NAMESPACE", "flux-system")), "Namespace that the process runs in.")
	f.BoolVar(&o.WatchAllNamespaces, "watch-all-namespaces", true, "Watch objects in all namespaces, not only in the process's own.")
	f.StringVar(&o.WatchLabelSelector, "watch-label-selector", "", "Reconcile only objects with matching labels, which may use the sources of others.")
	f.StringVar(&o.MetricsAddr, "metrics-addr", env("METRICS_ADDR", ":8080"), "Address of the metrics endpoint; 0 turns it off.")
	f.StringVar(&o.HealthAddr, "health-addr", env("HEALTH_ADDR", ":9440"), "Address of the health endpoint.")
	f.BoolVar(&o.LeaderElection, "enable-leader-election", false, "Let only one of several processes work.")
	f.StringVar(&o.LogLevel, "log-level", env("LOG_LEVEL", "info"), "Log level: debug, info or error.")
	f.BoolVar(&o.NoCrossNamespaceRefs, "no-cross-namespace-refs", true, "Refuse references to objects in another namespace.")
	f.StringVar(&o.DefaultServiceAccount, "default-service-account", "flux-applier", "Service account to act as for objects that name none.")
	f.BoolVar(&o.NoRemoteBases, "no-remote-bases", true, "Refuse Kustomize bases from outside the artifact.")
	f.StringVar(&o.DefaultDecryptionServiceAccount, "default-decryption-service-account", "", "Service account whose cloud identity decrypts for Kustomizations without spec.decryption.serviceAccountName.")
	f.StringVar(&o.DefaultKubeConfigServiceAccount, "default-kubeconfig-service-account", "", "Service account whose cloud identity is used for ConfigMaps of spec.kubeConfig without serviceAccountName.")
	f.BoolVar(&o.SharedDecryptionIdentity, "shared-decryption-identity", false, "Let Kustomizations decrypt with the controllers' own cloud identity although cross-namespace references are refused.")
	f.IntVar(&o.Concurrent, "concurrent", 8, "Workers of each kind.")
	f.DurationVar(&o.RequeueDependency, "requeue-dependency", 30*time.Second, "Longest time until a dependency is looked at again, should its watch fail.")
	f.DurationVar(&o.MinRetryDelay, "min-retry-delay", 750*time.Millisecond, "First delay after a failure.")
	f.DurationVar(&o.MaxRetryDelay, "max-retry-delay", 15*time.Minute, "Longest delay after failures.")
	f.BoolVar(&o.DetectDrift, "detect-drift", false, "Mend the drift of HelmReleases that say nothing of drift.")
	f.StringSliceVar(&o.VaultAddresses, "vault-addresses", nil, "Addresses of HashiCorp Vault that encrypted files may name. When empty, none while cross-namespace references are refused, and otherwise all but those of the machine itself.")
	f.BoolVar(&o.StrictSubstitution, "strict-substitution", false, "Refuse variables that are not set and have no default.")
	f.StringSliceVar(&o.PrivateChartHosts, "private-chart-hosts", nil, "Hosts with private addresses that indexes of Helm repositories may lead to.")
	f.BoolVar(&o.SharedSourceIdentity, "shared-source-identity", false, "Let sources use the controllers' own cloud identity through a proxy or with a certificate authority of their own although cross-namespace references are refused.")
	f.BoolVar(&o.LoopbackProxies, "loopback-proxies", false, "Let sources use a proxy on the controllers' own machine.")
	f.StringVar(&o.SigstoreRoot, "sigstore-trusted-root", "", "File with a trusted_root.json that keyless signatures are checked against; Sigstore's public instance when empty.")
	f.StringVar(&o.StoragePath, "storage-path", env("STORAGE_PATH", filepath.Join(os.TempDir(), "headwater-storage")), "Directory of artifacts and repository mirrors.")
	f.StringVar(&o.StorageAddr, "storage-addr", env("STORAGE_ADDR", ":9090"), "Address that artifacts are served on.")
	f.StringVar(&o.StorageAdvAddr, "storage-adv-addr", env("STORAGE_ADV_ADDR", ""), "Host, or host:port, of artifact URLs.")
	f.DurationVar(&o.ArtifactRetentionTTL, "artifact-retention-ttl", time.Minute, "How long a replaced artifact stays available.")
	f.IntVar(&o.ArtifactRetentionRecords, "artifact-retention-records", 2, "How many artifacts of a source are kept at most.")
	f.BoolVar(&o.KubeConfigs.Exec, "insecure-kubeconfig-exec", false, "Let kubeconfigs of tenants name commands that the controllers run.")
	f.BoolVar(&o.KubeConfigs.InsecureTLS, "insecure-kubeconfig-tls", false, "Let kubeconfigs of tenants turn off the verification of the server.")
	f.BoolVar(&o.KubeConfigs.Proxy, "kubeconfig-proxy", false, "Let kubeconfigs of tenants name a proxy.")
	f.StringArrayVar(&o.OverrideManagers, "override-manager", nil, "Field manager, beside kubectl, that may not keep fields of applied objects; can be repeated.")
	f.StringSliceVar(&o.ApplyStageKinds, "custom-apply-stage-kinds", nil, "Kinds, as group/Kind, that are applied after definitions and before all other objects.")
	f.StringVar(&o.EventsAddr, "events-addr", "", "Address of the notification controller's event receiver.")
}

// Selector selects the objects that are reconciled here; everything by default.
func (o *Options) Selector() (labels.Selector, error) {
	sel, err := labels.Parse(o.WatchLabelSelector)
	if err != nil {
		return nil, fmt.Errorf("--watch-label-selector: %w", err)
	}
	return sel, nil
}

func (o *Options) validate() error {
	if o.NoCrossNamespaceRefs && o.DefaultServiceAccount == "" {
		return errors.New("--no-cross-namespace-refs needs --default-service-account: without one, objects that name no service account would act as the controller")
	}
	if o.Concurrent < 1 {
		return errors.New("--concurrent must be at least 1")
	}
	return nil
}

// advertised is the host that artifact URLs name: upstream's service unless
// told otherwise.
func (o *Options) advertised() string {
	if o.StorageAdvAddr != "" {
		return o.StorageAdvAddr
	}
	return "source-controller." + o.Namespace + ".svc.cluster.local."
}

func env(name, otherwise string) string {
	if v := strings.TrimSpace(os.Getenv(name)); v != "" {
		return v
	}
	return otherwise
}
