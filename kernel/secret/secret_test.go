package secret

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const canary = "canary-s3cret"

func of(pairs ...string) Secret {
	s := Secret{Ref: "apps/creds", Data: map[string][]byte{}}
	for i := 0; i < len(pairs); i += 2 {
		s.Data[pairs[i]] = []byte(pairs[i+1])
	}
	return s
}

func TestIncompleteSecretsNameTheKeyAndNoValue(t *testing.T) {
	for name, c := range map[string]struct {
		read func() error
		want string
	}{
		"password alone": {func() error { _, err := of("password", canary).Basic(); return err }, "username and password"},
		"username alone": {func() error { _, err := of("username", canary).Basic(); return err }, "username and password"},
		"cert alone":     {func() error { _, err := of("tls.crt", canary).TLS(); return err }, "tls.crt and tls.key"},
		"bad CA":         {func() error { _, err := of("ca.crt", canary).TLS(); return err }, "ca.crt"},
		"bad pair":       {func() error { _, err := of("certFile", canary, "keyFile", canary).TLS(); return err }, "pair"},
		"no identity":    {func() error { _, err := of("known_hosts", canary).SSH(); return err }, "identity"},
		"no known hosts": {func() error { _, err := of("identity", canary).SSH(); return err }, "known_hosts"},
		"no proxy":       {func() error { _, err := of("address", canary).Proxy(); return err }, "address"},
		"no docker":      {func() error { _, err := of().Docker(); return err }, ".dockerconfigjson"},
		"bad docker":     {func() error { _, err := of(".dockerconfigjson", canary).Docker(); return err }, ".dockerconfigjson"},
		"bad docker auth": {func() error {
			_, err := of(".dockerconfigjson", `{"auths":{"r.io":{"auth":"!!"}}}`).Docker()
			return err
		}, "r.io"},
	} {
		err := c.read()
		if !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "apps/creds") {
			t.Errorf("%s: got %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error shows the value: %v", name, err)
		}
	}
}

func TestDockerCredentialsAreForTheExactHost(t *testing.T) {
	r, err := of(".dockerconfigjson", `{"auths":{
		"https://r.io/v1/":{"auth":"dTpwOnE="},
		"r.io:5000":{"username":"v","password":"w"},
		"docker.io":{"identitytoken":"t"}}}`).Docker()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]Registry{
		"r.io": {Username: "u", Password: "p:q"}, "r.io:5000": {Username: "v", Password: "w"},
		"index.docker.io": {Token: "t"}, "evil.r.io": {}, "r.io.evil": {}, "r.io:80": {},
	} {
		got, ok := r.For(host)
		if diff := cmp.Diff(want, got); diff != "" || ok != (want != Registry{}) {
			t.Errorf("%s: %s", host, diff)
		}
	}
}

func TestProxy(t *testing.T) {
	u, err := of("address", "http://proxy:3128", "username", "u", "password", "p").Proxy()
	if err != nil || u.String() != "http://u:p@proxy:3128" {
		t.Errorf("%v, %v", u, err)
	}
}
