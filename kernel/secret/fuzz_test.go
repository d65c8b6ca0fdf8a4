package secret

import (
	"errors"
	"strings"
	"testing"
)

// FuzzDocker reads any Docker configuration: errors are ours and quote nothing.
func FuzzDocker(f *testing.F) {
	for _, s := range []string{`{"auths":{"r.io":{"auth":"dTpw"}}}`, `{"auths":{"r.io":{"auth":"!!"}}}`, `{"auths":null}`, `[]`, "\xff", `{"auths":{"https://r.io/v1/":{"username":"u"}}}`} {
		f.Add(s, "r.io")
	}
	f.Fuzz(func(t *testing.T, config, host string) {
		r, err := of(".dockerconfigjson", config, "x", canary).Docker()
		if err != nil {
			if !errors.Is(err, ErrIncomplete) || strings.Contains(err.Error(), canary) {
				t.Errorf("got %v", err)
			}
			return
		}
		first, ok := r.For(host)
		again, okAgain := r.For(host)
		if first != again || ok != okAgain {
			t.Error("the answer is not stable")
		}
	})
}

// FuzzTLS reads any certificates: what is accepted makes a configuration that
// verifies the server.
func FuzzTLS(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "", "")
	f.Add("", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")
	f.Add("x", "y", "z")
	f.Fuzz(func(t *testing.T, ca, cert, key string) {
		got, err := of("ca.crt", ca, "tls.crt", cert, "tls.key", key).TLS()
		if err != nil {
			if !errors.Is(err, ErrIncomplete) {
				t.Errorf("got %v", err)
			}
			return
		}
		if c := got.Config(); c != nil && (c.InsecureSkipVerify || (ca != "" && c.RootCAs == nil)) {
			t.Errorf("configuration %+v", c)
		}
	})
}

// FuzzProxy reads any address: what is accepted has a scheme that is known and
// a host.
func FuzzProxy(f *testing.F) {
	for _, s := range []string{"http://proxy:3128", "socks5://p", "file:///etc", "//x", "http://", "http://a b", "javascript:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		u, err := of("address", address).Proxy()
		if err == nil && (u.Host == "" || (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5")) {
			t.Errorf("%q became %v", address, u)
		}
	})
}
