package agent

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/agent/mirror"
)

// Names of what `connectedk8s connect` leaves for the agent.
const (
	identitySecret = "headwater-agent-identity"
	configMap      = "headwater-agent-config"
)

// identify fills in who the cluster is and where its hub is, from the objects
// that were made when it was connected. It waits until they exist.
func identify(ctx context.Context, kube kubernetes.Interface, namespace string, c *Config) error {
	return wait.PollUntilContextCancel(ctx, 2*time.Second, true, func(ctx context.Context) (bool, error) {
		err := read(ctx, kube, namespace, c)
		if err != nil && !errors.Is(err, errIdentity) {
			c.Log.Info("not connected to a hub yet", "reason", err.Error())
			return false, nil
		}
		return err == nil, err
	})
}

// errIdentity marks objects that do not say what they should.
var errIdentity = errors.New("the cluster's identity cannot be used")

func read(ctx context.Context, kube kubernetes.Interface, namespace string, c *Config) error {
	secret, err := kube.CoreV1().Secrets(namespace).Get(ctx, identitySecret, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read Secret %s/%s: %w", namespace, identitySecret, err)
	}
	m, err := kube.CoreV1().ConfigMaps(namespace).Get(ctx, configMap, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read ConfigMap %s/%s: %w", namespace, configMap, err)
	}
	if c.Key, err = parseKey(secret.Data["tls.key"]); err != nil {
		return fmt.Errorf("%w: tls.key of Secret %s/%s: %w", errIdentity, namespace, identitySecret, err)
	}
	c.Hub = m.Data["hub"]
	c.CA = []byte(m.Data["ca.crt"])
	c.Cluster = m.Data["cluster-id"]
	if id := string(secret.Data["cluster-id"]); id != "" && !strings.EqualFold(id, c.Cluster) {
		return fmt.Errorf("%w: the key in Secret %s/%s is that of %s, but ConfigMap %s names %s: connect the cluster anew",
			errIdentity, namespace, identitySecret, id, configMap, c.Cluster)
	}
	c.Guard = mirror.Guard{Own: namespace, NamespaceScopeOnly: m.Data["namespace-scope-only"] == "true"}
	for pattern := range strings.SplitSeq(m.Data["allowed-namespaces"], ",") {
		if pattern = strings.TrimSpace(pattern); pattern != "" {
			c.Guard.Namespaces = append(c.Guard.Namespaces, pattern)
		}
	}
	return nil
}

// parseKey reads an RSA private key in PEM of PKCS#8 or PKCS#1.
func parseKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no PEM in it")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("it is neither a PKCS#8 nor a PKCS#1 private key")
	}
	key, ok := any.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("it is not an RSA key")
	}
	return key, nil
}
