package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/go-logr/logr/testr"
	"golang.org/x/crypto/ssh"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"headwater.dev/agent/extension"
	"headwater.dev/agent/mirror"
	"headwater.dev/api/config"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/deploy"
	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/release"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

const (
	cluster  = "/subscriptions/S/resourceGroups/rg/providers/Microsoft.Kubernetes/connectedClusters/edge"
	prefix   = cluster + "/providers/Microsoft.KubernetesConfiguration/"
	patience = 90 * time.Second
)

// world is a cluster with the agent chart installed, and the agent's parts
// running under the rights that the chart gives and no others.
type world struct {
	t         *testing.T
	kube      kubernetes.Interface
	objects   dynamic.Interface
	key       *rsa.PrivateKey
	extension *extension.Manager
	mirror    *mirror.Mirror

	mu      sync.Mutex
	reports map[string]link.Observed
	items   map[string]link.Item
}

func newWorld(t *testing.T) *world {
	c := kubetest.Start(t, kubetest.WithNode())
	installAgentChart(t, c.Config)
	as := rest.CopyConfig(c.Config)
	as.Impersonate.UserName = "system:serviceaccount:headwater-system:headwater-agent"
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, kube: c.Client, key: key, reports: map[string]link.Observed{}, items: map[string]link.Item{}}
	w.objects, err = dynamic.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	own, err := kubernetes.NewForConfig(as)
	if err != nil {
		t.Fatal(err)
	}
	keeper, log := &settings{kube: own, keys: func() []*rsa.PrivateKey { return []*rsa.PrivateKey{key} }}, testr.New(t)
	w.extension, err = extension.New(extension.Config{REST: as, Settings: keeper, Image: extension.Image{Reference: "headwater.dev/agent:test"},
		Version: "1.2.3", Report: w.take, Now: time.Now, Log: log.WithName("extension")})
	if err != nil {
		t.Fatal(err)
	}
	w.mirror, err = mirror.New(mirror.Config{REST: as, Settings: keeper, Guard: mirror.Guard{Own: "headwater-system"},
		Report: w.take, Now: time.Now, Log: log.WithName("mirror")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.extension.Run(ctx) })
	running.Go(func() { _ = w.mirror.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

func installAgentChart(t *testing.T, admin *rest.Config) {
	t.Helper()
	files, err := deploy.Chart(deploy.ChartAgent)
	if err != nil {
		t.Fatal(err)
	}
	chart, err := release.LoadFS(files, ".")
	if err != nil {
		t.Fatal(err)
	}
	client, err := release.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Apply(t.Context(), release.Request{Name: "headwater-agent", Namespace: "headwater-system", Chart: chart,
		Values: map[string]any{
			"hub": map[string]any{"url": "https://hub.example"}, "cluster": map[string]any{"id": cluster},
		}, Options: release.Options{CreateNamespace: true}}, 0)
	if err != nil {
		t.Fatalf("install the agent's chart: %v", err)
	}
}

func (w *world) take(o link.Observed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reports[o.ID] = o
}

// want changes one item of what the hub desires; nil removes it.
func (w *world) want(item link.Item) {
	w.items[item.ID] = item
	d := link.Desired{Cluster: cluster}
	for _, i := range w.items {
		d.Items = append(d.Items, i)
	}
	w.extension.Desired(d)
	w.mirror.Desired(configurations(d.Items))
}

// observed waits until the newest report of an item is as it should be.
func (w *world) observed(id string, ok func(link.Observed) bool) link.Observed {
	w.t.Helper()
	var last link.Observed
	kubetest.Eventually(w.t, patience, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		last = w.reports[id]
		if ok(last) {
			return nil
		}
		raw, _ := json.Marshal(last)
		return fmt.Errorf("last report: %s", raw)
	})
	return last
}

func (w *world) fluxConfig(namespace, name string) (*config.FluxConfig, error) {
	gvr := config.GroupVersion().WithResource("fluxconfigs")
	u, err := w.objects.Resource(gvr).Namespace(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	raw, err := u.MarshalJSON()
	if err != nil {
		return nil, err
	}
	fc := &config.FluxConfig{}
	return fc, json.Unmarshal(raw, fc)
}

// patch changes a FluxConfig as a user with kubectl would.
func (w *world) patch(namespace, name, patch string, subresources ...string) {
	w.t.Helper()
	gvr := config.GroupVersion().WithResource("fluxconfigs")
	_, err := w.objects.Resource(gvr).Namespace(namespace).Patch(context.Background(), name, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}, subresources...)
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) seal(values map[string]string) []byte {
	w.t.Helper()
	public, err := ssh.NewPublicKey(&w.key.PublicKey)
	if err != nil {
		w.t.Fatal(err)
	}
	recipient, err := agessh.NewRSARecipient(public)
	if err != nil {
		w.t.Fatal(err)
	}
	var out bytes.Buffer
	in, err := age.Encrypt(&out, recipient)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := errors.Join(json.NewEncoder(in).Encode(values), in.Close()); err != nil {
		w.t.Fatal(err)
	}
	return out.Bytes()
}

func extensionItem(generation int64, configurationSettings map[string]string) link.Item {
	return link.Item{ID: prefix + "extensions/flux", Name: "flux", Generation: generation,
		Extension: &resource.ExtensionProperties{ExtensionType: "Microsoft.Flux", ConfigurationSettings: configurationSettings}}
}

func configurationItem(generation int64, branch string) link.Item {
	return link.Item{ID: prefix + "fluxConfigurations/cfg", Name: "cfg", Generation: generation, OperationID: fmt.Sprintf("op-%d", generation),
		Configuration: &resource.FluxConfigurationProperties{
			Scope: "cluster", Namespace: "cluster-config", SourceKind: "GitRepository",
			GitRepository:  &resource.GitRepository{URL: "https://git.example/repo", SyncIntervalInSeconds: 60, TimeoutInSeconds: 60, RepositoryRef: &resource.RepositoryRef{Branch: &branch}},
			Kustomizations: map[string]resource.Kustomization{"apps": {Path: "./apps", Prune: true, Wait: true}},
		}}
}

// TestLifeOfAConfiguration goes through everything that the agent does in a
// cluster, under the rights of its chart.
func TestLifeOfAConfiguration(t *testing.T) {
	w := newWorld(t)
	w.want(configurationItem(1, "main"))
	w.observed(prefix+"fluxConfigurations/cfg", func(o link.Observed) bool {
		return o.Configuration != nil && o.Configuration.AcceptedGeneration == 0 && strings.Contains(o.Configuration.ErrorMessage, "microsoft.flux")
	})
	w.want(extensionItem(1, nil))
	installed := w.observed(prefix+"extensions/flux", func(o link.Observed) bool { return o.Extension != nil && o.Extension.AcceptedGeneration == 1 })
	if e := installed.Extension; e.Error != nil || e.CurrentVersion != "1.2.3" || len(e.Statuses) != 1 || e.Statuses[0].Code != "InstallationSucceeded" {
		t.Errorf("extension: %+v", e)
	}
	t.Run("mirror", w.testMirror)
	t.Run("protected settings", w.testProtected)
	t.Run("extension", w.testExtension)
	t.Run("delete", w.testDelete)
}

func (w *world) testMirror(t *testing.T) {
	w.t = t
	id := prefix + "fluxConfigurations/cfg"
	w.observed(id, func(o link.Observed) bool {
		return o.Configuration.AcceptedGeneration == 1 && o.Configuration.ErrorMessage == ""
	})
	fc, err := w.fluxConfig("cluster-config", "cfg")
	if err != nil || fc.Spec.GitRepository.Ref.Branch != "main" || len(fc.Spec.Kustomizations) != 1 || fc.Annotations[config.AnnotationResourceID] != id {
		t.Fatalf("FluxConfig: %+v, %v", fc, err)
	}
	w.want(configurationItem(2, "next"))
	w.observed(id, func(o link.Observed) bool { return o.Configuration.AcceptedGeneration == 2 })

	w.patch("cluster-config", "cfg", `{"spec":{"gitRepository":{"url":"https://evil.example"}},"metadata":{"labels":{"mine":"x"}}}`)
	kubetest.Eventually(t, patience, func() error {
		fc, err := w.fluxConfig("cluster-config", "cfg")
		if err != nil {
			return err
		}
		if fc.Spec.GitRepository.URL != "https://git.example/repo" || fc.Labels["mine"] != "x" {
			return fmt.Errorf("drift is not corrected: %+v", fc)
		}
		return nil
	})
	gvr := config.GroupVersion().WithResource("fluxconfigs")
	if err := w.objects.Resource(gvr).Namespace("cluster-config").Delete(t.Context(), "cfg", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, patience, func() error { _, err := w.fluxConfig("cluster-config", "cfg"); return err })

	fc, err = w.fluxConfig("cluster-config", "cfg")
	if err != nil {
		t.Fatal(err)
	}
	w.patch("cluster-config", "cfg", fmt.Sprintf(`{"status":{"observedGeneration":%d,"complianceState":"Compliant","lastSyncedCommit":"next@sha1:1","repositoryPublicKey":"ssh-ed25519 A"}}`, fc.Generation), "status")
	o := w.observed(id, func(o link.Observed) bool { return o.Configuration.ComplianceState == resource.Compliant })
	if c := o.Configuration; c.SourceSyncedCommitID != "next@sha1:1" || c.RepositoryPublicKey != "ssh-ed25519 A" || c.StatusGeneration != 2 || c.StatusUpdatedAt == nil {
		t.Errorf("observed: %+v", c)
	}
}

func (w *world) testProtected(t *testing.T) {
	w.t = t
	id := prefix + "fluxConfigurations/cfg"
	item := configurationItem(3, "next")
	item.ProtectedVersion, item.Sealed = "v1", w.seal(map[string]string{"httpsKey": "c2VjcmV0"})
	w.want(item)
	w.observed(id, func(o link.Observed) bool {
		return o.Configuration.AcceptedGeneration == 3 && o.ProtectedVersion == "v1"
	})
	secrets := w.kube.CoreV1().Secrets("cluster-config")
	secret, err := secrets.Get(t.Context(), "cfg-protected-parameters", metav1.GetOptions{})
	if err != nil || string(secret.Data["httpsKey"]) != "c2VjcmV0" || secret.Annotations[config.AnnotationProtectedVersion] != "v1" {
		t.Fatalf("Secret: %+v, %v", secret, err)
	}
	item = configurationItem(4, "main") // The hub has forgotten the settings; the version keeps them.
	item.ProtectedVersion = "v1"
	w.want(item)
	w.observed(id, func(o link.Observed) bool {
		return o.Configuration.AcceptedGeneration == 4 && o.Configuration.Error == nil
	})

	item = configurationItem(5, "main")
	item.ProtectedVersion, item.Sealed = "v2", []byte("age-encryption.org/v1 nonsense")
	w.want(item)
	o := w.observed(id, func(o link.Observed) bool {
		return o.Configuration.AcceptedGeneration == 5 && o.Configuration.Error != nil
	})
	if o.Configuration.Error.Code != "ProtectedSettingsUnreadable" || o.ProtectedVersion != "" {
		t.Errorf("observed: %+v", o)
	}
	w.want(configurationItem(6, "main"))
	w.observed(id, func(o link.Observed) bool {
		return o.Configuration.AcceptedGeneration == 6 && o.Configuration.Error == nil
	})
	if _, err := secrets.Get(t.Context(), "cfg-protected-parameters", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the cleared Secret is still there: %v", err)
	}
}

func (w *world) testExtension(t *testing.T) {
	w.t = t
	id := prefix + "extensions/flux"
	w.want(extensionItem(2, map[string]string{"helm-controller.enabled": "false", "source-controller.resources.limits.memory": "2Gi", "nonsense": "1"}))
	o := w.observed(id, func(o link.Observed) bool { return o.Extension.AcceptedGeneration == 2 })
	if s := o.Extension.Statuses; len(s) != 2 || s[0].Code != "SettingWithoutEffect" || !strings.Contains(s[0].Message, "nonsense") {
		t.Errorf("statuses: %+v", s)
	}
	deployments := w.kube.AppsV1().Deployments("flux-system")
	d, err := deployments.Get(t.Context(), "flux-controllers", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := d.Spec.Template.Spec.Containers[0]
	if c.Name != "manager" || c.Args[1] != "--enable=fluxconfig,source,kustomize" || c.Resources.Limits.Memory().String() != "2Gi" || c.Image != "headwater.dev/agent:test" {
		t.Errorf("container: %+v", c)
	}
	if err := deployments.Delete(t.Context(), "flux-controllers", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, patience, func() error {
		healed, err := deployments.Get(t.Context(), "flux-controllers", metav1.GetOptions{})
		if err == nil && healed.UID == d.UID {
			return errors.New("not deleted yet")
		}
		return err
	})
	bad := extensionItem(3, map[string]string{"multiTenancy.enforce": "perhaps"})
	w.want(bad)
	o = w.observed(id, func(o link.Observed) bool { return o.Extension.AcceptedGeneration == 3 })
	if e := o.Extension.Error; e == nil || e.Code != "ValidationFailed" || !strings.Contains(e.Message, "multiTenancy.enforce") {
		t.Errorf("error: %+v", e)
	}
	w.want(extensionItem(4, map[string]string{"multiTenancy.enforce": "false"}))
	w.observed(id, func(o link.Observed) bool { return o.Extension.AcceptedGeneration == 4 && o.Extension.Error == nil })
}

func (w *world) testDelete(t *testing.T) {
	w.t = t
	extension := extensionItem(5, nil)
	extension.Delete = true
	w.want(extension)
	o := w.observed(extension.ID, func(o link.Observed) bool { return o.Extension != nil && o.Extension.Error != nil })
	if e := o.Extension.Error; e.Code != "ConfigurationsExist" || !strings.Contains(e.Message, "cluster-config/cfg") {
		t.Errorf("error: %+v", e)
	}
	item := configurationItem(7, "main")
	item.Delete = true
	w.want(item)
	w.observed(item.ID, func(o link.Observed) bool { return o.Deleted && o.Generation == 7 })
	w.observed(extension.ID, func(o link.Observed) bool { return o.Deleted })
	crds := w.objects.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	kubetest.Eventually(t, patience, func() error {
		if _, err := crds.Get(t.Context(), "fluxconfigs.clusterconfig.azure.com", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the kind is still there: %v", err)
		}
		return nil
	})
	if _, err := w.kube.AppsV1().Deployments("flux-system").Get(t.Context(), "flux-controllers", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the controllers are still there: %v", err)
	}
}
