package verify

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	sigstore "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Annotations of a layer that is a signature in the older format.
const (
	annotationSignature   = "dev.cosignproject.cosign/signature"
	annotationCertificate = "dev.sigstore.cosign/certificate"
	annotationBundle      = "dev.sigstore.cosign/bundle"
	annotationTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
)

// simple is a signature in the older format: a payload in a layer, and the rest
// in the layer's annotations.
type simple struct {
	content     *bundle.MessageSignature
	certificate *x509.Certificate
	entries     []*tlog.Entry
	timestamps  [][]byte
}

// rekorBundle is the annotation with the entry in the transparency log.
type rekorBundle struct {
	SignedEntryTimestamp []byte `json:"SignedEntryTimestamp"`
	Payload              struct {
		Body           string `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogIndex       int64  `json:"logIndex"`
		LogID          string `json:"logID"`
	} `json:"Payload"`
}

// parseSimple reads a signature in the older format. Nothing is believed yet.
func parseSimple(payload []byte, annotations map[string]string) (*simple, error) {
	sig, err := base64.StdEncoding.DecodeString(annotations[annotationSignature])
	if err != nil || len(sig) == 0 {
		return nil, errors.New("the layer has no signature")
	}
	sum := sha256.Sum256(payload)
	s := &simple{content: bundle.NewMessageSignature(sum[:], "SHA2_256", sig)}
	if pem := annotations[annotationCertificate]; pem != "" {
		certs, err := cryptoutils.UnmarshalCertificatesFromPEM([]byte(pem))
		if err != nil || len(certs) == 0 {
			return nil, errors.New("the signature's certificate cannot be read")
		}
		s.certificate = certs[0]
	}
	if text := annotations[annotationBundle]; text != "" {
		entry, err := parseRekor([]byte(text))
		if err != nil {
			return nil, err
		}
		s.entries = append(s.entries, entry)
	}
	if text := annotations[annotationTimestamp]; text != "" {
		var stamp struct {
			SignedRFC3161Timestamp []byte `json:"SignedRFC3161Timestamp"`
		}
		if err := json.Unmarshal([]byte(text), &stamp); err != nil {
			return nil, errors.New("the signature's timestamp cannot be read")
		}
		s.timestamps = append(s.timestamps, stamp.SignedRFC3161Timestamp)
	}
	return s, nil
}

func parseRekor(text []byte) (*tlog.Entry, error) {
	bad := errors.New("the signature's entry in the transparency log cannot be read")
	var b rekorBundle
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, bad
	}
	body, err := base64.StdEncoding.DecodeString(b.Payload.Body)
	if err != nil {
		return nil, bad
	}
	log, err := hex.DecodeString(b.Payload.LogID)
	if err != nil {
		return nil, bad
	}
	var kind struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	if err := json.Unmarshal(body, &kind); err != nil {
		return nil, bad
	}
	entry, err := tlog.ParseTransparencyLogEntry(&rekor.TransparencyLogEntry{
		LogIndex: b.Payload.LogIndex, LogId: &protobundle.LogId{KeyId: log}, IntegratedTime: b.Payload.IntegratedTime,
		KindVersion:       &rekor.KindVersion{Kind: kind.Kind, Version: kind.Version},
		InclusionPromise:  &rekor.InclusionPromise{SignedEntryTimestamp: b.SignedEntryTimestamp},
		CanonicalizedBody: body,
	})
	if err != nil {
		return nil, bad
	}
	return entry, nil
}

// The methods of sigstore.SignedEntity.

func (s *simple) HasInclusionPromise() bool { return len(s.entries) > 0 }
func (s *simple) HasInclusionProof() bool   { return false }
func (s *simple) Version() (string, error)  { return "v0.1", nil }

func (s *simple) SignatureContent() (sigstore.SignatureContent, error) { return s.content, nil }
func (s *simple) Timestamps() ([][]byte, error)                        { return s.timestamps, nil }
func (s *simple) TlogEntries() ([]*tlog.Entry, error)                  { return s.entries, nil }

func (s *simple) VerificationContent() (sigstore.VerificationContent, error) {
	if s.certificate == nil {
		return aKey{}, nil
	}
	return bundle.NewCertificate(s.certificate), nil
}

// aKey says that a signature was made by a key, and not by which.
type aKey struct{}

func (aKey) Hint() string                                     { return "" }
func (aKey) Certificate() *x509.Certificate                   { return nil }
func (aKey) Intermediates() []*x509.Certificate               { return nil }
func (k aKey) PublicKey() sigstore.PublicKeyProvider          { return k }
func (aKey) CompareKey(any, root.TrustedMaterial) bool        { return false }
func (aKey) ValidAtTime(time.Time, root.TrustedMaterial) bool { return true }
