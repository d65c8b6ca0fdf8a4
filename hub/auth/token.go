package auth

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

// maxToken bounds what is parsed at all, in bytes.
const maxToken = 16 << 10

// claims are those of the hub's tokens.
type claims struct {
	jwt.Claims
	Tenant   string `json:"tid,omitempty"`
	ObjectID string `json:"oid,omitempty"`
	AppID    string `json:"appid,omitempty"`
	Azp      string `json:"azp,omitempty"`
	Name     string `json:"app_displayname,omitempty"`
	IDType   string `json:"idtyp,omitempty"`
	Version  string `json:"ver,omitempty"`
	// Cluster and Key are in agents' tokens only.
	Cluster string `json:"cluster,omitempty"`
	Key     string `json:"cluster_key,omitempty"`
}

func (a *Auth) issuerV1() string      { return a.url + "/" + a.tenant + "/" }
func (a *Auth) issuerV2() string      { return a.url + "/" + a.tenant + "/v2.0" }
func (a *Auth) agentAudience() string { return a.url + "/agents/v1" }

// foldAudience makes audiences comparable: clients add slashes at will.
func foldAudience(audience string) string {
	return strings.ToLower(strings.TrimRight(audience, "/"))
}

// IssueAgent makes the token of a cluster's agent. cluster is the folded ARM
// id, key the fingerprint of the cluster's key that the agent proved to hold.
func (a *Auth) IssueAgent(cluster, key string) (token string, life time.Duration, err error) {
	c := claims{Cluster: cluster, Key: key}
	c.Issuer, c.Subject, c.Audience = a.issuerV2(), cluster, jwt.Audience{a.agentAudience()}
	token, err = a.sign(c, AgentTokenLife)
	return token, AgentTokenLife, err
}

// issue makes the token of a service principal.
func (a *Auth) issue(p principalRecord, audience, version string) (string, error) {
	c := claims{
		Tenant: a.tenant, ObjectID: p.ObjectID, AppID: p.ClientID, Azp: p.ClientID,
		Name: p.Name, IDType: "app", Version: version,
	}
	c.Issuer, c.Subject, c.Audience = a.issuerV2(), p.ObjectID, jwt.Audience{audience}
	if version == "1.0" {
		c.Issuer = a.issuerV1()
	}
	return a.sign(c, UserTokenLife)
}

func (a *Auth) sign(c claims, life time.Duration) (string, error) {
	now := a.clock()
	c.ID = uuid.NewString()
	c.IssuedAt, c.NotBefore, c.Expiry = jwt.NewNumericDate(now), jwt.NewNumericDate(now), jwt.NewNumericDate(now.Add(life))
	token, err := jwt.Signed(a.keys.signer).Claims(c).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return token, nil
}

// parse verifies a token of the hub for one of the audiences. The signature
// comes first: nothing is said of a token that is not ours.
func (a *Auth) parse(token string, audiences map[string]bool) (claims, error) {
	invalid := unauthenticated("InvalidAuthenticationToken", "The access token is invalid.")
	if len(token) > maxToken {
		return claims{}, invalid
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(parsed.Headers) != 1 {
		return claims{}, invalid
	}
	key, ok := a.keys.public[parsed.Headers[0].KeyID]
	if !ok {
		return claims{}, invalid
	}
	var c claims
	if err := parsed.Claims(key, &c); err != nil {
		return claims{}, invalid
	}
	if c.Issuer != a.issuerV1() && c.Issuer != a.issuerV2() {
		return claims{}, unauthenticated("InvalidAuthenticationTokenTenant", "The access token is from the wrong issuer; it must be "+a.issuerV2()+".")
	}
	if len(c.Audience) != 1 || !audiences[foldAudience(c.Audience[0])] {
		return claims{}, unauthenticated("InvalidAuthenticationTokenAudience", "The access token has been obtained for the wrong audience or resource.")
	}
	if c.Expiry == nil || c.NotBefore == nil {
		return claims{}, invalid
	}
	if err := a.inTime(c); err != nil {
		return claims{}, err
	}
	return c, nil
}

// inTime says that a token has ended or has not begun.
func (a *Auth) inTime(c claims) error {
	err := c.ValidateWithLeeway(jwt.Expected{Time: a.clock()}, Skew)
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return unauthenticated("ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than the current UTC time. Obtain a new one.")
	case err != nil:
		return unauthenticated("InvalidAuthenticationToken", "The access token is invalid.")
	}
	return nil
}
