package agent

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/agent/uplink"
	"headwater.dev/api/link"
	"headwater.dev/client"
	"headwater.dev/dev/kubetest"
)

// rotating is a real hub and a real cluster whose agent's uplink is started, and
// killed, by a test.
type rotating struct {
	t     *testing.T
	kube  kubernetes.Interface
	own   kubernetes.Interface
	owner *client.Client
	ca    string
	id    string
}

func newRotating(t *testing.T, name string) *rotating {
	w := &rotating{t: t}
	w.kube, w.own = asAgent(t)
	w.ca, w.owner = startHub(t)
	if _, err := client.Put[any](t.Context(), w.owner, w.owner.GroupID("rg"), client.VersionCore, map[string]any{"location": "local"}); err != nil {
		t.Fatal(err)
	}
	w.id = w.owner.ClusterID("rg", "Microsoft.Kubernetes", "connectedClusters", name)
	text, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	w.register(text)
	ctx := context.Background()
	secrets := w.kube.CoreV1().Secrets("headwater-system")
	_ = secrets.Delete(ctx, identitySecret, metav1.DeleteOptions{})
	_, err = secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: identitySecret, Namespace: "headwater-system"},
		Data: map[string][]byte{"tls.key": text, "cluster-id": []byte(w.id)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = secrets.Delete(ctx, identitySecret, metav1.DeleteOptions{}) })
	return w
}

func (w *rotating) register(text []byte) {
	w.t.Helper()
	key, err := parseKey(text)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := client.Put[any](w.t.Context(), w.owner, w.id, client.VersionCluster, map[string]any{"location": "local", "properties": map[string]any{
		"agentPublicKeyCertificate": base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&key.PublicKey))}}); err != nil {
		w.t.Fatal(err)
	}
}

// stored is what the cluster's Secret holds.
func (w *rotating) stored() (*rsa.PrivateKey, rotation) {
	w.t.Helper()
	secret, err := w.kube.CoreV1().Secrets("headwater-system").Get(w.t.Context(), identitySecret, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	key, r, err := parse(secret)
	if err != nil {
		w.t.Fatal(err)
	}
	return key, r
}

// life is one process of the agent.
type life struct {
	ring *keyring
	stop func()

	mu      sync.Mutex
	desired link.Desired
}

func (p *life) newest() link.Desired {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.desired
}

// start begins a life with what the Secret holds; change may put something
// between the uplink and the ring.
func (w *rotating) start(every time.Duration, change func(*keyring) uplink.Keyring) *life {
	w.t.Helper()
	key, r := w.stored()
	ring, err := newKeyring(w.own, Config{Namespace: "headwater-system", Key: key, Rotation: r, RotateEvery: every})
	if err != nil {
		w.t.Fatal(err)
	}
	p := &life{ring: ring}
	c := uplink.Config{Hub: w.owner.Hub(), CA: []byte(w.ca), Cluster: w.id, Keyring: ring, Log: testr.New(w.t),
		Heartbeat: func(context.Context) link.Heartbeat { return link.Heartbeat{AgentVersion: "1"} },
		Desired:   func(d link.Desired) { p.mu.Lock(); defer p.mu.Unlock(); p.desired = d }}
	if change != nil {
		c.Keyring = change(ring)
	}
	u, err := uplink.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- u.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(p.stop)
	return p
}

// cluster is what the owner sees of the keys.
func (w *rotating) said() map[string]string {
	w.t.Helper()
	o, err := client.Get[struct {
		Properties struct{ MiscellaneousProperties map[string]string }
	}](w.t.Context(), w.owner, w.id, client.VersionCluster)
	if err != nil {
		w.t.Fatal(err)
	}
	return o.Properties.MiscellaneousProperties
}

// counts waits until the hub takes the key that the Secret has, and no other is
// on its way.
func (w *rotating) counts(not *rsa.PrivateKey) *rsa.PrivateKey {
	w.t.Helper()
	var key *rsa.PrivateKey
	kubetest.Eventually(w.t, patience, func() error {
		var r rotation
		key, r = w.stored()
		if key.Equal(not) || len(r.Next) > 0 || w.said()["keyFingerprint"] != fingerprintOf(key) {
			return fmt.Errorf("the hub takes %q, the Secret has %s", w.said()["keyFingerprint"], r.Of)
		}
		return nil
	})
	return key
}

func (w *rotating) configure(secret string) {
	w.t.Helper()
	if _, err := client.Put[any](w.t.Context(), w.owner, client.ConfigurationID(w.id, "apps"), client.VersionPreview, map[string]any{"properties": map[string]any{
		"scope": "cluster", "namespace": "apps", "sourceKind": "GitRepository",
		"gitRepository":                  map[string]any{"url": "https://git.example/apps.git", "httpsUser": "me", "repositoryRef": map[string]any{"branch": "main"}},
		"kustomizations":                 map[string]any{"app": map[string]any{"path": "./app"}},
		"configurationProtectedSettings": map[string]any{"httpsKey": base64.StdEncoding.EncodeToString([]byte(secret))}}}); err != nil {
		w.t.Fatal(err)
	}
}

// opens waits until the agent is given a secret that it can open.
func (w *rotating) opens(p *life, secret string) {
	w.t.Helper()
	keeper := &settings{keys: p.ring.all}
	kubetest.Eventually(w.t, patience, func() error {
		for _, item := range p.newest().Items {
			if len(item.Sealed) == 0 {
				continue
			}
			values, err := keeper.open(item.Sealed)
			if err != nil {
				return err
			}
			if got, err := base64.StdEncoding.DecodeString(string(values["httpsKey"])); err != nil || string(got) != secret {
				return fmt.Errorf("the secret is %q, %v", got, err)
			}
			return nil
		}
		return errors.New("nothing is desired")
	})
}

// TestA85RotationOnRequest lets the owner ask for a new key while a secret that is
// sealed to the old one is under way.
func TestA85RotationOnRequest(t *testing.T) {
	w := newRotating(t, "asked")
	first, _ := w.stored()
	w.configure("before")
	p := w.start(0, nil)
	w.opens(p, "before")
	if _, err := w.owner.Send(t.Context(), http.MethodPost, w.id+"/rotateKey?api-version="+client.VersionCluster, nil); err != nil {
		t.Fatal(err)
	}
	second := w.counts(first)
	kubetest.Eventually(t, patience, func() error {
		if said := w.said(); said["keyRotationRequestedAt"] != "" || said["keyRotatedAt"] == "" {
			return fmt.Errorf("the owner sees %v", said)
		}
		return nil
	})
	p.stop()
	p = w.start(0, nil) // a new process has only what the Secret holds
	w.opens(p, "before")
	w.configure("after")
	w.opens(p, "after")
	if key, _ := w.stored(); !key.Equal(second) {
		t.Error("the key was replaced more than once")
	}
	w.activity("Microsoft.Kubernetes/connectedClusters/rotateKey/action", 2) // who asked, and that it was done
}

// activity wants so many entries of an action about the cluster.
func (w *rotating) activity(action string, want int) {
	w.t.Helper()
	filter := "eventTimestamp%20ge%20'" + time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15:04:05Z") + "'"
	raw, err := w.owner.Send(w.t.Context(), http.MethodGet, "/subscriptions/"+w.owner.SubscriptionID()+
		"/providers/Microsoft.Insights/eventtypes/management/values?api-version=2015-04-01&$filter="+filter, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	var page struct {
		Value []struct {
			ResourceID    string
			OperationName struct{ Value string }
		}
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		w.t.Fatal(err)
	}
	found := 0
	for _, e := range page.Value {
		if strings.EqualFold(e.OperationName.Value, action) && strings.EqualFold(e.ResourceID, w.id) {
			found++
		}
	}
	if found != want {
		w.t.Errorf("%d entries of %s, want %d in %s", found, action, want, raw)
	}
}

// TestA85RotationAfter90Days is an agent that was off for a season: its key is
// good, and it replaces it at once.
func TestA85RotationAfter90Days(t *testing.T) {
	w := newRotating(t, "season")
	key, _ := w.stored()
	secrets := w.kube.CoreV1().Secrets("headwater-system")
	secret, err := secrets.Get(t.Context(), identitySecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if secret.Data[rotationKey], err = json.Marshal(rotation{Of: fingerprintOf(key), Since: time.Now().Add(-90 * 24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.start(defaultRotateEvery, nil)
	w.counts(key)
}

// dying is a ring whose process dies at a point of a rotation.
type dying struct {
	*keyring
	at   string
	died chan struct{}
	once *sync.Once
}

var errDied = errors.New("the process is dead")

func (d dying) Renew(ctx context.Context) error {
	err := d.keyring.Renew(ctx)
	if d.at == "kept" && err == nil {
		d.once.Do(func() { close(d.died) })
		<-ctx.Done()
		return errDied
	}
	return err
}

// Settle is where the hub has begun to count the next key.
func (d dying) Settle(ctx context.Context, next *rsa.PrivateKey) error {
	if d.keyring.Keys().Present.Equal(next) {
		return nil
	}
	if d.at == "used" {
		d.once.Do(func() { close(d.died) })
		return errDied // nothing is written
	}
	return d.keyring.Settle(ctx, next)
}

// TestA85CrashDuringRotation kills the agent between any two steps. The next
// process always gets in, and ends what was begun.
func TestA85CrashDuringRotation(t *testing.T) {
	for _, at := range []string{"kept", "used"} {
		t.Run(at, func(t *testing.T) {
			w := newRotating(t, "crash-"+at)
			first, _ := w.stored()
			d := dying{at: at, died: make(chan struct{}), once: &sync.Once{}}
			p := w.start(time.Nanosecond, func(k *keyring) uplink.Keyring { d.keyring = k; return d })
			select {
			case <-d.died:
			case <-time.After(patience):
				t.Fatal("the rotation never came so far")
			}
			p.stop()
			if key, r := w.stored(); !key.Equal(first) || len(r.Next) == 0 {
				t.Fatalf("the Secret is not as it is in the middle of a rotation: %+v", r)
			}
			w.start(0, nil)
			w.counts(first)
		})
	}
}

// TestA85HubFromABackup is a hub that has gone back to before a rotation: it knows
// only the former key, which introduces the present one again.
func TestA85HubFromABackup(t *testing.T) {
	w := newRotating(t, "restored")
	key, _ := w.stored()
	secrets := w.kube.CoreV1().Secrets("headwater-system")
	secret, err := secrets.Get(t.Context(), identitySecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	next, err := parseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	r := rotation{Of: fingerprintOf(key)}.settled(secret.Data["tls.key"], next, time.Now())
	secret.Data["tls.key"] = text
	if secret.Data[rotationKey], err = json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.start(0, nil)
	if now := w.counts(key); !now.Equal(next) {
		t.Error("another key came out of it")
	}
}

// TestRotationIsDue spreads a fleet, and says the same after each restart.
func TestRotationIsDue(t *testing.T) {
	since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	days := map[int]bool{}
	for i := range 200 {
		r := rotation{Of: fmt.Sprint("key", i), Since: since}
		due := r.due(defaultRotateEvery)
		if after := due.Sub(since); after < 27*24*time.Hour || after > 33*24*time.Hour {
			t.Fatalf("due after %v", after)
		}
		days[int(due.Sub(since).Hours()/24)] = true
		if again := r.due(defaultRotateEvery); !again.Equal(due) {
			t.Fatal("a restart changes when it is due")
		}
	}
	if len(days) < 6 {
		t.Errorf("200 clusters are due on %d days only", len(days))
	}
	if never := (rotation{Since: since}).due(0); !never.IsZero() {
		t.Errorf("turned off, it is due %v", never)
	}
	for text, want := range map[string]time.Duration{"": defaultRotateEvery, "0": 0, "0s": 0, "720h": 720 * time.Hour, "1m": -1, "-1h": -1, "month": -1} {
		if got, err := rotateEvery(text); (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
}

// TestFormerKeysAreKept for what is sealed to them, and no longer.
func TestFormerKeysAreKept(t *testing.T) {
	now := time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	text := pemOf(t, "PRIVATE KEY", der, err)
	r := rotation{Former: []formerKey{{Key: []byte("day"), End: now.Add(-24 * time.Hour)}, {Key: []byte("week"), End: now.Add(-7 * 24 * time.Hour)}}}
	var kept []string
	for _, f := range r.settled(text, key, now).Former {
		kept = append(kept, string(f.Key))
	}
	if diff := cmp.Diff([]string{string(text), "day"}, kept); diff != "" {
		t.Error(diff)
	}
}
