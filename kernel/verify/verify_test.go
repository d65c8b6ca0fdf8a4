package verify

import (
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
)

func mustHex(t *testing.T, s string) []byte {
	t.Helper()
	data, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// promise signs an entry as the log does.
func promise(t *testing.T, vs *ca.VirtualSigstore, b rekorBundle) []byte {
	t.Helper()
	sig, err := vs.RekorSignPayload(tlog.RekorPayload{Body: b.Payload.Body, IntegratedTime: b.Payload.IntegratedTime, LogIndex: b.Payload.LogIndex, LogID: b.Payload.LogID})
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestCosignKeys(t *testing.T) {
	s := newShop(t)
	key, public := newKey(t)
	other, otherPublic := newKey(t)
	good, bundled := s.artifact("good", "one"), s.artifact("bundled", "two")
	moved, tampered, none := s.artifact("moved", "three"), s.artifact("tampered", "four"), s.artifact("none", "five")
	foreign, stolen := s.artifact("foreign", "six"), s.artifact("stolen", "seven")

	s.pushSimple(good, simpleLayer(simplePayload(good), signed(t, key, simplePayload(good)), nil))
	s.pushReferrer(bundled, bundleType, bundleType, keyBundle(t, key, bundled))
	// A true signature of another artifact.
	s.pushSimple(moved, simpleLayer(simplePayload(good), signed(t, key, simplePayload(good)), nil))
	s.pushSimple(tampered, simpleLayer(simplePayload(tampered), signed(t, key, simplePayload(good)), nil))
	s.pushSimple(foreign, simpleLayer(simplePayload(foreign), signed(t, other, simplePayload(foreign)), nil))
	s.pushReferrer(stolen, bundleType, bundleType, keyBundle(t, key, bundled))

	c, err := NewKeys(map[string][]byte{"a.pub": public})
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		digest string
		want   error
	}{
		"signature under a tag":           {good, nil},
		"bundle":                          {bundled, nil},
		"signature of another artifact":   {moved, ErrNoMatch},
		"payload that was not signed":     {tampered, ErrNoMatch},
		"nothing":                         {none, ErrNoSignature},
		"another key":                     {foreign, ErrNoMatch},
		"bundle of another artifact":      {stolen, ErrNoMatch},
		"an artifact that does not exist": {"sha256:" + strings.Repeat("0", 64), ErrNoSignature},
	} {
		if err := c.Verify(t.Context(), s.repo, x.digest); !errors.Is(err, x.want) || x.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", name, err, x.want)
		}
	}
	both, err := NewKeys(map[string][]byte{"a.pub": public, "b.pub": otherPublic})
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Verify(t.Context(), s.repo, foreign); err != nil {
		t.Errorf("one of two keys: %v", err)
	}
	if err := both.Verify(t.Context(), s.repo, good); err != nil {
		t.Errorf("one of two keys: %v", err)
	}
	for name, keys := range map[string]map[string][]byte{"no key": {}, "no PEM": {"x.pub": []byte("x")}} {
		if _, err := NewKeys(keys); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMovedTag shows that a tag which moves after verification does not change
// what was verified: everything goes by digest.
func TestMovedTag(t *testing.T) {
	s := newShop(t)
	key, public := newKey(t)
	good := s.artifact("latest", "good")
	s.pushSimple(good, simpleLayer(simplePayload(good), signed(t, key, simplePayload(good)), nil))
	d, err := s.repo.Resolve(t.Context(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewKeys(map[string][]byte{"a.pub": public})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(t.Context(), s.repo, d); err != nil {
		t.Fatal(err)
	}
	evil := s.artifact("latest", "evil")
	img, err := s.repo.Image(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	data, err := blob(img, 0)
	if err != nil || string(data) != "good" {
		t.Errorf("after the tag moved: %q, %v", data, err)
	}
	if err := c.Verify(t.Context(), s.repo, evil); !errors.Is(err, ErrNoSignature) {
		t.Errorf("the new artifact: %v", err)
	}
}

func TestCosignKeyless(t *testing.T) {
	vs, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	evil, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(t)
	simple, bundled, attested := s.artifact("simple", "1"), s.artifact("bundled", "2"), s.artifact("attested", "3")
	foreign, unlogged, forged := s.artifact("foreign", "4"), s.artifact("unlogged", "5"), s.artifact("forged", "6")
	key, public := newKey(t)
	keyed := s.artifact("keyed", "7")

	s.pushSimple(simple, keylessLayer(t, vs, simplePayload(simple)))
	s.pushReferrer(bundled, bundleType, bundleType, keylessBundle(t, vs, signType, bundled))
	s.pushReferrer(attested, bundleType, bundleType, keylessBundle(t, vs, "https://slsa.dev/provenance/v1", attested))
	s.pushSimple(foreign, keylessLayer(t, evil, simplePayload(foreign)))
	layer := keylessLayer(t, vs, simplePayload(unlogged))
	delete(layer.Annotations, annotationBundle)
	s.pushSimple(unlogged, layer)
	// The entry of one signature in the log does not vouch for another.
	mixed := keylessLayer(t, vs, simplePayload(forged))
	mixed.Annotations[annotationBundle] = keylessLayer(t, vs, simplePayload(simple)).Annotations[annotationBundle]
	s.pushSimple(forged, mixed)
	s.pushSimple(keyed, simpleLayer(simplePayload(keyed), signed(t, key, simplePayload(keyed)), nil))

	trusted, err := ParseTrustedRoot(rootOf(t, vs, nil))
	if err != nil {
		t.Fatal(err)
	}
	withLog, err := ParseTrustedRoot(rootOf(t, vs, vs.CTLogs()))
	if err != nil {
		t.Fatal(err)
	}
	me := []Identity{{Issuer: "^https://issuer.example.com$", Subject: "^ci@example.com$"}}
	for name, x := range map[string]struct {
		trusted    root.TrustedMaterial
		identities []Identity
		digest     string
		want       error
	}{
		"signature under a tag":          {trusted, me, simple, nil},
		"bundle":                         {trusted, me, bundled, nil},
		"second identity":                {trusted, append([]Identity{{"^x$", "^y$"}}, me...), simple, nil},
		"anybody":                        {trusted, nil, bundled, nil},
		"other subject":                  {trusted, []Identity{{"^https://issuer.example.com$", "^admin@example.com$"}}, simple, ErrNoMatch},
		"other issuer":                   {trusted, []Identity{{"^https://evil.example.com$", ".*"}}, bundled, ErrNoMatch},
		"attestation":                    {trusted, me, attested, ErrNoMatch},
		"other instance":                 {trusted, me, foreign, ErrNoMatch},
		"no entry in the log":            {trusted, me, unlogged, ErrNoMatch},
		"entry of another signature":     {trusted, me, forged, ErrNoMatch},
		"key instead of certificate":     {trusted, me, keyed, ErrNoMatch},
		"certificate that is not logged": {withLog, me, simple, ErrNoMatch},
	} {
		c, err := NewKeyless(x.trusted, x.identities)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := c.Verify(t.Context(), s.repo, x.digest); !errors.Is(err, x.want) || x.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", name, err, x.want)
		}
	}
	// A key is not satisfied by a certificate.
	c, err := NewKeys(map[string][]byte{"a.pub": public})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(t.Context(), s.repo, simple); !errors.Is(err, ErrNoMatch) {
		t.Errorf("certificate instead of key: %v", err)
	}
}

func TestKeylessSettings(t *testing.T) {
	vs, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"empty": "", "no JSON": "x", "empty root": `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`} {
		if _, err := ParseTrustedRoot([]byte(data)); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, id := range map[string]Identity{"no regexp": {"(", "x"}, "too long": {strings.Repeat("a", 2000), "x"}} {
		if _, err := NewKeyless(vs, []Identity{id}); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

const policy = `{"version":"1.0","trustPolicies":[{"name":"p","registryScopes":["*"],"signatureVerification":{"level":"LEVEL"},"trustStores":["ca:certs"],"trustedIdentities":["IDENTITY"]}]}`

func TestNotation(t *testing.T) {
	s := newShop(t)
	key, cert := notationKey(t, "ci")
	evilKey, evilCert := notationKey(t, "ci")
	good, evil, none, swapped := s.artifact("good", "1"), s.artifact("evil", "2"), s.artifact("none", "3"), s.artifact("swapped", "4")
	s.notate(good, key, cert)
	s.notate(evil, evilKey, evilCert)
	// A true signature that refers to another artifact.
	sigs, err := s.repo.Referrers(t.Context(), good, "application/vnd.cncf.notary.signature", 10)
	if err != nil || len(sigs) != 1 {
		t.Fatalf("%v, %v", sigs, err)
	}
	img, err := remote.Image(s.name.Digest(sigs[0].Digest))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := s.repo.Image(t.Context(), sigs[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	data, err := blob(ours, 0)
	if err != nil {
		t.Fatal(err)
	}
	layers, _ := img.Layers()
	mt, _ := layers[0].MediaType()
	s.pushReferrer(swapped, "application/vnd.cncf.notary.signature", string(mt), data)

	certs := map[string][]byte{"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})}
	strict := strings.NewReplacer("LEVEL", "strict", "IDENTITY", "x509.subject: CN=ci, O=Example, ST=B, C=DE")
	wrong := strings.NewReplacer("LEVEL", "strict", "IDENTITY", "x509.subject: CN=admin, O=Example, ST=B, C=DE")
	skip := strings.NewReplacer("LEVEL", "skip", "IDENTITY", "*")
	audit := strings.NewReplacer("LEVEL", "audit", "IDENTITY", "*")
	for name, x := range map[string]struct {
		policy *strings.Replacer
		digest string
		want   error
	}{
		"trusted":               {strict, good, nil},
		"other certificate":     {strict, evil, ErrNoMatch},
		"other identity":        {wrong, good, ErrNoMatch},
		"nothing":               {strict, none, ErrNoSignature},
		"of another artifact":   {strict, swapped, ErrNoMatch},
		"skipped":               {skip, none, ErrSkipped},
		"audit is no free pass": {audit, evil, ErrNoMatch},
	} {
		n, err := NewNotation([]byte(x.policy.Replace(policy)), certs)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := n.Verify(t.Context(), s.repo, x.digest); !errors.Is(err, x.want) || x.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", name, err, x.want)
		}
	}
	for name, x := range map[string]struct {
		policy string
		certs  map[string][]byte
	}{
		"no policy":      {"", certs},
		"empty policy":   {"{}", certs},
		"no certificate": {strict.Replace(policy), nil},
		"bad PEM":        {strict.Replace(policy), map[string][]byte{"x.pem": []byte("x")}},
	} {
		if _, err := NewNotation([]byte(x.policy), x.certs); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzSimple reads signatures of the older format from strangers.
func FuzzSimple(f *testing.F) {
	f.Add([]byte(`{"critical":{}}`), "YQ==", "", `{"SignedEntryTimestamp":"YQ==","Payload":{"body":"e30=","integratedTime":1,"logIndex":1,"logID":"00"}}`, "")
	f.Add(simplePayload("sha256:00"), "YQ==", "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n", "", `{"SignedRFC3161Timestamp":"YQ=="}`)
	f.Add([]byte{}, "!", "x", "{", "{")
	_, public := newKey(f)
	c, err := NewKeys(map[string][]byte{"a.pub": public})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, payload []byte, sig, cert, entry, stamp string) {
		a := map[string]string{annotationSignature: sig, annotationCertificate: cert, annotationBundle: entry, annotationTimestamp: stamp}
		if err := c.checkSimple(payload, a, "sha256:00"); err == nil {
			t.Error("a signature by nobody was trusted")
		}
	})
}

// FuzzBundle reads bundles from strangers.
func FuzzBundle(f *testing.F) {
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":""}},"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"YQ=="}]}}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle+json;version=0.1","messageSignature":{}}`))
	vs, err := ca.NewVirtualSigstore()
	if err != nil {
		f.Fatal(err)
	}
	c, err := NewKeyless(vs, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := c.checkBundle(data, "sha256:"+strings.Repeat("0", 64)); err == nil {
			t.Error("a bundle by nobody was trusted")
		}
	})
}
