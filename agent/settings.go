package agent

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"filippo.io/age"
	"filippo.io/age/agessh"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

// maxSettings bounds the protected settings of one resource: what a Secret can
// hold.
const maxSettings = 1 << 20

// settings keeps protected settings in Secrets. They arrive sealed to the
// cluster's key and are opened here and nowhere else; errors never hold them.
type settings struct {
	kube kubernetes.Interface
	// keys are those that something may be sealed to.
	keys func() []*rsa.PrivateKey
}

// Keep makes the Secret hold the version of the settings. The Secret stays as
// it is when it holds that version already; an empty version removes it. One that
// somebody else has made is left alone. An
// error of class phase.ClassStalled will not go away by itself.
func (s *settings) Keep(ctx context.Context, namespace, name, version string, sealed []byte) error {
	api := s.kube.CoreV1().Secrets(namespace)
	secret, err := api.Get(ctx, name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return fmt.Errorf("read Secret %s/%s: %w", namespace, name, err)
	}
	if version == "" {
		if missing || secret.Annotations[config.AnnotationProtectedVersion] == "" {
			return nil
		}
		return s.remove(ctx, secret)
	}
	if !missing && secret.Annotations[config.AnnotationProtectedVersion] == version {
		return nil
	}
	if !missing && secret.Annotations[config.AnnotationProtectedVersion] == "" && secret.Labels[config.LabelManaged] == "" {
		return phase.Stalled("SecretExists", fmt.Errorf("Secret %s/%s is there and was not made by the agent, so it is not replaced: "+
			"delete it, or choose another name for the configuration", namespace, name))
	}
	if len(sealed) == 0 {
		return phase.Stalled("ProtectedSettingsLost", fmt.Errorf("the cluster does not hold the protected settings in Secret %s/%s any more, "+
			"and the hub has forgotten them: apply the resource again with its protected settings", namespace, name))
	}
	values, err := s.open(sealed)
	if err != nil {
		return phase.Stalled("ProtectedSettingsUnreadable", err)
	}
	want := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name,
			Labels:      map[string]string{config.LabelManaged: "true"},
			Annotations: map[string]string{config.AnnotationProtectedVersion: version},
		},
		Data: values,
	}
	if missing {
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
	} else {
		want.ResourceVersion = secret.ResourceVersion
		_, err = api.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write Secret %s/%s: %w", namespace, name, err)
	}
	return nil
}

func (s *settings) remove(ctx context.Context, secret *corev1.Secret) error {
	only := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID}}
	err := s.kube.CoreV1().Secrets(secret.Namespace).Delete(ctx, secret.Name, only)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}

// Read returns the settings that a Secret holds; none when it does not exist.
func (s *settings) Read(ctx context.Context, namespace, name string) (map[string]string, error) {
	secret, err := s.kube.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", namespace, name, err)
	}
	values := map[string]string{}
	for key, value := range secret.Data {
		values[key] = string(value)
	}
	return values, nil
}

// open opens what was sealed to this cluster. Values stay as they were given.
func (s *settings) open(sealed []byte) (map[string][]byte, error) {
	var identities []age.Identity
	for _, key := range s.keys() {
		identity, err := agessh.NewRSAIdentity(key)
		if err != nil {
			return nil, fmt.Errorf("use the cluster's key: %w", err)
		}
		identities = append(identities, identity)
	}
	plain, err := age.Decrypt(bytes.NewReader(sealed), identities...)
	if err != nil {
		return nil, fmt.Errorf("the protected settings are not sealed to this cluster's key (was the cluster connected anew?): apply the resource again: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(plain, maxSettings+1))
	if err != nil {
		return nil, fmt.Errorf("open the protected settings: %w", err)
	}
	if len(raw) > maxSettings {
		return nil, fmt.Errorf("the protected settings are larger than %d bytes, the most that a Secret can hold", maxSettings)
	}
	var values map[string]string
	if json.Unmarshal(raw, &values) != nil {
		return nil, errors.New("the protected settings are not an object of strings")
	}
	data := map[string][]byte{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if problems := validation.IsConfigMapKey(key); len(problems) > 0 {
			return nil, fmt.Errorf("protected setting %q cannot be kept in a Secret: %s", key, problems[0])
		}
		data[key] = []byte(values[key])
	}
	return data, nil
}
