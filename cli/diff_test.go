package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/dev/sealed"
	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/manifest"
)

// fluxWorld is a cluster with Flux's kinds, seen by somebody with a terminal.
type fluxWorld struct {
	terminal
	ns     string
	access *fluxAccess
}

func startFlux(t *testing.T) *fluxWorld {
	t.Helper()
	cluster := kubetest.Start(t)
	kubetest.CRDs(t, cluster, "flux")
	x := terminal{t: t, env: map[string]string{"KUBECONFIG": cluster.Kubeconfig}}
	access, err := (&fluxCluster{kubeconfig: cluster.Kubeconfig}).open(&session{env: func(name string) string { return x.env[name] }})
	if err != nil {
		t.Fatal(err)
	}
	return &fluxWorld{terminal: x, ns: cluster.Namespace(t), access: access}
}

// put creates a Kustomization with an inventory.
func (w *fluxWorld) put(name string, spec kustomizev1.KustomizationSpec, refs ...apply.Ref) *kustomizev1.Kustomization {
	w.t.Helper()
	spec.SourceRef = kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "apps"}
	spec.Interval = metav1.Duration{Duration: 1e9}
	k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}, Spec: spec}
	if err := w.access.Client.Create(w.t.Context(), k); err != nil {
		w.t.Fatal(err)
	}
	k.Status.Inventory = apply.Inventory(refs)
	if err := w.access.Client.Status().Update(w.t.Context(), k); err != nil {
		w.t.Fatal(err)
	}
	return k
}

// converge does what the cluster's loop would do with the files.
func (w *fluxWorld) converge(k *kustomizev1.Kustomization, root string) {
	w.t.Helper()
	built, err := manifest.Build(context.Background(), manifest.Request{Root: root, Spec: &k.Spec})
	if err != nil {
		w.t.Fatal(err)
	}
	t := apply.Tenant{Owner: client.ObjectKeyFromObject(k), Access: w.access.Access}
	refs, err := apply.Fit(t, built.Objects)
	if err != nil {
		w.t.Fatal(err)
	}
	engine := &apply.Engine{Manager: fluxManager, Group: fluxGroup, Parallel: 2, Watcher: apply.NewWatcher(fluxManager, fluxGroup, func(types.NamespacedName) {})}
	if _, err := engine.Apply(w.t.Context(), apply.Request{Tenant: t, Objects: built.Objects}); err != nil {
		w.t.Fatal(err)
	}
	k.Status.Inventory = apply.Inventory(refs)
	if err := w.access.Client.Status().Update(w.t.Context(), k); err != nil {
		w.t.Fatal(err)
	}
}

const diffDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: 'web:1'}]}}
`

func TestDiffKustomization(t *testing.T) {
	w := startFlux(t)
	root := tree(t, map[string]string{
		"d.yaml": diffDeployment,
		"c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1'}\n",
		"s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {token: hunter21}\n",
	})
	write := func(name, body string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	k := w.put("apps", kustomizev1.KustomizationSpec{Prune: true, TargetNamespace: w.ns})
	diff := func() said { return w.run("diff", "kustomization", "apps", "-n", w.ns, "--path", root) }
	expect := func(why string, code int, want string) {
		t.Helper()
		got := diff()
		if d := cmp.Diff(strings.ReplaceAll(want, "NS", w.ns), got.out); d != "" || got.code != code || got.err != "" {
			t.Errorf("%s: exit code %d, want %d\n%s%s", why, got.code, code, got.err, d)
		}
	}

	expect("nothing is there yet", 1, "► ConfigMap/NS/c created\n► Deployment/NS/web created\n► Secret/NS/s created\n")
	if err := w.access.Client.Get(t.Context(), types.NamespacedName{Namespace: w.ns, Name: "c"}, &corev1.ConfigMap{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the dry run made an object: %v", err)
	}
	w.converge(k, root)
	expect("all is there", 0, "")

	write("d.yaml", strings.Replace(diffDeployment, "replicas: 1", "replicas: 3", 1))
	write("s.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {token: hunter22}\n")
	if err := os.Rename(filepath.Join(root, "c.yaml"), filepath.Join(root, "gone.txt")); err != nil {
		t.Fatal(err)
	}
	expect("changed, masked and gone", 1, "► Deployment/NS/web drifted\n  spec.replicas\n    - 1\n    + 3\n► Secret/NS/s drifted\n  data.token\n    - ***\n    + ***\n► ConfigMap/NS/c deleted\n")

	write("x.yaml", "apiVersion: no.such/v1\nkind: Thing\nmetadata: {name: x}\n")
	if got := diff(); got.code != 2 || !strings.Contains(got.err, "Thing") || !strings.Contains(got.err, "CustomResourceDefinition") {
		t.Errorf("an unknown kind: exit code %d, %q", got.code, got.err)
	}
	write("x.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+w.ns+"-new}\n---\n")
	k.Spec.TargetNamespace = ""
	write("x.yaml", "apiVersion: v1\nkind: [")
	if got := diff(); got.code != 2 {
		t.Errorf("broken files: exit code %d, %q", got.code, got.err)
	}
	if got := w.run("diff", "kustomization", "none", "-n", w.ns, "--path", root); got.code != 2 || !strings.Contains(got.err, "no Kustomization") {
		t.Errorf("no Kustomization: exit code %d, %q", got.code, got.err)
	}
	if got := w.run("diff", "kustomization"); got.code != 2 {
		t.Errorf("no name: exit code %d", got.code)
	}
}

// TestDiffOfNewNamespace: objects of a namespace that the same files make.
func TestDiffOfNewNamespace(t *testing.T) {
	w := startFlux(t)
	root := tree(t, map[string]string{
		"n.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + w.ns + "-new}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: " + w.ns + "-new}\n",
	})
	w.put("apps", kustomizev1.KustomizationSpec{})
	got := w.run("diff", "ks", "apps", "-n", w.ns, "--path", root)
	want := "► Namespace/" + w.ns + "-new created\n► ConfigMap/" + w.ns + "-new/c created\n"
	if d := cmp.Diff(want, got.out); d != "" || got.code != 1 {
		t.Errorf("exit code %d, %s\n%s", got.code, got.err, d)
	}
}

func TestTreeKustomization(t *testing.T) {
	w := startFlux(t)
	if err := w.access.Client.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "there"}}); err != nil {
		t.Fatal(err)
	}
	ref := func(group, version, kind, name string) apply.Ref {
		r := apply.Ref{Version: version}
		r.GroupKind.Group, r.GroupKind.Kind, r.Namespace, r.Name = group, kind, w.ns, name
		return r
	}
	hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "chart"}, Spec: helmv2.HelmReleaseSpec{
		Interval: metav1.Duration{Duration: 1e9}, ChartRef: &helmv2.CrossNamespaceSourceReference{Kind: "OCIRepository", Name: "c"}}}
	if err := w.access.Client.Create(t.Context(), hr); err != nil {
		t.Fatal(err)
	}
	hr.Status.Inventory = &helmv2.ResourceInventory{Entries: []helmv2.ResourceRef{{ID: w.ns + "_gone__ConfigMap", Version: "v1"}}}
	if err := w.access.Client.Status().Update(t.Context(), hr); err != nil {
		t.Fatal(err)
	}
	w.put("top", kustomizev1.KustomizationSpec{}, ref("", "v1", "ConfigMap", "there"), ref(fluxGroup, "v1", "Kustomization", "below"))
	w.put("below", kustomizev1.KustomizationSpec{}, ref("helm.toolkit.fluxcd.io", "v2", "HelmRelease", "chart"), ref(fluxGroup, "v1", "Kustomization", "top"))

	got := w.ok("tree", "kustomization", "top", "-n", w.ns)
	var lines []string
	for _, line := range strings.Split(strings.ReplaceAll(got, w.ns, "NS"), "\n") {
		line, _, _ = strings.Cut(line, ": ") // what kstatus says of objects that nobody reconciles
		lines = append(lines, line)
	}
	want := []string{
		"Kustomization/NS/top InProgress", "├── ConfigMap/NS/there Current", "└── Kustomization/NS/below InProgress",
		"    ├── HelmRelease/NS/chart InProgress", "    │   └── ConfigMap/NS/gone NotFound", "    └── Kustomization/NS/top InProgress", "",
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
	var b branch
	if err := json.NewDecoder(bytes.NewBufferString(w.ok("tree", "kustomization", "top", "-n", w.ns, "--output", "json"))).Decode(&b); err != nil {
		t.Fatal(err)
	}
	if len(b.Resources) != 2 || b.Resources[0].Health != "Current" || b.Resources[1].Resources[0].Resources[0].Resource.Name != "gone" {
		t.Errorf("as data: %+v", b)
	}
	w.fails(3, "give its namespace with --namespace", "tree", "kustomization", "none", "-n", w.ns)
}

// TestDiffOfEncrypted: encrypted files are compared by what they hold, which is
// not shown.
func TestDiffOfEncrypted(t *testing.T) {
	w := startFlux(t)
	key, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	seal := func(token string) string {
		out, err := key.Encrypt("yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  token: "+token+"\n", "^stringData$")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	root := tree(t, map[string]string{"s.yaml": seal("hunter21")})
	spec := kustomizev1.KustomizationSpec{TargetNamespace: w.ns, Decryption: &kustomizev1.Decryption{Provider: "sops", SecretRef: &meta.LocalObjectReference{Name: "keys"}}}
	w.put("apps", spec)
	args := []string{"diff", "kustomization", "apps", "-n", w.ns, "--path", root}
	if got := w.run(args...); got.code != 2 || !strings.Contains(got.err, "read the keys of spec.decryption") {
		t.Errorf("without keys: exit code %d, %q", got.code, got.err)
	}
	if err := w.access.Client.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "keys"}, StringData: map[string]string{"k.agekey": key.Private()}}); err != nil {
		t.Fatal(err)
	}
	live := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "s", Labels: map[string]string{fluxGroup + "/name": "apps", fluxGroup + "/namespace": w.ns}}, StringData: map[string]string{"token": "hunter21"}}
	if err := w.access.Client.Create(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	if got := w.run(args...); got.code != 0 || got.out != "" {
		t.Errorf("the same: exit code %d, %s%s", got.code, got.out, got.err)
	}
	if err := os.WriteFile(filepath.Join(root, "s.yaml"), []byte(seal("hunter22")), 0o644); err != nil {
		t.Fatal(err)
	}
	want := "► Secret/" + w.ns + "/s drifted\n  data.token\n    - ***\n    + ***\n"
	if got := w.run(args...); got.code != 1 || got.out != want {
		t.Errorf("another value: exit code %d, %s%s", got.code, got.out, got.err)
	}
	if got := w.ok("build", "kustomization", "apps", "-n", w.ns, "--path", root); strings.Contains(got, "hunter22") || !strings.Contains(got, "ENC[") {
		t.Errorf("build shows %s", got)
	}
}
