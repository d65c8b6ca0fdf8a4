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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
// that were made when it was connected. It waits until they exist, and, with an
// enrolment token, until the hub has let the cluster in.
func identify(ctx context.Context, kube kubernetes.Interface, namespace string, c *Config) error {
	err := wait.PollUntilContextCancel(ctx, 2*time.Second, true, func(ctx context.Context) (bool, error) {
		err := read(ctx, kube, namespace, c)
		if err != nil && !errors.Is(err, errIdentity) {
			c.Log.Info("not connected to a hub yet", "reason", err.Error())
			return false, nil
		}
		return err == nil, err
	})
	if err != nil || !c.enrolling {
		return err
	}
	return enrol(ctx, kube, *c)
}

// errIdentity marks objects that do not say what they should.
var errIdentity = errors.New("the cluster's identity cannot be used")

func read(ctx context.Context, kube kubernetes.Interface, namespace string, c *Config) error {
	m, err := kube.CoreV1().ConfigMaps(namespace).Get(ctx, configMap, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read ConfigMap %s/%s: %w", namespace, configMap, err)
	}
	secret, err := kube.CoreV1().Secrets(namespace).Get(ctx, identitySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		secret, err = makeIdentity(ctx, kube, namespace, m.Data["cluster-id"])
	}
	if err != nil {
		return fmt.Errorf("read Secret %s/%s: %w", namespace, identitySecret, err)
	}
	if c.Key, err = parseKey(secret.Data["tls.key"]); err != nil {
		return fmt.Errorf("%w: tls.key of Secret %s/%s: %w", errIdentity, namespace, identitySecret, err)
	}
	if c.Rotation, err = readRotation(secret, c.Key); err != nil {
		return fmt.Errorf("%w: %s of Secret %s/%s: %w", errIdentity, rotationKey, namespace, identitySecret, err)
	}
	if c.RotateEvery, err = rotateEvery(m.Data["rotate-key-every"]); err != nil {
		return fmt.Errorf("%w: rotate-key-every of ConfigMap %s/%s: %w", errIdentity, namespace, configMap, err)
	}
	c.Hub = m.Data["hub"]
	c.CA = []byte(m.Data["ca.crt"])
	c.Cluster = m.Data["cluster-id"]
	c.Namespace, c.enrolling = namespace, len(secret.Data[enrolmentMark]) > 0
	if id := string(secret.Data["cluster-id"]); id != "" && !c.enrolling && !strings.EqualFold(id, c.Cluster) {
		return fmt.Errorf("%w: the key in Secret %s/%s is that of %s, but ConfigMap %s names %s: connect the cluster anew",
			errIdentity, namespace, identitySecret, id, configMap, c.Cluster)
	}
	c.Guard = mirror.Guard{Own: namespace, NamespaceScopeOnly: m.Data["namespace-scope-only"] == "true",
		Namespaces: patterns(m.Data["allowed-namespaces"]), ServiceAccounts: patterns(m.Data["allowed-service-accounts"])}
	return nil
}

// patterns are those of a list with commas.
func patterns(text string) []string {
	var all []string
	for pattern := range strings.SplitSeq(text, ",") {
		if pattern = strings.TrimSpace(pattern); pattern != "" {
			all = append(all, pattern)
		}
	}
	return all
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
