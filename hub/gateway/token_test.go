package gateway_test

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
)

func TestTokenRequests(t *testing.T) {
	h := newHub(t, nil)
	keys := clusterKeys()
	a := &agent{hub: h, id: edgeID, key: keys[0]}
	thief := &agent{hub: h, id: edgeID, key: keys[1]}
	claims := func(name string, value any) func(jwt.MapClaims) {
		return func(c jwt.MapClaims) {
			c[name] = value
			if value == nil {
				delete(c, name)
			}
		}
	}
	edit := func(form url.Values, name, value string) url.Values { form.Set(name, value); return form }
	public := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&keys[0].PublicKey)})
	base := jwt.MapClaims{"iss": edgeID, "sub": edgeID, "aud": h.server.URL + link.PathToken, "jti": "x", "exp": time.Now().Add(time.Minute).Unix()}
	put(h, resource.Desired[resource.ClusterProperties]{ID: group + "keyless"})
	put(h, resource.Desired[resource.ClusterProperties]{
		ID: configID(otherID, "trojan"), Properties: resource.ClusterProperties{AgentPublicKeyCertificate: certificate(&keys[0].PublicKey)},
	})
	as := func(id string) url.Values {
		return a.form(func(c jwt.MapClaims) { c["iss"], c["sub"] = id, id })
	}
	cases := map[string]struct {
		form url.Values
		want int
	}{
		"good":                       {a.form(nil), 200},
		"upper case":                 {as(strings.ToUpper(edgeID)), 200},
		"lower case":                 {as(strings.ToLower(edgeID)), 200},
		"another cluster's key":      {thief.form(nil), 401},
		"HS256 of the public key":    {a.signed(jwt.SigningMethodHS256, public, base), 401},
		"RS512":                      {a.signed(jwt.SigningMethodRS512, keys[0], base), 401},
		"alg none":                   {a.signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, base), 401},
		"no assertion":               {edit(a.form(nil), "client_assertion", ""), 401},
		"nonsense":                   {edit(a.form(nil), "client_assertion", "a.b.c"), 401},
		"no such cluster":            {as(group + "nobody"), 401},
		"cluster without a key":      {as(group + "keyless"), 401},
		"a configuration with a key": {as(configID(otherID, "trojan")), 401},
		"not an id":                  {as("edge"), 401},
		"another subject":            {a.form(claims("sub", otherID)), 401},
		"no subject":                 {a.form(claims("sub", nil)), 401},
		"another audience":           {a.form(claims("aud", "https://other.example"+link.PathToken)), 401},
		"the hub as audience":        {a.form(claims("aud", h.server.URL)), 401},
		"two audiences":              {a.form(claims("aud", []string{h.server.URL + link.PathToken, "https://other"})), 401},
		"expired":                    {a.form(claims("exp", time.Now().Add(-2*time.Minute).Unix())), 401},
		"no expiry":                  {a.form(claims("exp", nil)), 401},
		"good for too long":          {a.form(claims("exp", time.Now().Add(10*time.Minute).Unix())), 401},
		"not yet valid":              {a.form(claims("nbf", time.Now().Add(10*time.Minute).Unix())), 401},
		"no jti":                     {a.form(claims("jti", nil)), 401},
		"long jti":                   {a.form(claims("jti", strings.Repeat("x", 200))), 401},
		"password grant":             {edit(a.form(nil), "grant_type", "password"), 400},
		"other assertion type":       {edit(a.form(nil), "client_assertion_type", "x"), 400},
		"too large":                  {edit(a.form(nil), "x", strings.Repeat("x", 20<<10)), 400},
	}
	for name, c := range cases {
		status, body := a.request(c.form)
		if status != c.want {
			t.Errorf("%s: got %d %s, want %d", name, status, body, c.want)
		}
		if status != http.StatusOK && !strings.Contains(string(body), `"error_description"`) {
			t.Errorf("%s: the answer says nothing: %s", name, body)
		}
	}
}

func TestAnAssertionIsGoodOnce(t *testing.T) {
	h := newHub(t, nil)
	a := &agent{hub: h, id: edgeID, key: clusterKeys()[0]}
	form := a.form(nil)
	if status, body := a.request(form); status != http.StatusOK {
		t.Fatalf("the first time: %d %s", status, body)
	}
	if status, body := a.request(form); status != http.StatusUnauthorized || !strings.Contains(string(body), "used before") {
		t.Errorf("the second time: %d %s", status, body)
	}
}

func TestStrangersLearnNothing(t *testing.T) {
	h := newHub(t, nil)
	there := &agent{hub: h, id: edgeID, key: clusterKeys()[1]}
	nowhere := &agent{hub: h, id: group + "nobody", key: clusterKeys()[1]}
	status, a := there.request(there.form(nil))
	status2, b := nowhere.request(nowhere.form(nil))
	if status != status2 || string(a) != string(b) {
		t.Errorf("a stranger can tell a cluster that is there from one that is not:\n%d %s\n%d %s", status, a, status2, b)
	}
}

func TestWithoutATokenNothingWorks(t *testing.T) {
	h := newHub(t, nil)
	admin := readAdminToken(t, h)
	expired := h.edge().token
	gone := h.agent(otherID, clusterKeys()[1]).token
	if err := h.store.Delete(t.Context(), key(otherID), -1); err != nil {
		t.Fatal(err)
	}
	h.advance(20 * time.Minute)
	rotated := h.edge().token
	h.putCluster(edgeID, &clusterKeys()[1].PublicKey)
	for why, token := range map[string]string{
		"no token": "", "a user's token": admin, "nonsense": "x", "an expired token": expired,
		"a cluster that is gone": gone, "a cluster that has another key": rotated,
	} {
		a := &agent{hub: h, token: token}
		for _, path := range []string{link.PathDesired, link.PathObserved} {
			method, body := http.MethodGet, ""
			if path == link.PathObserved {
				method, body = http.MethodPost, `{"session":"s","sequence":1}`
			}
			resp := a.do(t.Context(), method, path, strings.NewReader(body))
			if status, answer := read(t, resp); status != http.StatusUnauthorized || !strings.Contains(string(answer), `"code"`) {
				t.Errorf("%s at %s: %d %s", why, path, status, answer)
			}
		}
	}
	a := h.agent(edgeID, clusterKeys()[1])
	for path, want := range map[string]int{"/agents/v1/other": 404, "/": 404, link.PathObserved: 404} {
		if status, _ := read(t, a.do(t.Context(), http.MethodGet, path, nil)); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
}
