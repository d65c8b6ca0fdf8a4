package source

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"

	"headwater.dev/dev/gitserver"
)

// clone is a work tree that may push to a repository of the world.
type clone struct {
	w        *world
	dir, key string
}

func (w *world) clone(repo string) *clone {
	w.t.Helper()
	c := &clone{w: w, dir: filepath.Join(w.t.TempDir(), "work"), key: filepath.Join(w.t.TempDir(), "key")}
	c.run("", "git", "clone", "-q", strings.Replace(w.git.URL(repo), "://", "://dev:"+canary+"@", 1), c.dir)
	return c
}

func (c *clone) run(dir, name string, args ...string) string {
	c.w.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com")
	out, err := cmd.Output()
	if err != nil {
		c.w.t.Fatalf("%s %v: %v", name, args, err)
	}
	return strings.TrimSpace(string(out))
}

func (c *clone) git(args ...string) string { return c.run(c.dir, "git", args...) }

// sign makes a key for signatures and gives its public part.
func (c *clone) sign() string {
	c.w.t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		c.w.t.Skip("ssh-keygen is not installed (Debian package openssh-client)")
	}
	c.run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", c.key)
	c.git("config", "gpg.format", "ssh")
	c.git("config", "user.signingkey", c.key)
	pub, err := os.ReadFile(c.key + ".pub")
	if err != nil {
		c.w.t.Fatal(err)
	}
	return string(pub)
}

// change commits a file, with further options, and pushes.
func (c *clone) change(content string, options ...string) string {
	c.w.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, "a.yaml"), []byte(content), 0o600); err != nil {
		c.w.t.Fatal(err)
	}
	c.git("add", "a.yaml")
	c.git(append([]string{"commit", "-q", "-m", "m"}, options...)...)
	c.git("push", "-q", "--follow-tags", "origin", "HEAD:main")
	return c.git("rev-parse", "HEAD")
}

func verifying(mode sourcev1.GitVerificationMode) func(*sourcev1.GitRepository) {
	return func(o *sourcev1.GitRepository) {
		o.Spec.Verification = &sourcev1.GitRepositoryVerification{Mode: mode, SecretRef: meta.LocalObjectReference{Name: "keys"}}
	}
}

// verified waits for the condition SourceVerified.
func (w *world) verified(o *sourcev1.GitRepository, reason, message string) {
	w.t.Helper()
	w.wait(o, func() error {
		c := conditions.Get(o, sourcev1.SourceVerifiedCondition)
		if c == nil || c.Reason != reason || !strings.Contains(c.Message, message) || c.ObservedGeneration != o.Generation {
			return fmt.Errorf("SourceVerified: %+v", c)
		}
		return nil
	})
}

func testGitVerify(t *testing.T, w *world) {
	w.newRepository("app", false)
	c := w.clone("app")
	key := c.sign()
	one := c.change("a: 1\n", "-S")
	c.git("tag", "-s", "-m", "x", "v1.0.0")
	c.git("tag", "-a", "-m", "x", "v1.1.0")
	c.git("tag", "v1.2.0")
	c.git("push", "-q", "origin", "--tags", "v1.0.0:refs/tags/v9.0.0")
	o := w.repository("app", w.git.URL("app"), verifying(sourcev1.ModeGitHEAD))
	w.failing(o, verificationError, `spec.verify.secretRef: public keys secret error`)
	keys := w.secret("keys", "ann.sshpub", key)
	w.ready(o, "main@sha1:"+one)
	w.verified(o, meta.SucceededReason, "verified signature of\n\t- commit '"+one+"' with key 'SHA256:")
	if m := o.Status.SourceVerificationMode; m == nil || *m != sourcev1.ModeGitHEAD || !conditions.IsTrue(o, sourcev1.SourceVerifiedCondition) {
		t.Errorf("mode %v", m)
	}

	w.update(o, func() { o.Spec.Interval.Duration *= 2 })
	w.verified(o, meta.SucceededReason, one)

	// What is not signed is not published; what was stays.
	two := c.change("a: 2\n")
	w.request(o)
	w.failing(o, invalidCommitSignature, "signature verification of commit '"+two+"' failed: it is not signed")
	if !o.Status.Artifact.HasRevision("main@sha1:"+one) || !conditions.IsFalse(o, sourcev1.SourceVerifiedCondition) || conditions.Has(o, sourcev1.FetchFailedCondition) {
		t.Errorf("status %+v", o.Status)
	}
	three := c.change("a: 3\n", "-S")
	w.request(o)
	w.ready(o, "main@sha1:"+three)

	for name, want := range map[string]struct {
		mode            sourcev1.GitVerificationMode
		ref             sourcev1.GitRepositoryRef
		reason, message string
	}{
		"tag":         {sourcev1.ModeGitTag, sourcev1.GitRepositoryRef{Tag: "v1.0.0"}, meta.SucceededReason, "- tag 'v1.0.0@"},
		"tag-semver":  {sourcev1.ModeGitTagAndHEAD, sourcev1.GitRepositoryRef{SemVer: "1.0.x"}, meta.SucceededReason, "\n\t- commit '" + one},
		"tag-name":    {sourcev1.ModeGitTag, sourcev1.GitRepositoryRef{Name: "refs/tags/v1.0.0"}, meta.SucceededReason, "- tag 'v1.0.0@"},
		"tag-branch":  {sourcev1.ModeGitTag, sourcev1.GitRepositoryRef{Branch: "main"}, invalidVerificationMode, "a tag reference is not specified"},
		"tag-plain":   {sourcev1.ModeGitTag, sourcev1.GitRepositoryRef{Tag: "v1.1.0"}, invalidGitObject, "since it is not signed"},
		"tag-light":   {sourcev1.ModeGitTagAndHEAD, sourcev1.GitRepositoryRef{Tag: "v1.2.0"}, invalidGitObject, "since it is not signed"},
		"tag-renamed": {sourcev1.ModeGitTag, sourcev1.GitRepositoryRef{Tag: "v9.0.0"}, invalidTagSignature, "is offered as 'v9.0.0'"},
	} {
		r := w.repository(name, w.git.URL("app"), verifying(want.mode), func(o *sourcev1.GitRepository) { o.Spec.Reference = &want.ref })
		w.verified(r, want.reason, want.message)
		if ok := want.reason == meta.SucceededReason; ok != conditions.IsTrue(r, sourcev1.SourceVerifiedCondition) {
			t.Errorf("%s: %+v", name, r.Status.Conditions)
		}
	}

	// A key that is no longer trusted counts at once, for what is stored too.
	other := w.clone("app").sign()
	w.update(keys, func() { keys.StringData = map[string]string{"ann.sshpub": other} })
	w.failing(o, invalidCommitSignature, "no trusted key made the signature")
	w.update(keys, func() { keys.StringData = map[string]string{"ann.sshpub": canary} })
	w.failing(o, verificationError, `"ann.sshpub" line 1 is no SSH public key`)
	w.update(o, func() { o.Spec.Verification = nil })
	w.ready(o, "main@sha1:"+three)
	if conditions.Has(o, sourcev1.SourceVerifiedCondition) || o.Status.SourceVerificationMode != nil {
		t.Errorf("what was verified remains: %+v", o.Status)
	}
}

func testGitInclude(t *testing.T, w *world) {
	for _, repo := range []string{"app", "lib"} {
		w.newRepository(repo, false)
	}
	one := w.commit("app", map[string]string{"a.yaml": "a"})
	o := w.repository("app", w.git.URL("app"), func(o *sourcev1.GitRepository) {
		o.Spec.Include = []sourcev1.GitRepositoryInclude{
			{GitRepositoryRef: meta.LocalObjectReference{Name: "lib"}, FromPath: "deploy", ToPath: "vendor/lib"},
			{GitRepositoryRef: meta.LocalObjectReference{Name: "lib"}},
		}
	})
	w.failing(o, includeNotFound, "could not get resource for include 'lib'")
	if !conditions.IsTrue(o, sourcev1.IncludeUnavailableCondition) {
		t.Errorf("conditions %+v", o.Status.Conditions)
	}
	lib := w.repository("lib", w.git.URL("lib"))
	w.failing(o, includeNoArtifact, "no artifact available for include 'lib'")
	w.commit("lib", map[string]string{"deploy/x.yaml": "x", "README.md": "r"})
	w.request(lib)
	w.ready(lib, "")
	a := w.ready(o, "main@sha1:"+one)
	if diff := cmp.Diff(map[string]string{"a.yaml": "a", "vendor/lib/x.yaml": "x", "lib/deploy/x.yaml": "x", "lib/README.md": "r"}, untar(t, w.download(a))); diff != "" {
		t.Error(diff)
	}
	if conditions.Has(o, sourcev1.IncludeUnavailableCondition) || len(o.Status.IncludedArtifacts) != 2 || !cmp.Equal(o.Status.ObservedInclude, o.Spec.Include) {
		t.Errorf("status %+v", o.Status)
	}
	// The included repository wakes the other one, whose interval is an hour.
	w.commit("lib", map[string]string{"deploy/x.yaml": "newer"})
	w.request(lib)
	w.wait(o, func() error {
		if o.Status.Artifact.Digest == a.Digest {
			return fmt.Errorf("not included yet")
		}
		return nil
	})
	if got := untar(t, w.download(o.Status.Artifact)); got["vendor/lib/x.yaml"] != "newer" {
		t.Errorf("included: %v", got)
	}
	w.update(o, func() { o.Spec.Include = o.Spec.Include[:1]; o.Spec.Include[0].FromPath = "nope" })
	w.failing(o, copyFailure, "failed to copy 'lib' include from nope to vendor/lib")
	w.update(lib, func() {
		lib.Spec.Include = []sourcev1.GitRepositoryInclude{{GitRepositoryRef: meta.LocalObjectReference{Name: "app"}}}
	})
	w.failing(lib, includeCycle, "lib -> app -> lib")
	w.update(o, func() { o.Spec.Include = nil })
	a = w.ready(o, "main@sha1:"+one)
	if diff := cmp.Diff(map[string]string{"a.yaml": "a"}, untar(t, w.download(a))); diff != "" || o.Status.IncludedArtifacts != nil {
		t.Errorf("%+v %s", o.Status, diff)
	}
}

func testGitSubmodules(t *testing.T, w *world) {
	w.newRepository("lib", true)
	w.newRepository("app", true)
	lib := w.commit("lib", map[string]string{"x.yaml": "x"})
	c := w.clone("app")
	if err := os.WriteFile(filepath.Join(c.dir, ".gitmodules"), []byte("[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib.git\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.git("add", ".gitmodules")
	c.git("update-index", "--add", "--cacheinfo", "160000,"+lib+",lib")
	one := c.change("a")
	w.secret("creds", "username", "dev", "password", canary)
	o := w.repository("app", w.git.URL("app"), func(o *sourcev1.GitRepository) {
		o.Spec.SecretRef = &meta.LocalObjectReference{Name: "creds"}
		o.Spec.RecurseSubmodules = true
	})
	want := map[string]string{"a.yaml": "a", "lib/x.yaml": "x"}
	if diff := cmp.Diff(want, untar(t, w.download(w.ready(o, "main@sha1:"+one)))); diff != "" || !o.Status.ObservedRecurseSubmodules {
		t.Error(diff)
	}
	w.update(o, func() { o.Spec.RecurseSubmodules = false })
	delete(want, "lib/x.yaml")
	if diff := cmp.Diff(want, untar(t, w.download(w.ready(o, "main@sha1:"+one)))); diff != "" || o.Status.ObservedRecurseSubmodules {
		t.Error(diff)
	}
	w.update(o, func() { o.Spec.RecurseSubmodules = true })
	if err := w.git.DeleteRepository("lib"); err != nil {
		t.Fatal(err)
	}
	c.git("update-index", "--cacheinfo", "160000,"+strings.Repeat("ab", 20)+",lib")
	c.change("b")
	w.request(o)
	w.failing(o, sourcev1.GitOperationFailedReason, `submodule "lib"`)
}

// testGitHubApp has a server give tokens to who proves to be the app, and a Git
// server that lets nobody in without such a token.
func testGitHubApp(t *testing.T, w *world) {
	const token = "ghs_" + canary
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		signed, sig, _ := cutLast(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
		raw, err := base64.RawURLEncoding.DecodeString(sig)
		sum := sha256.Sum256([]byte(signed))
		if err != nil || rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], raw) != nil || r.URL.Path != "/api/v3/app/installations/7/access_tokens" {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		rw.WriteHeader(http.StatusCreated)
		fmt.Fprintf(rw, `{"token":%q,"expires_at":%q}`, token, time.Now().Add(time.Hour).Format(time.RFC3339))
	}))
	defer api.Close()
	if err := w.git.AddAccount(gitserver.Account{Name: "x-access-token", Password: token}); err != nil {
		t.Fatal(err)
	}
	w.newRepository("app", true)
	h := w.commit("app", map[string]string{"a.yaml": "a"})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	s := w.secret("app", "githubAppID", "42", "githubAppInstallationID", "8", "githubAppPrivateKey", string(private),
		"githubAppBaseURL", api.URL+"/api/v3", "ca.crt", string(ca))
	o := w.repository("app", w.git.URL("app"), func(o *sourcev1.GitRepository) {
		o.Spec.SecretRef = &meta.LocalObjectReference{Name: "app"}
	})
	w.failing(o, sourcev1.InvalidProviderConfigurationReason, "provider is not set to github")
	w.update(o, func() { o.Spec.Provider = sourcev1.GitProviderGitHub })
	w.failing(o, sourcev1.AuthenticationFailedReason, "answered 401 Unauthorized")
	w.update(s, func() { s.StringData = map[string]string{"githubAppInstallationID": "7"} })
	w.ready(o, "main@sha1:"+h)
	w.update(o, func() { o.Spec.SecretRef = nil })
	w.failing(o, sourcev1.InvalidProviderConfigurationReason, "secretRef with github app data must be specified")
	w.update(o, func() { o.Spec.Provider = sourcev1.GitProviderAzure })
	w.failing(o, sourcev1.InvalidProviderConfigurationReason, "shown to nobody but Azure DevOps")
	w.update(o, func() { o.Spec.Provider = sourcev1.GitProviderAWS })
	w.failing(o, sourcev1.InvalidProviderConfigurationReason, `"aws" does not serve this Git repository`)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
