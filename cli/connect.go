package cli

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
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
	identityBits   = 3072
	// pendingFor is how old an interrupted installation of the agent is before
	// it is taken over.
	pendingFor = time.Minute
)

// kube is the cluster that a kubeconfig points to.
type kube struct {
	config *rest.Config
	client kubernetes.Interface
}

// open reads the kubeconfig.
func (m *member) open() (*kube, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = m.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: m.context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig (--kube-config, KUBECONFIG): %w", err)
	}
	config.UserAgent = "headwater/" + process.Version()
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return &kube{config: config, client: client}, nil
}

// identity returns the base64 of the public key that the cluster is known by.
// The private half is made when it is missing and never leaves the cluster.
func (k *kube) identity(ctx context.Context, id string) (string, error) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: agentNamespace,
		Labels: map[string]string{"app.kubernetes.io/part-of": "headwater"}}}
	if _, err := k.client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return "", fmt.Errorf("make namespace %s in the cluster: %w", agentNamespace, err)
	}
	secrets := k.client.CoreV1().Secrets(agentNamespace)
	secret, err := secrets.Get(ctx, identityName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return k.newIdentity(ctx, id)
	case err != nil:
		return "", fmt.Errorf("read the cluster's identity: %w", err)
	}
	if was := string(secret.Data["cluster-id"]); was != "" && arm.Fold(was) != arm.Fold(id) {
		return "", fmt.Errorf("this cluster is connected already, as %s: disconnect it with \"headwater connectedk8s delete\" first", was)
	}
	block, _ := pem.Decode(secret.Data["tls.key"])
	if block == nil {
		return "", fmt.Errorf("Secret %s/%s holds no private key: delete it and connect again", agentNamespace, identityName)
	}
	if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if key, ok := parsed.(*rsa.PrivateKey); ok {
			return publicOf(key), nil
		}
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("Secret %s/%s holds no RSA key: delete it and connect again", agentNamespace, identityName)
	}
	return publicOf(key), nil
}

func (k *kube) newIdentity(ctx context.Context, id string) (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, identityBits)
	if err != nil {
		return "", fmt.Errorf("make the cluster's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("make the cluster's key: %w", err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: identityName, Namespace: agentNamespace,
			Labels: map[string]string{"app.kubernetes.io/part-of": "headwater"}},
		Data: map[string][]byte{"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "cluster-id": []byte(id)},
	}
	_, err = k.client.CoreV1().Secrets(agentNamespace).Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // somebody else was quicker: theirs counts
		return k.identity(ctx, id)
	}
	if err != nil {
		return "", fmt.Errorf("keep the cluster's key: %w", err)
	}
	return publicOf(key), nil
}

func publicOf(key *rsa.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&key.PublicKey))
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
		"hub":     map[string]any{"url": strings.TrimSuffix(p.Hub, "/"), "ca": p.CA},
		"cluster": map[string]any{"id": id, "tenantId": p.TenantID},
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

// belongs is an error unless the cluster is connected as id, or not at all.
func (k *kube) belongs(ctx context.Context, id string) error {
	secret, err := k.client.CoreV1().Secrets(agentNamespace).Get(ctx, identityName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the cluster's identity: %w", err)
	}
	if was := string(secret.Data["cluster-id"]); arm.Fold(was) != arm.Fold(id) {
		return fmt.Errorf("%w: it is connected as %s", errOtherCluster, was)
	}
	return nil
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
	return nil
}
