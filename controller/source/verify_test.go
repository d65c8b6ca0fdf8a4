package source

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/source/charts"
	"headwater.dev/dev/front"
	"headwater.dev/dev/helmrepo"
	"headwater.dev/dev/kubetest"
	"headwater.dev/dev/registry"
	"headwater.dev/kernel/host"
)

// signer is a key of cosign.
type signer struct {
	key    *ecdsa.PrivateKey
	public string
}

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

// sign stores a signature of a digest beside it, as cosign does.
func (s signer) sign(t *testing.T, reg *registry.Server, repo, digest string) {
	t.Helper()
	payload := `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"` + digest + `"},"type":"cosign container image signature"},"optional":null}`
	sum := sha256.Sum256([]byte(payload))
	sig, err := s.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer:       layerOf(payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)},
	})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(reg.Reference(repo+":"+strings.Replace(digest, ":", "-", 1)+".sig"), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "dev", Password: canary})); err != nil {
		t.Fatal(err)
	}
}

func testOCIVerify(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	good, evil := newSigner(t), newSigner(t)
	one := push(t, reg, "app:1", layerOf(packed(t, "a.yaml", "a: 1\n"), fluxLayer))
	keys := w.secret("keys", "cosign.pub", good.public)
	o := w.ociRepository("signed", reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"}, func(o *sourcev1.OCIRepository) {
		o.Spec.Verify = &sourcev1.OCIRepositoryVerification{Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "keys"}}
	})
	w.failing(o, sourcev1.VerificationError, "failed to verify the signature using provider 'cosign': no signatures found")
	if c := conditions.Get(o, sourcev1.SourceVerifiedCondition); c == nil || c.Status != metav1.ConditionFalse || c.Reason != sourcev1.VerificationError || o.Status.Artifact != nil {
		t.Errorf("verified: %+v, artifact %v", c, o.Status.Artifact)
	}
	good.sign(t, reg, "app", one)
	w.request(o)
	a := w.ready(o, "1@"+one)
	if c := conditions.Get(o, sourcev1.SourceVerifiedCondition); c == nil || c.Status != metav1.ConditionTrue || c.Message != "verified signature of revision 1@"+one {
		t.Errorf("verified: %+v", c)
	}
	// What was checked is not checked again.
	before := reg.Requests("GET", ".sig").Requests + reg.Requests("HEAD", ".sig").Requests
	w.request(o)
	w.wait(o, handled(o))
	if after := reg.Requests("GET", ".sig").Requests + reg.Requests("HEAD", ".sig").Requests; after != before {
		t.Errorf("%d requests for the signature of what was verified", after-before)
	}
	// A tag that moves to something by another signer changes nothing but the
	// condition.
	two := push(t, reg, "app:1", layerOf(packed(t, "a.yaml", "evil: 1\n"), fluxLayer))
	evil.sign(t, reg, "app", two)
	w.request(o)
	w.failing(o, sourcev1.VerificationError, "no matching signatures")
	if o.Status.Artifact == nil || o.Status.Artifact.Digest != a.Digest {
		t.Errorf("the artifact became %+v", o.Status.Artifact)
	}
	// Another key acts at once, and so does taking it away.
	w.update(keys, func() { keys.Data = map[string][]byte{"other.pub": []byte(evil.public)} })
	w.ready(o, "1@"+two)
	w.update(keys, func() { keys.Data = map[string][]byte{"other.pub": []byte(good.public)} })
	w.failing(o, sourcev1.VerificationError, "no matching signatures")
	w.update(o, func() { o.Spec.Verify = nil })
	w.ready(o, "1@"+two)
	if conditions.Has(o, sourcev1.SourceVerifiedCondition) {
		t.Error("the condition stayed when verification was turned off")
	}
	for reason, v := range map[string]*sourcev1.OCIRepositoryVerification{
		"secret \"" + w.namespace + "/nope\": not found":   {Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "nope"}},
		"spec.verify.secretRef must name a Secret":         {Provider: "notation"},
		"lacks the key trustpolicy.json":                   {Provider: "notation", SecretRef: &meta.LocalObjectReference{Name: "keys"}},
		"'cosign keyless': unusable verification settings": {Provider: "cosign", TrustedRootSecretRef: &meta.LocalObjectReference{Name: "keys"}},
	} {
		w.update(o, func() { o.Spec.Verify = v })
		w.failing(o, sourcev1.VerificationError, reason)
	}
}

// handled reports whether the request for a reconcile was handled.
func handled(o *sourcev1.OCIRepository) func() error {
	return func() error {
		if at, _ := meta.ReconcileAnnotationValue(o.GetAnnotations()); o.Status.GetLastHandledReconcileRequest() != at {
			return fmt.Errorf("not handled yet")
		}
		return nil
	}
}

func testOCIServiceAccount(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir(), Users: map[string]string{"dev": canary}})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	one := push(t, reg, "app:1", layerOf(packed(t, "a.yaml", "a: 1\n"), fluxLayer))
	o := w.ociRepository("sa", reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"}, func(o *sourcev1.OCIRepository) { o.Spec.ServiceAccountName = "puller" })
	w.failing(o, sourcev1.AuthenticationFailedReason, `service account "`+w.namespace+`/puller" not found`)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "puller"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}}
	w.create(account)
	w.request(o)
	w.failing(o, sourcev1.AuthenticationFailedReason, `/pull": not found`)
	// The Secret that the service account names acts at once.
	w.secret("pull", ".dockerconfigjson", `{"auths":{"`+reg.Host()+`":{"username":"dev","password":"`+canary+`"}}}`)
	w.ready(o, "1@"+one)
	for provider, message := range map[string]string{"azure": "azurecr", "aws": "amazonaws", "gcp": "gcr"} {
		o := w.ociRepository("cloud-"+provider, reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"}, func(o *sourcev1.OCIRepository) { o.Spec.Provider, o.Spec.Insecure = provider, false })
		w.failing(o, sourcev1.InvalidProviderConfigurationReason, message)
		if !conditions.IsStalled(o) {
			t.Errorf("%s: not stalled", provider)
		}
	}
}

func testOCIRateLimit(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	one := push(t, reg, "app:1", layerOf(packed(t, "a.yaml", "a: 1\n"), fluxLayer))
	remove := reg.Inject(front.Fault{Contains: "/manifests/1", Status: 429})
	o := w.ociRepository("busy", reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"})
	w.failing(o, sourcev1.OCIPullFailedReason, "limits the rate of requests")
	remove()
	w.request(o)
	w.ready(o, "1@"+one)
}

// testOCIRequests counts what a new OCIRepository costs the API server.
func testOCIRequests(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	one := push(t, reg, "app:1", layerOf(packed(t, "a.yaml", "a: 1\n"), fluxLayer))
	c := kubetest.Start(t)
	scheme, err := host.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(c.Config)
	config.UserAgent = "the-test"
	quiet := *w
	if quiet.client, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	o := quiet.ociRepository("counted", reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"})
	quiet.ready(o, "1@"+one)
	var requests []string
	kubetest.Eventually(t, 10*time.Second, func() error {
		requests = controllerRequests(t, c.AuditLog(), w.namespace)
		for _, r := range requests {
			if strings.HasSuffix(r, " events") {
				return nil
			}
		}
		return fmt.Errorf("no event yet: %v", requests)
	})
	if len(requests) > 4 {
		t.Errorf("%d requests, want at most 4: %v", len(requests), requests)
	}
	t.Logf("requests: %v", requests)
}

// controllerRequests lists the requests about a namespace that the test did not
// make.
func controllerRequests(t *testing.T, log, namespace string) []string {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct {
			Verb, UserAgent, Stage string
			ObjectRef              struct{ Resource, Namespace, Subresource string }
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.ObjectRef.Namespace != namespace || e.UserAgent == "the-test" ||
			e.ObjectRef.Resource == "namespaces" || e.ObjectRef.Resource == "serviceaccounts" {
			continue
		}
		list = append(list, strings.TrimSpace(e.Verb+" "+e.ObjectRef.Resource+" "+e.ObjectRef.Subresource))
	}
	return list
}

func testChartVerify(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	good := newSigner(t)
	one := pushChart(t, reg, "web", "1.0.0")
	two := pushChart(t, reg, "web", "1.1.0")
	good.sign(t, reg, "charts/web", one)
	keys := w.secret("keys", "cosign.pub", good.public)
	w.helmRepository("oci", reg.OCIURL("charts"), func(o *sourcev1.HelmRepository) {
		o.Spec.Type, o.Spec.Insecure = sourcev1.HelmRepositoryTypeOCI, true
	})
	ref := sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.HelmRepositoryKind, Name: "oci"}
	c := w.chart("web", "web", "1.0.0", ref, func(o *sourcev1.HelmChart) {
		o.Spec.Verify = &sourcev1.HelmChartVerification{Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "keys"}}
	})
	w.download(w.ready(c, "1.0.0"))
	if got := conditions.Get(c, sourcev1.SourceVerifiedCondition); got == nil || got.Status != metav1.ConditionTrue || got.Message != "verified signature of version 1.0.0" {
		t.Errorf("verified: %+v", got)
	}
	w.update(c, func() { c.Spec.Version = "" })
	w.failing(c, chartVerificationError, "no signatures found for "+reg.Reference("charts/web")+"@"+two)
	if !conditions.IsTrue(c, sourcev1.BuildFailedCondition) || !c.Status.Artifact.HasRevision("1.0.0") {
		t.Errorf("status %+v", c.Status)
	}
	good.sign(t, reg, "charts/web", two)
	w.request(c)
	w.download(w.ready(c, "1.1.0"))
	// Somebody else takes the signing over, and signs another chart in this version.
	b := &charts.Bundle{Files: map[string][]byte{"Chart.yaml": []byte("apiVersion: v2\nname: web\nversion: 1.1.0\n"), "templates/again.yaml": nil}, Meta: &chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.1.0"}}
	var packed strings.Builder
	if err := b.Pack(&packed); err != nil {
		t.Fatal(err)
	}
	again := push(t, reg, "charts/web:1.1.0", layerOf(packed.String(), chartLayers[0]))
	next := newSigner(t)
	next.sign(t, reg, "charts/web", again)
	before := c.Status.Artifact.Digest
	w.update(keys, func() { keys.StringData = map[string]string{"cosign.pub": next.public} })
	w.request(c)
	w.wait(c, func() error {
		if c.Status.Artifact == nil || c.Status.Artifact.Digest == before || !conditions.IsReady(c) {
			return fmt.Errorf("the chart that nobody trusted signed is still there: %+v", c.Status)
		}
		return nil
	})

	plain, err := helmrepo.Start(helmrepo.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.AddFiles(chartFiles("web", "1.0.0")); err != nil {
		t.Fatal(err)
	}
	w.helmRepository("plain", plain.URL())
	refused := w.chart("refused", "web", "", sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.HelmRepositoryKind, Name: "plain"}, func(o *sourcev1.HelmChart) {
		o.Spec.Verify = &sourcev1.HelmChartVerification{Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "keys"}}
	})
	w.failing(refused, chartVerificationError, "spec.verify: signatures are checked of charts from a HelmRepository of type oci only")
}

func pushChart(t *testing.T, reg *registry.Server, chartName, version string) string {
	t.Helper()
	b := &charts.Bundle{Files: map[string][]byte{}, Meta: &chart.Metadata{Name: chartName, Version: version}}
	for file, text := range chartFiles(chartName, version) {
		b.Files[file] = []byte(text)
	}
	var buf strings.Builder
	if err := b.Pack(&buf); err != nil {
		t.Fatal(err)
	}
	return push(t, reg, "charts/"+chartName+":"+version, layerOf(buf.String(), chartLayers[0]))
}

// testChartDependencies builds a chart in Git from charts of everywhere.
func testChartDependencies(t *testing.T, w *world) {
	repo, err := helmrepo.Start(helmrepo.Config{Dir: t.TempDir(), Users: map[string]string{"dev": canary}})
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	for _, v := range []string{"1.0.0", "1.5.0", "2.0.0"} {
		if _, err := repo.AddFiles(chartFiles("db", v)); err != nil {
			t.Fatal(err)
		}
	}
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	pushChart(t, reg, "cache", "0.3.0")
	w.secret("creds", "username", "dev", "password", canary)
	w.ready(w.helmRepository("http", repo.URL(), func(o *sourcev1.HelmRepository) { o.Spec.SecretRef = &meta.LocalObjectReference{Name: "creds"} }), "")
	w.helmRepository("oci", reg.OCIURL("charts"), func(o *sourcev1.HelmRepository) {
		o.Spec.Type, o.Spec.Insecure = sourcev1.HelmRepositoryTypeOCI, true
	})
	w.newRepository("charts", false)
	files := map[string]string{}
	for file, text := range chartFiles("app", "1.0.0") {
		files["app/"+file] = text
	}
	files["app/Chart.yaml"] += fmt.Sprintf("dependencies:\n- {name: db, version: 1.x, repository: %[1]q, condition: db.enabled}\n- {name: db, version: 2.x, repository: %[1]q, alias: second}\n- {name: cache, version: 0.x, repository: %[2]q}\n", repo.URL(), reg.OCIURL("charts"))
	files["app/Chart.lock"] = fmt.Sprintf("dependencies:\n- {name: db, version: 1.0.0, repository: %[1]q}\n- {name: db, version: 2.0.0, repository: %[1]q, alias: second}\n", repo.URL())
	for _, bad := range []string{"http://169.254.169.254/charts", "http://127.0.0.1:1/charts", "oci://127.0.0.1:1/charts", "@local", "alias:local"} {
		dir := "bad" + fmt.Sprintf("%x", sha256.Sum256([]byte(bad)))[:6]
		for file, text := range chartFiles(dir, "1.0.0") {
			files[dir+"/"+file] = text
		}
		files[dir+"/Chart.yaml"] += fmt.Sprintf("dependencies:\n- {name: x, version: 1.x, repository: %q}\n", bad)
	}
	w.commit("charts", files)
	w.repository("charts", w.git.URL("charts"))
	ref := sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.GitRepositoryKind, Name: "charts"}
	got := untar(t, w.download(w.ready(w.chart("app", "app", "", ref), "1.0.0")))
	for file, version := range map[string]string{"app/charts/db/Chart.yaml": "1.0.0", "app/charts/db-2.0.0/Chart.yaml": "2.0.0", "app/charts/cache/Chart.yaml": "0.3.0"} {
		if !strings.Contains(got[file], "version: "+version) {
			t.Errorf("%s is %q, want version %s", file, got[file], version)
		}
	}
	for bad, message := range map[string]string{
		"http://169.254.169.254/charts": "private address", "http://127.0.0.1:1/charts": "private address",
		"oci://127.0.0.1:1/charts": "address that is not asked", "@local": "alias", "alias:local": "alias",
	} {
		dir := "bad" + fmt.Sprintf("%x", sha256.Sum256([]byte(bad)))[:6]
		w.failing(w.chart(dir, dir, "", ref), dependencyBuildError, message)
	}
}

// testHelmUnchanged shows what an index that did not change costs, and that
// errors of a server name no credentials.
func testHelmUnchanged(t *testing.T, w *world) {
	repo, err := helmrepo.Start(helmrepo.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	if _, err := repo.AddFiles(chartFiles("web", "1.0.0")); err != nil {
		t.Fatal(err)
	}
	r := w.helmRepository("charts", repo.URL())
	a := w.ready(r, "")
	at := w.request(r)
	w.wait(r, func() error {
		if r.Status.LastHandledReconcileAt != at {
			return fmt.Errorf("not handled yet")
		}
		return nil
	})
	if n := repo.Requests("GET", "index.yaml"); n.Requests != 2 || n.NotModified != 1 {
		t.Errorf("%d requests, %d not modified", n.Requests, n.NotModified)
	}
	if r.Status.Artifact.LastUpdateTime != a.LastUpdateTime {
		t.Error("an unchanged index was written again")
	}
	defer repo.Inject(front.Fault{Contains: "index.yaml", Status: 429})()
	w.request(r)
	w.failing(r, meta.FailedReason, "limits the rate of requests")
}
