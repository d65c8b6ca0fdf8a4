package cli

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"headwater.dev/api/arm"
	"headwater.dev/deploy"
	"headwater.dev/kernel/process"
	"headwater.dev/kernel/release"
)

const (
	agentNamespace = "headwater-system"
	agentRelease   = "headwater-agent"
	identityName   = "headwater-agent-identity"
	identityBits   = 4096
	// pendingFor is how old an interrupted installation of the agent is before
	// it is taken over.
	pendingFor = time.Minute
	// requestTimeout bounds a request to the cluster.
	requestTimeout = 30 * time.Second
)

// kube is the cluster that a kubeconfig points to.
type kube struct {
	config *rest.Config
	client kubernetes.Interface
}

// open reads the kubeconfig.
func (m *member) open(s *session) (*kube, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = m.kubeconfig
	if files := s.env("KUBECONFIG"); files != "" {
		rules.Precedence = filepath.SplitList(files)
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: m.context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig (--kube-config, KUBECONFIG): %w", err)
	}
	config.UserAgent = "headwater/" + process.Version()
	config.QPS = -1
	bounded := rest.CopyConfig(config)
	bounded.Timeout = requestTimeout
	client, err := kubernetes.NewForConfig(bounded)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return &kube{config: config, client: client}, nil
}

// identity is what the cluster is known by: its id, and the base64 of its public
// key. Both are empty when it is not connected.
func (k *kube) identity(ctx context.Context) (id, public string, err error) {
	secret, err := k.client.CoreV1().Secrets(agentNamespace).Get(ctx, identityName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", "", nil
	case err != nil:
		return "", "", fmt.Errorf("read the identity of the cluster %s: %w", k.config.Host, err)
	}
	public, err = publicOf(secret.Data["tls.key"])
	if err != nil {
		return "", "", fmt.Errorf("the Secret %s/%s %w: delete it and connect again", agentNamespace, identityName, err)
	}
	return string(secret.Data["cluster-id"]), public, nil
}

// fingerprintOf names a key, given by the base64 of its public half; empty for none.
func fingerprintOf(public string) string {
	der, err := base64.StdEncoding.DecodeString(public)
	if err != nil || len(der) == 0 {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// newIdentity makes the key of a cluster, in place of the one that it has only
// when asked for. The private half never leaves the cluster's Secret; the base64
// of the public half is returned.
func (k *kube) newIdentity(ctx context.Context, id string, replace bool) (string, error) {
	if err := k.makeNamespace(ctx); err != nil {
		return "", err
	}
	key, err := rsa.GenerateKey(rand.Reader, identityBits)
	if err != nil {
		return "", fmt.Errorf("make the cluster's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("make the cluster's key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: identityName, Namespace: agentNamespace,
			Labels: map[string]string{"app.kubernetes.io/part-of": "headwater"}},
		Data: map[string][]byte{"tls.key": text, "cluster-id": []byte(id)},
	}
	_, err = k.client.CoreV1().Secrets(agentNamespace).Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) && replace {
		_, err = k.client.CoreV1().Secrets(agentNamespace).Update(ctx, secret, metav1.UpdateOptions{})
	}
	if apierrors.IsAlreadyExists(err) {
		return "", fmt.Errorf("the cluster is being connected by somebody else at this moment: try again")
	}
	if err != nil {
		return "", fmt.Errorf("keep the cluster's key: %w", err)
	}
	return publicOf(text)
}

// makeNamespace makes the agent's namespace unless it is there.
func (k *kube) makeNamespace(ctx context.Context) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: agentNamespace,
		Labels: map[string]string{"app.kubernetes.io/part-of": "headwater"}}}
	if _, err := k.client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s in the cluster: %w", agentNamespace, err)
	}
	return nil
}

// publicOf gives the base64 of the public half of an RSA key in PEM.
func publicOf(text []byte) (string, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return "", errors.New("holds no private key")
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return "", errors.New("holds no private key in PKCS#1 or PKCS#8")
		}
		var ok bool
		if key, ok = parsed.(*rsa.PrivateKey); !ok {
			return "", errors.New("holds a key that is not RSA")
		}
	}
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&key.PublicKey)), nil
}

// install puts the agent into the cluster, or upgrades it.
func (k *kube) install(ctx context.Context, o connectOptions, p profile, id string) error {
	releases, err := release.NewForConfig(k.config)
	if err != nil {
		return fmt.Errorf("install the agent: %w", err)
	}
	files, err := deploy.Chart(deploy.ChartAgent)
	if err != nil {
		return fmt.Errorf("install the agent: %w", err)
	}
	chart, err := release.LoadFS(files, ".")
	if err != nil {
		return fmt.Errorf("install the agent: %w", err)
	}
	chart.Metadata.Version, chart.Metadata.AppVersion = process.Version(), process.Version()
	_, err = releases.Apply(ctx, release.Request{Name: agentRelease, Namespace: agentNamespace, Chart: chart,
		Values: agentValues(o, p, id), Options: release.Options{MaxHistory: 3}}, pendingFor)
	if err != nil {
		return fmt.Errorf("install the agent: %w", err)
	}
	return nil
}

// agentValues are the values of the agent's chart.
func agentValues(o connectOptions, p profile, id string) map[string]any {
	values := map[string]any{
		"hub":     map[string]any{"url": strings.TrimSuffix(either(o.agentHub, p.Hub), "/"), "ca": p.CA},
		"cluster": map[string]any{"id": id, "tenantId": p.TenantID},
	}
	if o.enrolmentToken != "" {
		values["enrolment"] = map[string]any{"token": o.enrolmentToken}
	}
	if o.proxyHTTPS != "" {
		values["proxy"] = map[string]any{"httpsProxy": o.proxyHTTPS, "noProxy": o.proxySkip}
	}
	if o.image != "" {
		image := map[string]any{"repository": o.image}
		if i := strings.LastIndex(o.image, ":"); i > strings.LastIndex(o.image, "/") {
			image["repository"], image["tag"] = o.image[:i], o.image[i+1:]
		}
		values["image"] = image
	}
	return values
}

// belongs is an error unless the cluster is connected as id.
func (k *kube) belongs(ctx context.Context, id string) error {
	was, _, err := k.identity(ctx)
	switch {
	case err != nil:
		return err
	case was == "":
		return fmt.Errorf("%w: there is no Secret %s/%s in %s", errNotConnected, agentNamespace, identityName, k.config.Host)
	case arm.Fold(was) != arm.Fold(id):
		return fmt.Errorf("%w: %s is connected as %s", errOtherCluster, k.config.Host, was)
	}
	return nil
}

// agentState tells how far the agent's pod is.
func (k *kube) agentState(ctx context.Context) string {
	pods, err := k.client.CoreV1().Pods(agentNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + agentRelease})
	if err != nil {
		return err.Error()
	}
	if len(pods.Items) == 0 {
		return "the cluster has made no pod for it yet"
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	pod := pods.Items[0]
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return fmt.Sprintf("pod %s cannot be scheduled: %s", pod.Name, c.Message)
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Waiting != nil && c.State.Waiting.Reason != "" {
			return fmt.Sprintf("pod %s waits: %s %s", pod.Name, c.State.Waiting.Reason, c.State.Waiting.Message)
		}
	}
	return fmt.Sprintf("pod %s is %s", pod.Name, pod.Status.Phase)
}

// uninstall removes the agent and the cluster's identity. What the
// configurations brought stays.
func (k *kube) uninstall(ctx context.Context) error {
	releases, err := release.NewForConfig(k.config)
	if err != nil {
		return fmt.Errorf("remove the agent: %w", err)
	}
	_, err = releases.Uninstall(ctx, release.Request{Name: agentRelease, Namespace: agentNamespace}, release.Removal{})
	if err != nil && !errors.Is(err, release.ErrNotFound) {
		return fmt.Errorf("remove the agent: %w", err)
	}
	err = k.client.CoreV1().Secrets(agentNamespace).Delete(ctx, identityName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the cluster's identity: %w", err)
	}
	err = k.client.CoreV1().ConfigMaps(agentNamespace).Delete(ctx, stateName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove what the agent remembers: %w", err)
	}
	return nil
}
