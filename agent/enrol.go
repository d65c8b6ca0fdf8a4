package agent

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/agent/uplink"
)

const (
	// enrolmentSecret holds the token that the cluster's owner was given.
	enrolmentSecret, enrolmentToken = "headwater-agent-enrolment", "enrolment-token"
	// enrolmentMark is in the identity Secret until the hub knows its key.
	enrolmentMark = "enrolment"
	// keyBits is the size of keys that the agent makes.
	keyBits = 3072
)

// errNoToken says that the cluster is neither connected nor has a token.
var errNoToken = errors.New("there is neither an identity nor an enrolment token (Secret " + enrolmentSecret + ", key " + enrolmentToken + ")")

func readToken(ctx context.Context, kube kubernetes.Interface, namespace string) (string, error) {
	secret, err := kube.CoreV1().Secrets(namespace).Get(ctx, enrolmentSecret, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read the enrolment token: %w", err)
	}
	token := strings.TrimSpace(string(secret.Data[enrolmentToken]))
	if token == "" {
		return "", fmt.Errorf("Secret %s/%s has no %s", namespace, enrolmentSecret, enrolmentToken)
	}
	return token, nil
}

// makeIdentity makes the cluster's key when there is a token to enrol it with.
// The private half never leaves the Secret.
func makeIdentity(ctx context.Context, kube kubernetes.Interface, namespace, cluster string) (*corev1.Secret, error) {
	if _, err := readToken(ctx, kube, namespace); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoToken, err)
	}
	text, err := newKey()
	if err != nil {
		return nil, err
	}
	return kube.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: identitySecret, Namespace: namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "headwater"}},
		Data:       map[string][]byte{"tls.key": text, "cluster-id": []byte(cluster), enrolmentMark: []byte("pending")},
	}, metav1.CreateOptions{})
}

// newKey makes a private key in PEM of PKCS#8.
func newKey() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// enrol asks the hub to let the cluster in, until it has, and says meanwhile in
// the log and in the agent's ConfigMap what it waits for.
func enrol(ctx context.Context, kube kubernetes.Interface, c Config) error {
	status := newState(kube, c.Namespace, identityOf(c.Hub, c.Cluster))
	say := func(ctx context.Context, what string) {
		if err := status.write(ctx, map[string]string{stateEnrolment: what}); err != nil {
			c.Log.Info("what the enrolment waits for is not written", "error", err.Error())
		}
	}
	err := uplink.Enrol(ctx, uplink.Enrolling{Hub: c.Hub, CA: c.CA, Cluster: c.Cluster, Key: c.Key, Waiting: say, Log: c.Log.WithName("enrolment"),
		Token: func(ctx context.Context) (string, error) { return readToken(ctx, kube, c.Namespace) }})
	if err != nil {
		return err
	}
	say(ctx, "Approved")
	return wait.PollUntilContextCancel(ctx, 2*time.Second, true, func(ctx context.Context) (bool, error) {
		err := settle(ctx, kube, c)
		if err != nil {
			c.Log.Info("the enrolled identity is not kept yet, will retry", "error", err.Error())
		}
		return err == nil, nil
	})
}

// settle notes that the hub knows the key.
func settle(ctx context.Context, kube kubernetes.Interface, c Config) error {
	secret, err := kube.CoreV1().Secrets(c.Namespace).Get(ctx, identitySecret, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read Secret %s/%s: %w", c.Namespace, identitySecret, err)
	}
	delete(secret.Data, enrolmentMark)
	secret.Data["cluster-id"] = []byte(c.Cluster)
	if _, err := kube.CoreV1().Secrets(c.Namespace).Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write Secret %s/%s: %w", c.Namespace, identitySecret, err)
	}
	return nil
}
