package uplink

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/go-logr/logr"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"headwater.dev/api/link"
)

// Enrolling is a cluster that asks to be let in with an enrolment token.
type Enrolling struct {
	// Hub, CA, Cluster, Key and Proxy are as in Config.
	Hub     string
	CA      []byte
	Cluster string
	Key     *rsa.PrivateKey
	Proxy   func(*http.Request) (*url.URL, error)
	// Token reads the token, before each try: its owner may put another one.
	Token func(context.Context) (string, error)
	// Waiting, when set, is told what is waited for, whenever that changes.
	Waiting func(ctx context.Context, what string)
	Log     logr.Logger
}

const (
	// enrolFirst and enrolLongest are the shortest and the longest pause between
	// two tries, before jitter.
	enrolFirst, enrolLongest = 4 * time.Second, time.Minute
	enrolTimeout             = 30 * time.Second
)

// errPending says that nobody has decided yet.
var errPending = errors.New("the enrolment is pending")

// Enrol asks until the hub lets the cluster in, and returns nil then, or when
// ctx ends, its error. Nothing else makes it give up: a token can be replaced,
// a rejection taken back, a hub come up.
func Enrol(ctx context.Context, e Enrolling) error {
	return e.run(ctx, timing{retry: enrolFirst, retryMax: enrolLongest, request: enrolTimeout})
}

func (e Enrolling) run(ctx context.Context, t timing) error {
	u, err := New(Config{Hub: e.Hub, CA: e.CA, Cluster: e.Cluster, Key: e.Key, Proxy: e.Proxy, Desired: func(link.Desired) {}, Log: e.Log})
	if err != nil {
		return err
	}
	defer u.http.CloseIdleConnections()
	u.timing = t
	retry, told := newBackoff(t), ""
	for {
		err := e.try(ctx, u)
		if err == nil {
			e.Log.Info("the hub has let this cluster in", "cluster", e.Cluster)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if what := err.Error(); what != told {
			told = what
			e.Log.Info("not enrolled yet, will ask again", "cluster", e.Cluster, "reason", what)
			if e.Waiting != nil {
				e.Waiting(ctx, what)
			}
		}
		wait := retry.next()
		var r *refusal
		if errors.As(err, &r) {
			wait = max(wait, r.after)
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

// try asks once, and once more when the clocks seem to differ.
func (e Enrolling) try(ctx context.Context, u *Uplink) error {
	token, err := e.Token(ctx)
	if err != nil {
		return err
	}
	err = e.ask(ctx, u, token)
	var r *refusal
	if errors.As(err, &r) && r.status == http.StatusUnauthorized && u.tokens.learnSkew(r) {
		err = e.ask(ctx, u, token)
	}
	return err
}

func (e Enrolling) ask(ctx context.Context, u *Uplink, token string) error {
	ctx, cancel := context.WithTimeout(ctx, u.timing.request)
	defer cancel()
	proof, err := e.prove(u, token)
	if err != nil {
		return err
	}
	body, err := json.Marshal(link.Enrolment{Token: token, Cluster: e.Cluster, Proof: proof,
		PublicKey: base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&e.Key.PublicKey))})
	if err != nil {
		return fmt.Errorf("encode the enrolment: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url(link.PathEnrol), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := u.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the hub to enrol this cluster: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return newRefusal(res)
	}
	var said link.Enrolled
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&said); err != nil {
		return fmt.Errorf("read the hub's answer: %w", err)
	}
	switch said.State {
	case link.EnrolmentApproved:
		return nil
	case link.EnrolmentRejected:
		return fmt.Errorf("enrolment %s was rejected: %s", clip(said.Name), clip(said.Message))
	}
	return fmt.Errorf("%w: %s: %s", errPending, clip(said.Name), clip(said.Message))
}

// prove signs that this cluster has the key and the token, for this hub only.
func (e Enrolling) prove(u *Uplink, token string) (string, error) {
	now := time.Now().Add(u.tokens.skew)
	sum := sha256.Sum256([]byte(token))
	claims := struct {
		jwt.RegisteredClaims
		TokenHash string `json:"tkh"`
	}{jwt.RegisteredClaims{Issuer: e.Cluster, Subject: e.Cluster, Audience: jwt.ClaimStrings{u.url(link.PathEnrol)}, ID: uuid.NewString(),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(assertionLife))}, hex.EncodeToString(sum[:])}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, claims).SignedString(e.Key)
	if err != nil {
		return "", fmt.Errorf("sign the proof: %w", err)
	}
	return signed, nil
}
