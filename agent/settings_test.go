package agent

import (
	"bytes"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/phase"
)

// TestSecretsOfOthersAreLeftAlone finds a Secret where the protected settings of a
// configuration belong, which somebody else has made.
func TestSecretsOfOthersAreLeftAlone(t *testing.T) {
	c := kubetest.Start(t)
	namespace := c.Namespace(t)
	text, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := parseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	s := &settings{kube: c.Client, keys: func() []*rsa.PrivateKey { return []*rsa.PrivateKey{key} }}
	sealed := sealTo(t, &key.PublicKey, map[string]string{"httpsKey": "new"})
	api := c.Client.CoreV1().Secrets(namespace)
	mine := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cfg-protected-parameters"}, StringData: map[string]string{"httpsKey": "theirs"}}
	if _, err := api.Create(t.Context(), mine, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	err = s.Keep(t.Context(), namespace, mine.Name, "v1", sealed)
	if e := phase.Classify(err); err == nil || e.Class != phase.ClassStalled || e.Reason != "SecretExists" || !strings.Contains(err.Error(), mine.Name) {
		t.Errorf("kept over another's: %v", err)
	}
	if err := s.Keep(t.Context(), namespace, mine.Name, "", nil); err != nil {
		t.Errorf("removed: %v", err)
	}
	if got, err := api.Get(t.Context(), mine.Name, metav1.GetOptions{}); err != nil || string(got.Data["httpsKey"]) != "theirs" {
		t.Errorf("their Secret is %v, %v", got.Data, err)
	}
	if err := api.Delete(t.Context(), mine.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"v1", "v2"} { // its own is replaced
		if err := s.Keep(t.Context(), namespace, mine.Name, version, sealed); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
	if values, err := s.Read(t.Context(), namespace, mine.Name); err != nil || values["httpsKey"] != "new" {
		t.Errorf("kept: %v", err)
	}
	if err := s.Keep(t.Context(), namespace, mine.Name, "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Get(t.Context(), mine.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("its own is still there: %v", err)
	}
}

// sealTo seals settings as the hub does.
func sealTo(t *testing.T, key *rsa.PublicKey, values map[string]string) []byte {
	t.Helper()
	public, err := ssh.NewPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := agessh.NewRSARecipient(public)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
