package helm

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/release"
)

const (
	patience  = 20 * time.Second
	loopAgent = "helm-loop-under-test"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func patches(p string) []kustomize.Patch {
	return []kustomize.Patch{{Patch: p, Target: &kustomize.Selector{Kind: "ConfigMap"}}}
}

func buffer(s string) *bytes.Buffer { return bytes.NewBufferString(s) }

// world is a namespace with a tenant, and the running loop.
type world struct {
	t     *testing.T
	c     client.Client
	store *artifact.Store
	ns    string
}

// running is the one loop of the test binary.
var running struct {
	sync.Once
	host *host.Host
	err  error
}

func newWorld(t *testing.T) world {
	t.Helper()
	cluster := kubetest.Start(t)
	kubetest.CRDs(t, cluster, "flux")
	running.Do(func() {
		// Next to the cluster's files, which go when it stops.
		dir := filepath.Join(filepath.Dir(cluster.Kubeconfig), "helm-loop")
		o := host.Options{
			Namespace: "flux-system", WatchAllNamespaces: true, MetricsAddr: "0", HealthAddr: "0",
			NoCrossNamespaceRefs: true, DefaultServiceAccount: "flux-applier", Concurrent: 4,
			RequeueDependency: time.Hour, MinRetryDelay: 50 * time.Millisecond, MaxRetryDelay: time.Second, StoragePath: dir,
		}
		conf := rest.CopyConfig(cluster.Config)
		conf.UserAgent = loopAgent
		if running.host, running.err = host.New(conf, o); running.err != nil {
			return
		}
		if running.err = Setup(context.Background(), running.host); running.err != nil {
			return
		}
		go func() { _ = running.host.Run(context.Background()) }()
	})
	if running.err != nil {
		t.Fatal(running.err)
	}
	c, err := client.New(cluster.Config, client.Options{Scheme: running.host.Manager.GetScheme()})
	if err != nil {
		t.Fatal(err)
	}
	w := world{t: t, c: c, store: running.host.Artifacts, ns: cluster.Namespace(t)}
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "flux-applier"}})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "flux-applier"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: "flux-applier"}},
	})
	return w
}

func (w world) create(o client.Object) {
	w.t.Helper()
	if err := w.c.Create(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
}

// chartFiles is a chart with a ConfigMap and, on demand, a Deployment.
func chartFiles(version string) map[string]string {
	return map[string]string{
		"Chart.yaml":  "apiVersion: v2\nname: app\nversion: " + version + "\nappVersion: '9'\n",
		"values.yaml": "greeting: hello\ndeployment: false\ninvalid: false\n",
		"templates/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\ndata:\n  greeting: {{ .Values.greeting | quote }}\n" +
			"{{- if .Values.invalid }}\n  bad: {not: allowed}\n{{- end }}\n",
		"templates/test.yaml": "{{- if .Values.test }}\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-test\n  annotations: {helm.sh/hook: test}\n{{- end }}\n",
		"templates/deployment.yaml": "{{- if .Values.deployment }}\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {{ .Release.Name }}\nspec:\n  replicas: 1\n" +
			"  selector: {matchLabels: {app: x}}\n  template:\n    metadata: {labels: {app: x}}\n    spec:\n      containers: [{name: c, image: example.test/c}]\n{{- end }}\n",
	}
}

// publish makes a chart of the version the artifact of the HelmChart that the
// loop has made, as the source loop would.
func (w world) publish(hr, version string) {
	w.t.Helper()
	name := w.ns + "-" + hr
	a, err := w.store.Publish(w.t.Context(), artifact.Put{
		Key:  artifact.Key{Kind: sourcev1.HelmChartKind, Namespace: w.ns, Name: name},
		File: "app-" + version + ".tgz", Revision: version,
		Write: func(out io.Writer) error { return packChart(out, chartFiles(version)) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.eventually(func() error {
		var chart sourcev1.HelmChart
		if err := w.c.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, &chart); err != nil {
			return err
		}
		chart.Status.Artifact = &a
		chart.Status.ObservedGeneration = chart.Generation
		conditions.MarkTrue(&chart, meta.ReadyCondition, "ChartPullSucceeded", "pulled")
		return w.c.Status().Update(w.t.Context(), &chart)
	})
}

func packChart(out io.Writer, files map[string]string) error {
	zw := gzip.NewWriter(out)
	tw := tar.NewWriter(zw)
	for name, data := range files {
		if err := tw.WriteHeader(&tar.Header{Name: "app/" + name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := tw.Write([]byte(data)); err != nil {
			return err
		}
	}
	return errors.Join(tw.Close(), zw.Close())
}

func (w world) helmRelease(name string, values string) *v2.HelmRelease {
	return &v2.HelmRelease{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec: v2.HelmReleaseSpec{
			Interval: metav1.Duration{Duration: time.Hour},
			Chart: &v2.HelmChartTemplate{Spec: v2.HelmChartTemplateSpec{
				Chart: "app", SourceRef: v2.CrossNamespaceObjectReference{Kind: "HelmRepository", Name: "charts"},
			}},
			Values: &apiextensionsv1.JSON{Raw: []byte(values)},
		},
	}
}

func (w world) get(name string) *v2.HelmRelease {
	w.t.Helper()
	hr := &v2.HelmRelease{}
	if err := w.c.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, hr); err != nil {
		w.t.Fatal(err)
	}
	return hr
}

func (w world) update(name string, change func(*v2.HelmRelease)) {
	w.t.Helper()
	w.eventually(func() error {
		hr := w.get(name)
		change(hr)
		return w.c.Update(w.t.Context(), hr)
	})
}

func (w world) eventually(f func() error) {
	w.t.Helper()
	kubetest.Eventually(w.t, patience, f)
}

// ready waits for the Ready condition of the current generation.
func (w world) ready(name string, status metav1.ConditionStatus, reason string) *metav1.Condition {
	w.t.Helper()
	var got *metav1.Condition
	w.eventually(func() error {
		hr := w.get(name)
		got = conditions.Get(hr, meta.ReadyCondition)
		if got == nil || got.Status != status || got.Reason != reason || got.ObservedGeneration != hr.Generation {
			return fmt.Errorf("ready is %+v, want %s %s", got, status, reason)
		}
		return nil
	})
	return got
}

func (w world) greeting(name string) string {
	w.t.Helper()
	cm := &corev1.ConfigMap{}
	if err := w.c.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, cm); err != nil {
		w.t.Fatal(err)
	}
	return cm.Data["greeting"]
}

func TestLifeOfAHelmRelease(t *testing.T) {
	w := newWorld(t)
	w.create(w.helmRelease("demo", `{"deployment":true}`))
	w.ready("demo", "Unknown", sourceReason)
	w.publish("demo", "1.0.0")

	// Written, and parked until the Deployment is available.
	c := w.ready("demo", "Unknown", "Progressing")
	w.eventually(func() error {
		if c = conditions.Get(w.get("demo"), meta.ReadyCondition); !strings.Contains(c.Message, "Deployment/"+w.ns+"/demo") {
			return fmt.Errorf("the message does not name the Deployment: %s", c.Message)
		}
		return nil
	})
	w.makeAvailable("demo")
	c = w.ready("demo", "True", v2.InstallSucceededReason)
	if want := fmt.Sprintf("Helm install succeeded for release %s/demo.v1 with chart app@1.0.0", w.ns); c.Message != want {
		t.Errorf("message %q, want %q", c.Message, want)
	}
	hr := w.get("demo")
	if s := hr.Status; s.HelmChart != w.ns+"/"+w.ns+"-demo" || s.LastAttemptedRevision != "1.0.0" || s.StorageNamespace != w.ns ||
		len(s.History) != 1 || s.History[0].Status != "deployed" || s.ObservedGeneration != hr.Generation || len(s.Inventory.Entries) != 2 {
		t.Errorf("status after install: %+v", s)
	}

	// A new version of the chart.
	w.update("demo", func(hr *v2.HelmRelease) { hr.Spec.Values.Raw = []byte(`{"greeting":"bye"}`) })
	w.publish("demo", "1.1.0")
	w.ready("demo", "True", v2.UpgradeSucceededReason)
	w.eventually(func() error {
		if s := w.get("demo").Status; s.LastAttemptedRevision != "1.1.0" || s.History.Latest().ChartVersion != "1.1.0" {
			return fmt.Errorf("history: %+v", s.History.Latest())
		}
		return nil
	})
	if got := w.greeting("demo"); got != "bye" {
		t.Errorf("greeting is %q", got)
	}

	// Nothing changed: a reconcile that is not asked to verify sends nothing.
	before := w.get("demo")
	sent := requestsAs(t, "system:serviceaccount:"+w.ns+":flux-applier")
	w.touchChart("demo")
	w.update("demo", func(hr *v2.HelmRelease) { hr.Annotations = map[string]string{"note": "irrelevant"} })
	if after := requestsAs(t, "system:serviceaccount:"+w.ns+":flux-applier"); after != sent {
		t.Errorf("an unchanged release sent %d requests", after-sent)
	}
	if w.get("demo").Status.History.Latest().Version != before.Status.History.Latest().Version {
		t.Error("an unchanged release got a new revision")
	}

	// Removed behind our back, noticed on request.
	w.deleteStorage("demo")
	w.update("demo", func(hr *v2.HelmRelease) { hr.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "1"} })
	w.ready("demo", "True", v2.InstallSucceededReason)

	if err := w.c.Delete(t.Context(), w.get("demo")); err != nil {
		t.Fatal(err)
	}
	w.eventually(func() error {
		for _, o := range []client.Object{&corev1.ConfigMap{}, &v2.HelmRelease{}} {
			if err := w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "demo"}, o); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T: %v", o, err)
			}
		}
		err := w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: w.ns + "-demo"}, &sourcev1.HelmChart{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("HelmChart: %v", err)
		}
		return nil
	})
	w.onlyTheTenant("system:serviceaccount:" + w.ns + ":flux-applier")
}

// decodeRelease and encodeRelease read and write releases as Helm stores them.
func decodeRelease(data []byte) (*release.Release, error) {
	zipped, err := base64.StdEncoding.DecodeString(string(data))
	if err != nil {
		return nil, err
	}
	zr, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return nil, err
	}
	rel := &release.Release{}
	return rel, json.NewDecoder(zr).Decode(rel)
}

func encodeRelease(rel *release.Release) ([]byte, error) {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	if err := errors.Join(json.NewEncoder(zw).Encode(rel), zw.Close()); err != nil {
		return nil, err
	}
	return []byte(base64.StdEncoding.EncodeToString(buf.Bytes())), nil
}

// makeAvailable does what a node would.
func (w world) makeAvailable(name string) {
	w.t.Helper()
	w.eventually(func() error {
		d := &appsv1.Deployment{}
		if err := w.c.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, d); err != nil {
			return err
		}
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1,
			Conditions: []appsv1.DeploymentCondition{
				{Type: appsv1.DeploymentAvailable, Status: "True"},
				{Type: appsv1.DeploymentProgressing, Status: "True", Reason: "NewReplicaSetAvailable"},
			}}
		return w.c.Status().Update(w.t.Context(), d)
	})
}

// touchChart wakes the HelmRelease without a change of the artifact.
func (w world) touchChart(name string) {
	w.t.Helper()
	w.eventually(func() error {
		var chart sourcev1.HelmChart
		if err := w.c.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: w.ns + "-" + name}, &chart); err != nil {
			return err
		}
		conditions.MarkTrue(&chart, meta.ReadyCondition, "ChartPullSucceeded", "pulled again")
		return w.c.Status().Update(w.t.Context(), &chart)
	})
}

func (w world) deleteStorage(name string) {
	w.t.Helper()
	err := w.c.DeleteAllOf(w.t.Context(), &corev1.Secret{}, client.InNamespace(w.ns), client.MatchingLabels{"owner": "helm", "name": name})
	if err != nil {
		w.t.Fatal(err)
	}
}

// request is what the audit log says of one.
type request struct {
	Verb, UserAgent  string
	ImpersonatedUser struct{ Username string }
	ObjectRef        struct{ Namespace, Resource string }
}

// requests are those that the API server has answered so far.
func requests(t *testing.T) []request {
	t.Helper()
	f, err := os.Open(kubetest.Start(t).AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []request
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r request
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			all = append(all, r)
		}
	}
	return all
}

// requestsAs counts the requests made in the name of a user so far.
func requestsAs(t *testing.T, user string) int {
	t.Helper()
	n := 0
	for _, r := range requests(t) {
		if r.ImpersonatedUser.Username == user && r.Verb != "watch" {
			n++
		}
	}
	return n
}

// onlyTheTenant checks that the loop touched nothing in the namespace in its
// own name but its own kinds and events.
func (w world) onlyTheTenant(tenant string) {
	w.t.Helper()
	own := []string{"helmreleases", "helmcharts", "ocirepositories", "events"}
	seen := 0
	for _, r := range requests(w.t) {
		if r.UserAgent != loopAgent || r.ObjectRef.Namespace != w.ns || slices.Contains(own, r.ObjectRef.Resource) {
			continue
		}
		seen++
		if r.ImpersonatedUser.Username != tenant {
			w.t.Errorf("%s %s as %q, not as %s", r.Verb, r.ObjectRef.Resource, r.ImpersonatedUser.Username, tenant)
		}
	}
	if seen == 0 {
		w.t.Error("the audit log shows no request of the loop")
	}
}

func TestCrossNamespaceSourceIsRefused(t *testing.T) {
	w := newWorld(t)
	hr := w.helmRelease("demo", `{}`)
	hr.Spec.Chart.Spec.SourceRef.Namespace = "elsewhere"
	w.create(hr)
	c := w.ready("demo", "False", "AccessDenied")
	if want := "can't access 'HelmRepository/elsewhere/charts', cross-namespace references have been blocked"; c.Message != want {
		t.Errorf("message %q, want %q", c.Message, want)
	}
}

func TestFailureIsGivenUpAndHealed(t *testing.T) {
	w := newWorld(t)
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "values"}, Data: map[string][]byte{"values.yaml": []byte("invalid: canary-secret\n")}})
	hr := w.helmRelease("demo", `{}`)
	hr.Spec.ValuesFrom = []v2.ValuesReference{{Kind: "Secret", Name: "values"}}
	w.create(hr)
	w.publish("demo", "1.0.0")
	c := w.ready("demo", "False", v2.InstallFailedReason)
	if !strings.HasPrefix(c.Message, fmt.Sprintf("Helm install failed for release %s/demo with chart app@1.0.0: ", w.ns)) {
		t.Errorf("message %q", c.Message)
	}
	if s := w.get("demo"); s.Status.InstallFailures != 1 || s.Status.Failures != 1 || !conditions.IsStalled(s) {
		t.Errorf("status: %+v", s.Status)
	}
	w.update("demo", func(hr *v2.HelmRelease) { hr.Spec.Values.Raw = []byte(`{"invalid":false}`) })
	w.ready("demo", "True", v2.UpgradeSucceededReason)
	if s := w.get("demo"); s.Status.Failures != 0 || conditions.IsStalled(s) {
		t.Errorf("status after the fix: %+v", s.Status)
	}
}

func TestUpgradeIsRolledBack(t *testing.T) {
	w := newWorld(t)
	hr := w.helmRelease("demo", `{}`)
	last := true
	hr.Spec.Upgrade = &v2.Upgrade{Remediation: &v2.UpgradeRemediation{Retries: 1, RemediateLastFailure: &last}}
	w.create(hr)
	w.publish("demo", "1.0.0")
	w.ready("demo", "True", v2.InstallSucceededReason)
	w.update("demo", func(hr *v2.HelmRelease) { hr.Spec.Values.Raw = []byte(`{"greeting":"bye","invalid":true}`) })
	w.ready("demo", "False", v2.UpgradeFailedReason)
	w.eventually(func() error {
		got := w.get("demo")
		if !conditions.IsStalled(got) || got.Status.UpgradeFailures != 2 || !conditions.IsTrue(got, v2.RemediatedCondition) {
			return fmt.Errorf("status: %+v", got.Status)
		}
		return nil
	})
	if got := w.greeting("demo"); got != "hello" {
		t.Errorf("greeting is %q after the rollback", got)
	}
	if reason := conditions.GetReason(w.get("demo"), v2.RemediatedCondition); reason != v2.RollbackSucceededReason {
		t.Errorf("remediated: %s", reason)
	}
}

func TestDependencyWakesItsDependent(t *testing.T) {
	w := newWorld(t)
	second := w.helmRelease("second", `{}`)
	second.Spec.DependsOn = []v2.DependencyReference{{Name: "first"}}
	w.create(second)
	c := w.ready("second", "False", v2.DependencyNotReadyReason)
	if !strings.Contains(c.Message, w.ns+"/first") {
		t.Errorf("message %q does not name the dependency", c.Message)
	}
	w.create(w.helmRelease("first", `{}`))
	w.publish("first", "1.0.0")
	w.ready("first", "True", v2.InstallSucceededReason)
	w.publish("second", "1.0.0")
	w.ready("second", "True", v2.InstallSucceededReason)
}

func TestActsAsTheTenantOnly(t *testing.T) {
	w := newWorld(t)
	hr := w.helmRelease("demo", `{}`)
	hr.Spec.ServiceAccountName = "nobody"
	w.create(hr)
	w.publish("demo", "1.0.0")
	var message string
	w.eventually(func() error {
		message = conditions.GetMessage(w.get("demo"), meta.ReadyCondition)
		if !strings.Contains(message, "system:serviceaccount:"+w.ns+":nobody") {
			return fmt.Errorf("message %q does not name the tenant", message)
		}
		return nil
	})
	// The tenant is gone: the finalizer lets go and nobody acts in its place.
	if err := w.c.Delete(t.Context(), w.get("demo")); err != nil {
		t.Fatal(err)
	}
	w.eventually(func() error {
		err := w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "demo"}, &v2.HelmRelease{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the HelmRelease is still there: %v", err)
		}
		return nil
	})
}
