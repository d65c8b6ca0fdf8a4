package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Config says which hub to speak to and as whom.
type Config struct {
	// Hub is its address, https://host[:port].
	Hub string
	// CA is PEM with the authorities to trust; the system's when empty.
	CA []byte
	// TenantID, ClientID and ClientSecret are a service principal's credentials.
	TenantID, ClientID, ClientSecret string
	// SubscriptionID is what ids are built with.
	SubscriptionID string
	// HTTP is used instead of a client made from CA when set.
	HTTP *http.Client
}

// Client speaks to one hub as one principal. Use it from any number of
// goroutines.
type Client struct {
	config Config
	http   *http.Client

	mu      sync.Mutex
	token   string
	expires time.Time
}

// New makes a client. It does not dial the hub.
func New(c Config) (*Client, error) {
	c.Hub = strings.TrimSuffix(c.Hub, "/")
	u, err := url.Parse(c.Hub)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the hub's address %q is not https://host[:port]", c.Hub)
	}
	for name, value := range map[string]string{"tenant id": c.TenantID, "client id": c.ClientID, "client secret": c.ClientSecret} {
		if value == "" {
			return nil, fmt.Errorf("there is no %s for the hub %s", name, c.Hub)
		}
	}
	client := &Client{config: c, http: c.HTTP}
	if client.http != nil {
		return client, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if len(c.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("the hub's CA holds no PEM certificate")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	client.http = &http.Client{Transport: transport, Timeout: 60 * time.Second}
	return client, nil
}

// Hub is the hub's address without a slash at the end.
func (c *Client) Hub() string { return c.config.Hub }

// TenantID is the tenant of the credentials.
func (c *Client) TenantID() string { return c.config.TenantID }

// SubscriptionID is the subscription that ids are built with.
func (c *Client) SubscriptionID() string { return c.config.SubscriptionID }

// bearer returns a token that is good for another minute.
func (c *Client) bearer(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" && time.Until(c.expires) > time.Minute {
		return c.token, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.config.ClientID},
		"client_secret": {c.config.ClientSecret}, "scope": {c.config.Hub + "/.default"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		c.config.Hub+"/"+url.PathEscape(c.config.TenantID)+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("log in to %s: %w", c.config.Hub, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("log in to %s: %w", c.config.Hub, err)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.AccessToken == "" {
		return "", &LoginError{Hub: c.config.Hub, Status: resp.StatusCode, Code: answer.Error, Reason: answer.Description}
	}
	c.token, c.expires = answer.AccessToken, time.Now().Add(time.Duration(answer.ExpiresIn)*time.Second)
	return c.token, nil
}

// forget drops a token that the hub did not take.
func (c *Client) forget(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == token {
		c.token = ""
	}
}

// LoginError says why a hub gave no token.
type LoginError struct {
	Hub    string
	Status int
	Code   string
	Reason string
}

// Error is the reason in the hub's words.
func (e *LoginError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("log in to %s: HTTP status %d", e.Hub, e.Status)
	}
	return fmt.Sprintf("log in to %s: %s: %s", e.Hub, e.Code, e.Reason)
}
