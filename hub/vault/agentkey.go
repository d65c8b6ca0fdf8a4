package vault

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"

	"headwater.dev/api/resource"
)

// AgentKeys are the keys of a cluster's agent, as fingerprints unless said
// otherwise.
type AgentKeys struct {
	// Public is the key that counts, to which secrets are sealed, and Present its
	// fingerprint. Certificate is how it is written.
	Public      *rsa.PublicKey
	Present     string
	Certificate string
	// Registered is the key that the cluster was registered with.
	Registered string
	// Keys is what became of it; zero when nothing did.
	Keys resource.Keys
}

// ReadAgentKeys tells which key counts for a cluster that is registered with a
// certificate, after what became of it.
func ReadAgentKeys(registered string, became resource.Keys) (AgentKeys, error) {
	k := AgentKeys{Certificate: registered}
	if became.Registered != "" {
		k.Registered = CertificateFingerprint(registered)
	}
	if k.Registered != "" && k.Registered == became.Registered {
		k.Keys = became
		if became.Present != "" {
			k.Certificate = became.Present
		}
	}
	var err error
	if k.Public, err = ParsePublicKey(k.Certificate); err != nil {
		return AgentKeys{}, err
	}
	k.Present = Fingerprint(k.Public)
	if k.Certificate == registered {
		k.Registered = k.Present
	}
	return k, nil
}

// CertificateFingerprint is that of a certificate's key; empty when it is none.
func CertificateFingerprint(certificate string) string {
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(certificate))
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Certificate is how a public key is written in a cluster's record.
func Certificate(key *rsa.PublicKey) string {
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(key))
}

// FormerKey is one that counted until End.
type FormerKey struct {
	Certificate string
	End         time.Time
}

// Fingerprint names the key.
func (f FormerKey) Fingerprint() string { return CertificateFingerprint(f.Certificate) }

// maxFormer bounds the former keys that are remembered, lastFormer how many of
// them for longer than anything is sealed to them: to tell who still has one.
const maxFormer, lastFormer = 8, 2

// Former are the former keys, the newest last.
func (k AgentKeys) Former() []FormerKey {
	var all []FormerKey
	for one := range strings.FieldsSeq(k.Keys.Former) {
		certificate, at, _ := strings.Cut(one, "@")
		if end, err := strconv.ParseInt(at, 10, 64); err == nil {
			all = append(all, FormerKey{certificate, time.Unix(end, 0).UTC()})
		}
	}
	return all
}

// FormerFingerprints are those of the former keys, for Release.
func (k AgentKeys) FormerFingerprints() []string {
	var all []string
	for _, f := range k.Former() {
		all = append(all, f.Fingerprint())
	}
	return all
}

// errNotNext says that a key is not the one that was introduced.
var errNotNext = errors.New("another key was introduced meanwhile")

// Introduce is what becomes of the keys when the agent introduces a next one.
func (k AgentKeys) Introduce(certificate string) resource.Keys {
	next := k.Keys
	next.Registered, next.Next = k.Registered, certificate
	return next
}

// Promote is what becomes of the keys when the next one, named by its certificate,
// is used: it takes the present one's place at now, or at the time until which
// a rotation was asked for, so that it counts as the answer to that.
func (k AgentKeys) Promote(certificate string, now, asked time.Time) (resource.Keys, error) {
	if k.Keys.Next == "" || k.Keys.Next != certificate {
		return resource.Keys{}, errNotNext
	}
	former := append(k.Former(), FormerKey{Certificate(k.Public), now})
	var text []string
	for i, f := range former {
		if left := len(former) - i; left <= lastFormer || left <= maxFormer && now.Sub(f.End) < Life {
			text = append(text, f.Certificate+"@"+strconv.FormatInt(f.End.Unix(), 10))
		}
	}
	if asked.After(now) { // by a replica whose clock is ahead
		now = asked
	}
	return resource.Keys{Registered: k.Registered, Present: certificate, RotatedAt: now, Former: strings.Join(text, " ")}, nil
}
