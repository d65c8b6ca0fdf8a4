package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"headwater.dev/kernel/secret"
)

const canary = "canary-7f3a-Passw0rd"

func TestOpenRefusesURLs(t *testing.T) {
	for _, raw := range []string{
		"", "https://r.example/a", "oci://", "oci://r.example/a:tag", "oci://r.example/a@sha256:00", "oci://u:p@r.example/a", "oci://r.example/A B",
	} {
		if _, err := Open(raw, Options{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v", raw, err)
		}
	}
	r, err := Open("oci://r.example:5000/team/app/", Options{})
	if err != nil || r.Host() != "r.example:5000" || r.String() != "oci://r.example:5000/team/app" {
		t.Errorf("%v, %v", r, err)
	}
}

func TestCredentialsStayAtTheRegistry(t *testing.T) {
	leaked := ""
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked = r.Header.Get("Authorization")
		http.NotFound(w, r)
	}))
	defer other.Close()
	sent := ""
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get("Authorization")
		switch {
		case sent == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/manifests/"):
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		case strings.HasSuffix(r.URL.Path, "/tags/list"):
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"errors":[{"code":"DENIED","message":"`+canary+`"}]}`)
		}
	}))
	defer home.Close()
	host := strings.TrimPrefix(home.URL, "http://")
	r, err := Open("oci://"+host+"/app", Options{Insecure: true, Registries: []secret.Registries{secret.ForHost(host, secret.Basic{Username: "u", Password: canary})}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Resolve(t.Context(), "v1"); !errors.Is(err, ErrNotFound) || sent == "" || leaked != "" {
		t.Errorf("redirect: %v, sent %v, leaked %q", err, sent != "", leaked)
	}
	if _, err := r.Tags(t.Context()); !errors.Is(err, ErrAuth) || strings.Contains(err.Error(), canary) {
		t.Errorf("refusal: %v", err)
	}
	if _, err := r.Resolve(t.Context(), "no tag/../x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("bad tag: %v", err)
	}
	if _, err := r.Image(t.Context(), "sha256:short"); !errors.Is(err, ErrInvalid) {
		t.Errorf("bad digest: %v", err)
	}
}

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
