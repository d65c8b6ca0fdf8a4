package manifest

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"

	"headwater.dev/dev/sealed"
	"headwater.dev/kernel/decrypt"
)

// locksmith encrypts for one key of age, as sops does.
type locksmith struct {
	t    testing.TB
	key  *sealed.Key
	keys *decrypt.Keys
}

func newLocksmith(t testing.TB) *locksmith {
	t.Helper()
	key, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := decrypt.Load(decrypt.Config{Secret: map[string][]byte{"k.agekey": []byte(key.Private())}})
	if err != nil {
		t.Fatal(err)
	}
	return &locksmith{t, key, keys}
}

func (l *locksmith) encrypt(format, plain, fields string) string {
	l.t.Helper()
	out, err := l.key.Encrypt(format, plain, fields)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// encryptedArtifact has a secret in every place where one can be.
func encryptedArtifact(l *locksmith) map[string]string {
	secret := "apiVersion: v1\nkind: Secret\nmetadata:\n  name: whole\nstringData:\n  token: plain-of-whole\n"
	embedded := func(format, plain string) string {
		return base64.StdEncoding.EncodeToString([]byte(l.encrypt(format, plain, "")))
	}
	return map[string]string{
		"kustomization.yaml": `resources: [whole.yaml, embedded.yaml, cm.yaml, base]
secretGenerator:
- name: files
  files: [token=token.encrypted, settings.yaml, .dockerconfigjson=docker.encrypted, app.ini, open.txt]
- {name: envs, envs: [values.env, more.properties]}
patches: [{path: patch.yaml}]
generatorOptions: {disableNameSuffixHash: true}
`,
		"whole.yaml": l.encrypt("yaml", secret, "^(data|stringData)$"),
		"embedded.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: embedded}\ndata:\n  a.yaml: " + embedded("yaml", "a: plain-of-yaml\n") +
			"\n  b.json: " + embedded("json", `{"b": "plain-of-json"}`) + "\n  c.env: " + embedded("dotenv", "C=plain-of-dotenv\n") +
			"\n  d.ini: " + embedded("ini", "[s]\nd = plain-of-ini\n") + "\n  e: " + embedded("binary", "plain-of-binary") + "\n  f: b3Blbg==\n",
		"cm.yaml":         "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {a: b}\n",
		"token.encrypted": l.encrypt("binary", "plain-of-token", ""),
		"settings.yaml":   l.encrypt("yaml", "key: plain-of-settings\n", ""), "docker.encrypted": l.encrypt("json", `{"auths": "plain-of-docker"}`, ""),
		"app.ini": l.encrypt("ini", "[s]\nk = plain-of-app\n", ""), "open.txt": "open",
		"values.env": l.encrypt("dotenv", "A=plain-of-env\n", ""), "more.properties": l.encrypt("dotenv", "B=plain-of-properties\n", ""),
		"patch.yaml":              l.encrypt("yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cm\ndata:\n  p: plain-of-patch\n", "^data$"),
		"base/kustomization.yaml": "components: [../component]\n",
		"component/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nsecretGenerator: [{name: inner, files: [i=inner.enc]}]\n" +
			"generatorOptions: {disableNameSuffixHash: true}\n",
		"component/inner.enc": l.encrypt("binary", "plain-of-inner", ""),
	}
}

// TestDecryption opens every place that Flux opens, and writes nothing.
func TestDecryption(t *testing.T) {
	l := newLocksmith(t)
	content := encryptedArtifact(l)
	for name, body := range content {
		if strings.Contains(body, "plain-of") {
			t.Fatalf("the test leaves %s open", name)
		}
	}
	root := files(t, content)
	t.Setenv("TMPDIR", t.TempDir())
	r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{TargetNamespace: "team"}, Decrypt: l.keys})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, u := range r.Objects {
		if _, sealed := u.Object["sops"]; sealed || u.GetNamespace() != "team" {
			t.Errorf("%s: %v", Name(u), u.Object)
		}
		for _, field := range []string{"data", "stringData"} {
			entries, _ := u.Object[field].(map[string]any)
			for key, value := range entries {
				text := value.(string)
				if u.GetKind() == "Secret" && field == "data" {
					raw, err := base64.StdEncoding.DecodeString(text)
					if err != nil {
						t.Fatal(err)
					}
					text = string(raw)
				}
				got[u.GetName()+"/"+key] = strings.TrimSpace(text)
			}
		}
	}
	want := map[string]string{
		"whole/token": "plain-of-whole", "cm/a": "b", "cm/p": "plain-of-patch", "inner/i": "plain-of-inner",
		"embedded/a.yaml": "a: plain-of-yaml", "embedded/b.json": "{\n\t\"b\": \"plain-of-json\"\n}", "embedded/c.env": "C=plain-of-dotenv",
		"embedded/d.ini": "[s]\nd = plain-of-ini", "embedded/e": "plain-of-binary", "embedded/f": "open",
		"files/token": "plain-of-token", "files/settings.yaml": "key: plain-of-settings", "files/.dockerconfigjson": "{\n\t\"auths\": \"plain-of-docker\"\n}",
		"files/app.ini": "[s]\nk = plain-of-app", "files/open.txt": "open", "envs/A": "plain-of-env", "envs/B": "plain-of-properties",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, dir := range []string{root, os.Getenv("TMPDIR")} {
		err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(p)
			if strings.Contains(string(data), "plain-of") {
				t.Errorf("%s holds plain text", p)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestA34KeysOfTwoTenants(t *testing.T) {
	a, b := newLocksmith(t), newLocksmith(t)
	content := encryptedArtifact(a)
	root := files(t, content)
	build := func(l *locksmith) error {
		_, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}, Decrypt: l.keys})
		return err
	}
	results := make(chan error, 16)
	for i := range cap(results) {
		go func() {
			if i%2 == 0 {
				results <- build(a)
				return
			}
			err := build(b)
			switch {
			case err == nil:
				t.Error("the key of one tenant opened what is another's")
			case !strings.Contains(err.Error(), "no *.agekey of the decryption Secret belongs to it"), strings.Contains(err.Error(), "plain-of"):
				t.Errorf("error = %v", err)
			}
			results <- nil
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestDecryptionRefuses(t *testing.T) {
	l := newLocksmith(t)
	secret := l.encrypt("yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  token: hunter22\n", "^stringData$")
	file := l.encrypt("yaml", "key: hunter22\nother: x\n", "")
	with := func(body string) map[string]string {
		return map[string]string{"kustomization.yaml": "secretGenerator: [{name: s, files: [f.yaml]}]\n", "f.yaml": body}
	}
	cases := map[string]struct {
		why   string
		files map[string]string
		keys  Decrypter
		want  string
	}{
		"no keys":          {"an encrypted Secret is not for the cluster", map[string]string{"s.yaml": secret}, nil, "Secret/s is SOPS encrypted, configuring decryption is required"},
		"value elsewhere":  {"values are bound to their place", map[string]string{"s.yaml": strings.Replace(secret, "token:", "other:", 1)}, l.keys, "Secret/s: decryption failed: a value is not what was encrypted"},
		"tampered file":    {"files are authenticated as a whole", with("added_unencrypted: x\n" + file), l.keys, "f.yaml: decryption failed"},
		"plain in between": {"", with(strings.Replace(file, "other: ENC", "other: hunter22", 1)), l.keys, "f.yaml: decryption failed: a value is not what was encrypted"},
		"aliases inside":   {"what was encrypted is held to the same rules", map[string]string{"kustomization.yaml": "resources: [c.yaml]\npatches: [{path: p.yaml}]\n", "c.yaml": configMap("c"), "p.yaml": l.encrypt("yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n    name: c\ndata:\n    a: 'x'\n", "^data$") + "z: &z [*z]\n"}, l.keys, "p.yaml: its YAML aliases expand"},
		"environment":      {"nor may it name the environment", map[string]string{"kustomization.yaml": "secretGenerator: [{name: s, envs: [e.properties]}]\n", "e.properties": "HOME\n"}, l.keys, "a variable without a value"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Build(context.Background(), Request{Root: files(t, c.files), Spec: &kustomizev1.KustomizationSpec{}, Decrypt: c.keys})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%s: error = %v, want %q", c.why, err, c.want)
			}
			if strings.Contains(err.Error(), "hunter22") {
				t.Errorf("error tells the secret: %v", err)
			}
		})
	}
}

// TestOpenedObjects are named, so that nobody quotes what they hold.
func TestOpenedObjects(t *testing.T) {
	l := newLocksmith(t)
	sealed := l.encrypt("yaml", configMap("sealed"), "^data$")
	patch := l.encrypt("yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: open\ndata:\n  p: x\n", "^data$")
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"none":   {map[string]string{"open.yaml": configMap("open")}, ""},
		"one":    {map[string]string{"open.yaml": configMap("open"), "sealed.yaml": sealed}, "sealed"},
		"patch":  {map[string]string{"kustomization.yaml": "resources: [open.yaml, other.yaml]\npatches: [{path: p.yaml}]\n", "open.yaml": configMap("open"), "other.yaml": configMap("other"), "p.yaml": patch}, "open other"},
		"values": {map[string]string{"s.yaml": l.encrypt("yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  token: x\n", "^stringData$")}, "s"},
	} {
		r, err := Build(context.Background(), Request{Root: files(t, c.files), Spec: &kustomizev1.KustomizationSpec{}, Decrypt: l.keys})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, u := range r.Opened {
			got = append(got, u.GetName())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: opened %q, want %q", name, got, c.want)
		}
	}
}

// TestDecryptionOptOut: an object may ask to stay encrypted, with keys and
// without.
func TestDecryptionOptOut(t *testing.T) {
	l := newLocksmith(t)
	body := l.encrypt("yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  annotations:\n    kustomize.toolkit.fluxcd.io/decrypt: Disabled\nstringData:\n  token: hunter22\n", "^stringData$")
	for name, keys := range map[string]Decrypter{"with keys": l.keys, "without": nil} {
		r, err := Build(context.Background(), Request{Root: files(t, map[string]string{"s.yaml": body}), Spec: &kustomizev1.KustomizationSpec{}, Decrypt: keys})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, sealed := r.Objects[0].Object["sops"]; !sealed {
			t.Errorf("%s: it was opened: %v", name, r.Objects[0].Object)
		}
	}
}

func FuzzEncryptedObject(f *testing.F) {
	l := newLocksmith(f)
	f.Add(l.encrypt("yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  token: x\n", "^stringData$"))
	f.Add("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nsops: {mac: 'ENC['}\n")
	f.Add("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a.yaml: bWFjOiBFTkNb}\nsops: []\n")
	f.Fuzz(func(t *testing.T, body string) {
		root := files(t, map[string]string{"s.yaml": body})
		if r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}, Decrypt: l.keys}); err == nil && r == nil {
			t.Error("neither a result nor an error")
		}
	})
}
