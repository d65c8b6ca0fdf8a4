package decrypt

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/keys"
	"github.com/getsops/sops/v3/pgp"
	"github.com/google/go-cmp/cmp"
)

// lock seals a data key for one master key.
type lock func(t testing.TB, dataKey []byte) keys.MasterKey

// encrypt makes what `sops encrypt` makes of a plain document.
func encrypt(t testing.TB, format, plain string, locks ...lock) []byte {
	t.Helper()
	store, err := storeOf(format)
	if err != nil {
		t.Fatal(err)
	}
	branches, err := store.LoadPlainFile([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	dataKey := make([]byte, 32)
	if _, err := rand.Read(dataKey); err != nil {
		t.Fatal(err)
	}
	var group sops.KeyGroup
	for _, l := range locks {
		group = append(group, l(t, dataKey))
	}
	tree := sops.Tree{Branches: branches, Metadata: sops.Metadata{
		KeyGroups: []sops.KeyGroup{group}, UnencryptedSuffix: "_unencrypted", Version: "3.13.3",
	}}
	if format == "yaml" && strings.Contains(plain, "kind: ") || format == "json" && strings.Contains(plain, `"kind"`) {
		tree.Metadata.UnencryptedSuffix, tree.Metadata.EncryptedRegex = "", "^(data|stringData)$"
	}
	mac, err := tree.Encrypt(dataKey, aes.NewCipher())
	if err != nil {
		t.Fatal(err)
	}
	tree.Metadata.LastModified = time.Now().UTC()
	tree.Metadata.MessageAuthenticationCode, err = aes.NewCipher().Encrypt(mac, dataKey, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil {
		t.Fatal(err)
	}
	out, err := store.EmitEncryptedFile(tree)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ageKey makes a key pair: what a Secret holds, and its lock.
func ageKey(t testing.TB) (string, lock) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id.String(), func(t testing.TB, dataKey []byte) keys.MasterKey {
		mk, err := sopsage.MasterKeyFromRecipient(id.Recipient().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := mk.Encrypt(dataKey); err != nil {
			t.Fatal(err)
		}
		return mk
	}
}

func pgpKey(t testing.TB) (string, lock) {
	t.Helper()
	e, err := openpgp.NewEntity("Team", "", "team@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var private bytes.Buffer
	w, err := armor.Encode(&private, openpgp.PrivateKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.SerializePrivate(w, nil), w.Close()); err != nil {
		t.Fatal(err)
	}
	return private.String(), func(t testing.TB, dataKey []byte) keys.MasterKey {
		var sealed bytes.Buffer
		w, err := armor.Encode(&sealed, "PGP MESSAGE", nil)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := openpgp.Encrypt(w, openpgp.EntityList{e}, nil, &openpgp.FileHints{IsBinary: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = plain.Write(dataKey)
		if err := errors.Join(err, plain.Close(), w.Close()); err != nil {
			t.Fatal(err)
		}
		mk := pgp.NewMasterKeyFromFingerprint(fmt.Sprintf("%X", e.PrimaryKey.Fingerprint))
		mk.EncryptedKey = sealed.String()
		return mk
	}
}

func load(t testing.TB, secret map[string]string) *Keys {
	t.Helper()
	data := map[string][]byte{}
	for k, v := range secret {
		data[k] = []byte(v)
	}
	k, err := Load(Config{Secret: data})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestDecryptFormats(t *testing.T) {
	private, seal := ageKey(t)
	k := load(t, map[string]string{"team.agekey": "# created today\n" + private + "\n"})
	cases := map[string]struct{ format, to, plain, want string }{
		"yaml":           {"yaml", "yaml", "user: admin\npassword: s3cret\nlist:\n    - 1\n    - true\n", ""},
		"yaml documents": {"yaml", "yaml", "a: 1\n---\nb: 2\n", ""},
		"json":           {"json", "json", "{\n\t\"a\": \"b\",\n\t\"n\": 12345678901\n}", ""},
		"dotenv":         {"dotenv", "dotenv", "A=1\nB=two words\n", ""},
		"ini":            {"ini", "ini", "[section]\nkey = value\n", ""},
		"binary":         {"binary", "binary", "\x00\x01 anything\n\xff", ""},
		"json as yaml":   {"json", "yaml", `{"a": "b"}`, "a: b\n"},
		"unencrypted":    {"yaml", "yaml", "open_unencrypted: x\nclosed: z\n", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sealed := encrypt(t, c.format, c.plain, seal)
			if bytes.Contains(sealed, []byte("s3cret")) {
				t.Fatal("the test encrypts nothing")
			}
			got, err := k.Decrypt(context.Background(), sealed, c.format, c.to)
			if err != nil {
				t.Fatal(err)
			}
			want := c.want
			if want == "" {
				want = c.plain
			}
			if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(string(got))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecryptPGP(t *testing.T) {
	one, sealOne := pgpKey(t)
	two, sealTwo := pgpKey(t)
	k := load(t, map[string]string{"both.asc": one + "\n" + two})
	for name, seal := range map[string]lock{"first": sealOne, "second": sealTwo} {
		got, err := k.Decrypt(context.Background(), encrypt(t, "yaml", "a: b\n", seal), "yaml", "yaml")
		if err != nil || string(got) != "a: b\n" {
			t.Errorf("%s key of the ring: %q, %v", name, got, err)
		}
	}
}

// TestDecryptOfGnuPG decrypts what the real gpg made, with a key of its, and no
// gpg in reach.
func TestDecryptOfGnuPG(t *testing.T) {
	gpg, err := exec.LookPath("gpg")
	if err != nil {
		t.Skip("gpg is not installed")
	}
	home := filepath.Join("/tmp", fmt.Sprintf("gnupg-%d", time.Now().UnixNano())) // sockets want short paths
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	run := func(in string, args ...string) string {
		cmd := exec.Command(gpg, append([]string{"--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", "", "--trust-model", "always"}, args...)...)
		cmd.Stdin = strings.NewReader(in)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %v: %v\n%s", args, err, errs.String())
		}
		return string(out)
	}
	for _, algorithm := range []string{"rsa3072", "future-default"} {
		t.Run(algorithm, func(t *testing.T) {
			user := algorithm + "@example.com"
			run("", "--quick-generate-key", user, algorithm, "default", "never")
			seal := func(t testing.TB, dataKey []byte) keys.MasterKey {
				mk := pgp.NewMasterKeyFromFingerprint(user)
				mk.EncryptedKey = run(string(dataKey), "--encrypt", "--armor", "--recipient", user)
				return mk
			}
			if algorithm == "rsa3072" { // a key for signing needs one for encryption
				fpr := ""
				for _, line := range strings.Split(run("", "--list-keys", "--with-colons", user), "\n") {
					if strings.HasPrefix(line, "fpr:") && fpr == "" {
						fpr = strings.Split(line, ":")[9]
					}
				}
				run("", "--quick-add-key", fpr, "rsa3072", "encr", "never")
			}
			sealed := encrypt(t, "yaml", "a: b\n", seal)
			k := load(t, map[string]string{"k.asc": run("", "--export-secret-keys", "--armor", user)})
			t.Setenv("PATH", "")
			got, err := k.Decrypt(context.Background(), sealed, "yaml", "yaml")
			if err != nil || string(got) != "a: b\n" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestDecryptObject(t *testing.T) {
	private, seal := ageKey(t)
	k := load(t, map[string]string{"a.agekey": private})
	sealed := encrypt(t, "json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"token":"hunter22"}}`, seal)
	var object map[string]any
	if err := json.Unmarshal(sealed, &object); err != nil {
		t.Fatal(err)
	}
	object["metadata"].(map[string]any)["namespace"] = "added-by-the-build"
	changed, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	got, err := k.DecryptObject(context.Background(), changed)
	if err != nil || !bytes.Contains(got, []byte("hunter22")) || bytes.Contains(got, []byte(`"sops"`)) {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := k.Decrypt(context.Background(), changed, "json", "json"); !errors.Is(err, ErrTampered) {
		t.Errorf("a document as a whole: %v, want ErrTampered", err)
	}
	object["stringData"].(map[string]any)["other"] = object["stringData"].(map[string]any)["token"]
	moved, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.DecryptObject(context.Background(), moved); err == nil {
		t.Error("a value was decrypted in another place")
	}
}

// TestA34KeysOfOneTenant: nobody's key but one's own decrypts, in parallel, with
// the keys of others in the environment, and no error tells anything.
func TestA34KeysOfOneTenant(t *testing.T) {
	mine, sealMine := ageKey(t)
	theirs, sealTheirs := ageKey(t)
	pgpMine, sealPGP := pgpKey(t)
	home := t.TempDir()
	t.Setenv("SOPS_AGE_KEY", theirs)
	t.Setenv("HOME", home)
	t.Setenv("VAULT_TOKEN", "their-token")
	if err := os.WriteFile(filepath.Join(home, ".vault-token"), []byte("their-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := load(t, map[string]string{"a.agekey": mine, "a.asc": pgpMine})
	b := load(t, map[string]string{"b.agekey": theirs})
	plain := "password: hunter22\n"
	cases := map[string]struct {
		keys *Keys
		doc  []byte
		want string
	}{
		"own age":             {a, encrypt(t, "yaml", plain, sealMine), ""},
		"own OpenPGP":         {a, encrypt(t, "yaml", plain, sealPGP), ""},
		"key of another":      {a, encrypt(t, "yaml", plain, sealTheirs), "no *.agekey of the decryption Secret belongs to it"},
		"OpenPGP of another":  {b, encrypt(t, "yaml", plain, sealPGP), "the decryption Secret has no *.asc"},
		"one of two":          {b, encrypt(t, "yaml", plain, sealPGP, sealTheirs), ""},
		"no keys at all":      {load(t, nil), encrypt(t, "yaml", plain, sealTheirs), "the decryption Secret has no *.agekey"},
		"token of the system": {a, encrypt(t, "yaml", plain, vaultLock("https://vault.example.com", "transit", "k", nil)), "the decryption Secret has no sops.vault-token"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.keys.Decrypt(context.Background(), c.doc, "yaml", "yaml")
			if c.want == "" {
				if err != nil || string(got) != plain {
					t.Fatalf("%q, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error = %v, want %q", err, c.want)
			}
			for _, secret := range []string{"hunter22", mine, theirs, "their-token"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error shows %q", secret)
				}
			}
		})
	}
	if a.Digest() == b.Digest() || a.Digest() == load(t, map[string]string{"a.agekey": mine}).Digest() {
		t.Error("digests of different keys are the same")
	}
}

func TestA34ErrorsTellNothing(t *testing.T) {
	private, seal := ageKey(t)
	k := load(t, map[string]string{"a.agekey": private})
	good := string(encrypt(t, "yaml", "password: hunter22\nother: x\n", seal))
	cases := map[string]struct{ doc, format, want string }{
		"not encrypted":   {"password: hunter22\n", "yaml", "sops metadata of the yaml document cannot be read"},
		"plain value":     {strings.Replace(good, "other: ENC[", "other: hunter22[", 1), "yaml", "a value is not what was encrypted"},
		"broken":          {"password: hunter22: x\n", "yaml", "is no YAML"},
		"broken JSON":     {`{"password": "hunter22`, "json", "is no JSON"},
		"added field":     {"injected_unencrypted: hunter22\n" + good, "yaml", ErrTampered.Error()},
		"aliases":         {"a: &a hunter22\nb: *a\n" + good, "yaml", "YAML aliases"},
		"deep JSON":       {strings.Repeat("[", 1<<20), "json", "nested too deeply"},
		"deep YAML":       {strings.Repeat("[", 1<<20), "yaml", "is no YAML"},
		"too large":       {strings.Repeat("#", MaxSize+1), "yaml", "more than the limit"},
		"unknown format":  {good, "toml", "is no format of sops"},
		"no keys":         {`{"data":"ENC[AES256_GCM,data:AA==,iv:AA==,tag:AA==,type:str]","sops":{"lastmodified":"2026-01-01T00:00:00Z","mac":"ENC[x]","version":"3.9.0"}}`, "json", ""},
		"malformed value": {strings.Replace(good, "AES256_GCM", "AES256_XYZ", 1), "yaml", "a value is not what was encrypted"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := k.Decrypt(context.Background(), []byte(c.doc), c.format, c.format)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error = %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter22") || strings.Contains(err.Error(), private) {
				t.Errorf("error tells a secret: %v", err)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	cases := map[string]struct{ name, value, want string }{
		"age":             {"a.agekey", "AGE-SECRET-KEY-1hunter22", "line 1 is no age identity"},
		"age plugin":      {"a.agekey", "\nAGE-PLUGIN-YUBIKEY-1hunter22", "line 2: identities of age plugins are not supported"},
		"OpenPGP":         {"a.asc", "hunter22", "no armored OpenPGP private key"},
		"OpenPGP public":  {"a.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nhunter22\n-----END PGP PUBLIC KEY BLOCK-----", "no armored OpenPGP private key"},
		"AWS":             {"sops.aws-kms", "aws_access_key_id: hunter22", "needs aws_access_key_id and aws_secret_access_key"},
		"Azure":           {"sops.azure-kv", "clientId: hunter22", "set spec.decryption.serviceAccountName"},
		"Azure authority": {"sops.azure-kv", "{tenantId: t, clientId: c, clientSecret: hunter22, authorityHost: 'https://evil.example.com'}", "none of Azure's clouds"},
		"Google program":  {"sops.gcp-kms", `{"type":"external_account","credential_source":{"executable":{"command":"/bin/hunter22"}}}`, `type "external_account" are not supported`},
		"Google token":    {"sops.gcp-kms", `{"type":"service_account","token_uri":"http://169.254.169.254/hunter22"}`, "token_uri is not Google's"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Load(Config{Secret: map[string][]byte{c.name: []byte(c.value)}})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.name) {
				t.Fatalf("error = %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter22") {
				t.Errorf("error shows the value: %v", err)
			}
		})
	}
	if _, err := Load(Config{Secret: map[string][]byte{"other": []byte("x")}}); err != nil {
		t.Errorf("entries with other names are left alone: %v", err)
	}
}

func FuzzDecrypt(f *testing.F) {
	private, seal := ageKey(f)
	k := load(f, map[string]string{"a.agekey": private})
	for _, format := range []string{"yaml", "json", "dotenv", "ini", "binary"} {
		plain := map[string]string{"yaml": "a: {b: [c]}\n", "json": `{"a":["b"]}`, "dotenv": "A=1\n", "ini": "[s]\nk = v\n", "binary": "x"}[format]
		f.Add(encrypt(f, format, plain, seal), format)
	}
	f.Add([]byte("sops:\n  age: [{recipient: age1x, enc: x}]\n  mac: ENC[\n"), "yaml")
	f.Add([]byte(`{"sops":{"shamir_threshold":-1,"key_groups":[{},{}]}}`), "json")
	f.Fuzz(func(t *testing.T, data []byte, format string) {
		out, err := k.Decrypt(context.Background(), data, format, format)
		if err != nil && out != nil {
			t.Errorf("output beside the error %v", err)
		}
		if err != nil && strings.Contains(err.Error(), private) {
			t.Errorf("error shows the key: %v", err)
		}
	})
}
