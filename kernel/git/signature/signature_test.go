package signature_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"headwater.dev/dev/gitserver"
	"headwater.dev/kernel/git"
	"headwater.dev/kernel/git/signature"
)

// signers is a work tree whose commits real programs sign.
type signers struct {
	t         *testing.T
	dir, home string
	server    *gitserver.Server
	mirrors   *git.Mirrors
	keys      map[string][]byte // public keys by the names of a Secret
}

func newSigners(t *testing.T) *signers {
	t.Helper()
	for _, program := range []string{"gpg", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (Debian packages gnupg and openssh-client)", program)
		}
	}
	// GnuPG's agent listens on a socket in its home, whose path must be short.
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	s := &signers{t: t, dir: t.TempDir(), home: home, keys: map[string][]byte{}}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	if s.server, err = gitserver.Start(gitserver.Config{Dir: t.TempDir(), Accounts: []gitserver.Account{{Name: "dev", Password: "pw"}}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.server.Close() })
	if err := s.server.CreateRepository("app", false); err != nil {
		t.Fatal(err)
	}
	if s.mirrors, err = git.OpenMirrors(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	s.run("git", "init", "-q", "-b", "main", s.dir)
	return s
}

func (s *signers) run(name string, args ...string) []byte {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "GNUPGHOME="+s.home, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("%s %v: %v\n%s", name, args, err, errOut.String())
	}
	return out.Bytes()
}

// pgp makes a key and gives the options that make git sign with it.
func (s *signers) pgp(name, algorithm, expires string, more ...string) []string {
	s.t.Helper()
	mail := name + "@example.com"
	s.run("gpg", append(more, "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", mail, algorithm, "sign", expires)...)
	s.keys[name+".asc"] = s.run("gpg", "--armor", "--export", mail)
	return []string{"-c", "gpg.format=openpgp", "-c", "user.signingkey=" + mail}
}

func (s *signers) ssh(name, kind string) []string {
	s.t.Helper()
	file := filepath.Join(s.home, name)
	s.run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file)
	pub, err := os.ReadFile(file + ".pub")
	if err != nil {
		s.t.Fatal(err)
	}
	s.keys[name+".sshpub"] = append([]byte("# "+name+"\n"), pub...)
	return []string{"-c", "gpg.format=ssh", "-c", "user.signingkey=" + file}
}

// publish makes a commit and a tag, signed by options when there are any, and
// gives what our client makes of them.
func (s *signers) publish(tag string, options []string) (git.Commit, git.Tag) {
	s.t.Helper()
	commit, mark := []string{"commit", "-q", "--allow-empty", "-m", tag + "\n\nbody"}, []string{"tag", "-a", "-m", "release " + tag, tag}
	if len(options) > 0 {
		commit, mark = append(commit, "-S"), append(mark, "-s")
	}
	s.run("git", append(options, commit...)...)
	s.run("git", append(options, mark...)...)
	s.run("git", "push", "-q", strings.Replace(s.server.URL("app"), "://", "://dev:pw@", 1), "main", tag)
	r, err := git.NewRemote(s.server.URL("app"), git.Credentials{})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	_, snapshot, err := s.mirrors.For(r).Update(ctx, r, git.Reference{Tag: tag}, func(git.Target) bool { return false })
	if err != nil {
		s.t.Fatal(err)
	}
	defer snapshot.Close()
	return snapshot.Commit, *snapshot.Tag
}

func only(keys map[string][]byte, names ...string) map[string][]byte {
	some := map[string][]byte{}
	for _, n := range names {
		some[n] = keys[n]
	}
	return some
}

// TestRealSignatures has git, gpg and ssh-keygen sign commits and tags.
func TestRealSignatures(t *testing.T) {
	s := newSigners(t)
	options := map[string][]string{
		"rsa.asc": s.pgp("rsa", "rsa2048", "never"), "ed25519.asc": s.pgp("ed25519", "ed25519", "never"), "p256.asc": s.pgp("p256", "nistp256", "never"),
		"ed25519.sshpub": s.ssh("ed25519", "ed25519"), "ecdsa.sshpub": s.ssh("ecdsa", "ecdsa"), "rsa.sshpub": s.ssh("rsa", "rsa"),
	}
	for name, o := range options {
		t.Run(name, func(t *testing.T) {
			commit, tag := s.publish("v-"+name, o)
			payload, sig, err := commit.Signed()
			if err != nil {
				t.Fatal(err)
			}
			tagPayload, tagSig := tag.Signed()
			for what, keys := range map[string]map[string][]byte{"this key": only(s.keys, name), "all keys": s.keys} {
				k, err := signature.ParseKeys(keys)
				if err != nil {
					t.Fatal(err)
				}
				by, err := k.Verify(payload, sig)
				if err != nil || by == "" {
					t.Errorf("commit, %s: %v", what, err)
				}
				if tagBy, err := k.Verify(tagPayload, tagSig); err != nil || tagBy != by {
					t.Errorf("tag, %s: %q instead of %q, %v", what, tagBy, by, err)
				}
			}
			others := map[string][]byte{}
			for n, key := range s.keys {
				if n != name {
					others[n] = key
				}
			}
			k, err := signature.ParseKeys(others)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.Verify(payload, sig); !errors.Is(err, signature.ErrUntrusted) {
				t.Errorf("with the keys of others: %v", err)
			}
			all, _ := signature.ParseKeys(s.keys)
			if _, err := all.Verify(append(payload, "and more"...), sig); !errors.Is(err, signature.ErrUntrusted) {
				t.Errorf("changed commit: %v", err)
			}
			if _, err := all.Verify(tagPayload, sig); !errors.Is(err, signature.ErrUntrusted) {
				t.Errorf("the commit's signature for the tag: %v", err)
			}
		})
	}
}

func TestUnsignedAndForeignSignatures(t *testing.T) {
	s := newSigners(t)
	s.ssh("mine", "ed25519")
	expired := s.pgp("expired", "ed25519", "2021-01-01", "--faked-system-time", "20200601T000000!")
	s.run("git", "config", "gpg.program", s.fakeTime())
	k, err := signature.ParseKeys(s.keys)
	if err != nil {
		t.Fatal(err)
	}
	commit, tag := s.publish("plain", nil)
	payload, sig, err := commit.Signed()
	if _, verr := k.Verify(payload, sig); err != nil || !errors.Is(verr, signature.ErrUnsigned) {
		t.Errorf("unsigned commit: %v, %v", err, verr)
	}
	if _, err := k.Verify(tag.Signed()); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("unsigned tag: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.home, "payload"), payload, 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", filepath.Join(s.home, "mine"), filepath.Join(s.home, "payload"))
	foreign, err := os.ReadFile(filepath.Join(s.home, "payload.sig"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Verify(payload, foreign); !errors.Is(err, signature.ErrUntrusted) {
		t.Errorf("a signature made for something else than Git: %v", err)
	}
	late, _ := s.publish("late", expired)
	payload, sig, _ = late.Signed()
	if _, err := k.Verify(payload, sig); !errors.Is(err, signature.ErrUntrusted) || len(sig) == 0 {
		t.Errorf("a key that has expired: %v", err)
	}
	for _, bad := range []string{"-----BEGIN SIGNED MESSAGE-----\nx", "-----BEGIN SSH SIGNATURE-----\nx", "-----BEGIN PGP SIGNATURE-----\nx", "x"} {
		if _, err := k.Verify(payload, []byte(bad)); !errors.Is(err, signature.ErrUntrusted) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// fakeTime is gpg at a time when the key was valid still.
func (s *signers) fakeTime() string {
	s.t.Helper()
	file := filepath.Join(s.home, "gpg-then")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nexec gpg --faked-system-time 20200701T000000! \"$@\"\n"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return file
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	for name, data := range map[string]map[string][]byte{
		"none":            {},
		"other names":     {"id_ed25519.pub": []byte("ssh-ed25519 AAAA")},
		"not a key ring":  {"a.asc": []byte("secret-canary")},
		"broken key ring": {"a.asc": []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nsecret-canary\n-----END PGP PUBLIC KEY BLOCK-----")},
		"not SSH keys":    {"a.sshpub": []byte("secret-canary")},
		"short RSA":       {"a.sshpub": []byte("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC8pXCJMBDrWzqYRzFb3vvvvvvvvvvv")},
	} {
		_, err := signature.ParseKeys(data)
		if !errors.Is(err, signature.ErrKeys) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (signature.Keys{}).Verify([]byte("x"), []byte("-----BEGIN PGP SIGNATURE-----")); err == nil {
		t.Error("no keys trust something")
	}
}
