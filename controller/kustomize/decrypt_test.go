package kustomize

import (
	"net/http"
	"net/http/httptest"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/sealed"
	"headwater.dev/kernel/cloud"
	"headwater.dev/kernel/host"
)

func newKey(t *testing.T) *sealed.Key {
	t.Helper()
	key, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sealedSecret(t *testing.T, key *sealed.Key, name, value string) string {
	t.Helper()
	out, err := key.Encrypt("yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: "+name+"\nstringData:\n  token: "+value+"\n", "^(data|stringData)$")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decryptsWith(secret string) func(*kustomizev1.KustomizationSpec) {
	return func(s *kustomizev1.KustomizationSpec) {
		s.Decryption = &kustomizev1.Decryption{Provider: "sops", SecretRef: &meta.LocalObjectReference{Name: secret}}
	}
}

// TestDecryptsAsTheTenant: with the key of its Secret, read as the tenant; a
// key that comes later, or changes, wakes it.
func TestDecryptsAsTheTenant(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	key, wrong := newKey(t), newKey(t)
	revision := w.publish("repo", map[string]string{"s.yaml": sealedSecret(t, key, "opened", "hunter22")})
	w.kustomization("app", decryptsWith("keys"))
	w.failed("app", meta.ReconciliationFailedReason, `spec.decryption.secretRef: what it names does not exist: secrets "keys" not found`)

	w.secret("keys", "wrong.agekey", wrong.Private())
	w.failed("app", meta.BuildFailedReason, "no *.agekey of the decryption Secret belongs to it")

	keys := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "keys", Namespace: w.ns}}
	if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(keys), keys); err != nil {
		t.Fatal(err)
	}
	keys.Data["right.agekey"] = []byte(key.Private())
	if err := w.client.Update(w.ctx, keys); err != nil {
		t.Fatal(err)
	}
	w.ready("app", revision)
	opened := &corev1.Secret{}
	if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "opened"}, opened); err != nil || string(opened.Data["token"]) != "hunter22" {
		t.Errorf("token = %q, %v", opened.Data["token"], err)
	}
	asTenant := false
	for _, r := range w.requests() {
		if r.Verb == "get" && r.ObjectRef.Resource == "secrets" && r.ObjectRef.Name == "keys" && r.Acting != nil {
			asTenant = true
		}
	}
	if !asTenant {
		t.Error("the keys were not read as the tenant")
	}
	w.impersonated()
}

// TestA34KeysOfAnotherNamespace: a tenant cannot use keys that it may not read,
// nor does it get those of others who use the same repository.
func TestA34KeysOfAnotherNamespace(t *testing.T) {
	w := newWorld(t, "view") // may not read Secrets
	key := newKey(t)
	w.secret("keys", "a.agekey", key.Private())
	w.publish("repo", map[string]string{"s.yaml": sealedSecret(t, key, "opened", "hunter22")})
	w.kustomization("app", decryptsWith("keys"))
	w.failed("app", meta.ReconciliationFailedReason, "is forbidden")
	w.kustomization("bare", nil)
	w.failed("bare", meta.BuildFailedReason, "configuring decryption is required")

	other := newWorld(t, "admin")
	other.publish("repo", map[string]string{"s.yaml": sealedSecret(t, key, "opened", "hunter22")})
	other.secret("keys", "b.agekey", newKey(t).Private())
	other.kustomization("app", decryptsWith("keys"))
	other.failed("app", meta.BuildFailedReason, "no *.agekey of the decryption Secret belongs to it")
}

// TestA34WhoseCloudIdentity: without a name, the default service account is
// who decrypts; in lockdown never the controllers themselves, unless allowed.
func TestA34WhoseCloudIdentity(t *testing.T) {
	tests := map[string]struct {
		named   string
		options host.Options
		want    string // identity; empty for nobody
	}{
		"named":            {"mine", host.Options{NoCrossNamespaceRefs: true, DefaultDecryptionServiceAccount: "other"}, "service account tenant/mine"},
		"default":          {"", host.Options{NoCrossNamespaceRefs: true, DefaultDecryptionServiceAccount: "other"}, "service account tenant/other"},
		"default of all":   {"", host.Options{DefaultDecryptionServiceAccount: "other"}, "service account tenant/other"},
		"lockdown":         {"", host.Options{NoCrossNamespaceRefs: true}, ""},
		"lockdown, shared": {"", host.Options{NoCrossNamespaceRefs: true, SharedDecryptionIdentity: true}, "controller"},
		"no lockdown":      {"", host.Options{}, "controller"},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			l := &loop{options: c.options, clouds: &cloud.Providers{}}
			k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "tenant", Name: "app"}}
			k.Spec.Decryption = &kustomizev1.Decryption{Provider: "sops", ServiceAccountName: c.named}
			got := l.cloudsOf(k)
			if got.Identity != c.want || (got.Azure != nil) != (c.want != "") || (got.AWS != nil) != (c.want != "") || (got.GCP != nil) != (c.want != "") {
				t.Errorf("identity %q, want %q", got.Identity, c.want)
			}
		})
	}
}

// TestWhoseIdentityReachesClusters: that of the ConfigMap, else the one of
// --default-kubeconfig-service-account, and for a tenant never the controllers'.
func TestWhoseIdentityReachesClusters(t *testing.T) {
	const key = meta.KubeConfigKeyServiceAccountName
	tests := map[string]struct {
		data     map[string]string
		fallback string
		tenant   bool
		want     string
		refused  bool
	}{
		"named":              {map[string]string{key: "mine"}, "other", true, "mine", false},
		"default":            {map[string]string{"provider": "aws"}, "other", true, "other", false},
		"default, no data":   {nil, "other", true, "other", false},
		"nobody, lockdown":   {map[string]string{"provider": "aws"}, "", true, "", true},
		"nobody, no tenants": {map[string]string{"provider": "aws"}, "", false, "", false},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			cm := &corev1.ConfigMap{Data: c.data}
			err := identified(cm, c.fallback, c.tenant)
			if (err != nil) != c.refused || cm.Data[key] != c.want {
				t.Errorf("service account %q, %v; want %q, refused: %v", cm.Data[key], err, c.want, c.refused)
			}
		})
	}
}

// TestA34VaultOfTheDocument: in lockdown a document does not choose where the
// controllers send requests, nor does the token of its Secret go there.
func TestA34VaultOfTheDocument(t *testing.T) {
	asked := make(chan string, 10)
	vault := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	t.Cleanup(vault.Close)
	w := newWorld(t, "cluster-admin")
	w.secret("keys", "sops.vault-token", "hunter22-token")
	w.publish("repo", map[string]string{"s.yaml": `apiVersion: v1
kind: Secret
metadata: {name: opened}
stringData:
    token: ENC[AES256_GCM,data:Tr7o,iv:1vmb9Yl8jyzHpyPm2yZdXUNXpxPBYQ+MTPjbAGO4cQ4=,tag:k6Nsa6t3Jl0YQqfdTu3Gkg==,type:str]
sops:
    hc_vault:
        - vault_address: ` + vault.URL + `
          engine_path: transit
          key_name: mine
          created_at: "2026-01-01T00:00:00Z"
          enc: vault:v1:AAAA
    lastmodified: "2026-01-01T00:00:00Z"
    mac: ENC[AES256_GCM,data:Tr7o,iv:1vmb9Yl8jyzHpyPm2yZdXUNXpxPBYQ+MTPjbAGO4cQ4=,tag:k6Nsa6t3Jl0YQqfdTu3Gkg==,type:str]
    encrypted_regex: ^(data|stringData)$
    version: 3.9.0
`})
	w.kustomization("app", decryptsWith("keys"))
	w.failed("app", meta.BuildFailedReason, "allows it with --vault-addresses="+vault.URL)
	select {
	case path := <-asked:
		t.Errorf("the address of the document was asked for %s", path)
	default:
	}
}
