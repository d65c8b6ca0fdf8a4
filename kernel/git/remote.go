package git

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// agent is how we introduce ourselves.
const agent = "headwater/1"

// Credentials are how a remote is approached. Fields that do not fit the
// scheme of the URL are not used.
type Credentials struct {
	// Username and Password are for basic authentication over HTTP.
	Username, Password string
	// BearerToken is sent instead of them when set.
	BearerToken string
	// CA, ClientCert and ClientKey are PEM, for HTTPS.
	CA, ClientCert, ClientKey []byte
	// Identity is the PEM private key for SSH, with the Passphrase that
	// protects it; KnownHosts is in the format of the known_hosts file.
	Identity, Passphrase, KnownHosts []byte
	// Proxy is an HTTP proxy; nil means the environment's.
	Proxy *url.URL
}

// identity tells credentials apart without revealing them.
func (c Credentials) identity() [32]byte {
	h := sha256.New()
	proxy := ""
	if c.Proxy != nil {
		proxy = c.Proxy.String()
	}
	for _, part := range [][]byte{[]byte(c.Username), []byte(c.Password), []byte(c.BearerToken), c.CA, c.ClientCert,
		c.ClientKey, c.Identity, c.Passphrase, c.KnownHosts, []byte(proxy)} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	return [32]byte(h.Sum(nil))
}

// Remote is a repository on a server, and how to reach it.
type Remote struct {
	url    *url.URL // without user info
	creds  Credentials
	client *http.Client
	ssh    *sshDialer
}

// NewRemote checks the URL and the credentials. Schemes other than http, https
// and ssh are refused, and so is SSH without a key or without known hosts.
func NewRemote(raw string, c Credentials) (*Remote, error) {
	u, err := parseURL(raw)
	if err != nil {
		return nil, err
	}
	r := &Remote{creds: c}
	if u.Scheme == "ssh" {
		if r.ssh, err = newSSHDialer(u, c); err != nil {
			return nil, err
		}
	} else {
		if password, ok := u.User.Password(); ok && c.Username == "" && c.BearerToken == "" {
			r.creds.Username, r.creds.Password = u.User.Username(), password
		}
		if r.client, err = newHTTPClient(u, r.creds); err != nil {
			return nil, err
		}
	}
	u.User = nil
	r.url = u
	return r, nil
}

// parseURL accepts the URLs that may be fetched from. Its errors do not repeat
// what may hold credentials.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w Git URL: it does not parse", ErrInvalid)
	}
	switch u.Scheme {
	case "http", "https", "ssh":
	default:
		return nil, fmt.Errorf("%w Git URL: scheme %q: use https, ssh or http", ErrInvalid, printable(u.Scheme))
	}
	host := u.Hostname()
	if host == "" || strings.HasPrefix(host, "-") || u.Opaque != "" {
		return nil, fmt.Errorf("%w Git URL: it names no host", ErrInvalid)
	}
	if strings.ContainsAny(u.Path, "\x00\r\n") || strings.Trim(u.Path, "/") == "" {
		return nil, fmt.Errorf("%w Git URL: it names no repository on %s", ErrInvalid, u.Host)
	}
	if u.User != nil && strings.HasPrefix(u.User.Username(), "-") {
		return nil, fmt.Errorf("%w Git URL: the user name starts with a dash", ErrInvalid)
	}
	u.Fragment = ""
	return u, nil
}

// String gives the URL without credentials.
func (r *Remote) String() string {
	u := *r.url
	u.RawQuery = ""
	return u.String()
}

// Host gives host and port, as in the URL.
func (r *Remote) Host() string { return r.url.Host }

// scrub makes an error safe to show: whatever a server echoed, the
// credentials are not in it.
func (r *Remote) scrub(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	clean := text
	for _, secret := range []string{r.creds.Password, r.creds.BearerToken, url.QueryEscape(r.creds.Password),
		url.PathEscape(r.creds.Password), string(bytes.TrimSpace(r.creds.Passphrase))} {
		if len(secret) >= 3 {
			clean = strings.ReplaceAll(clean, secret, "***")
		}
	}
	if clean == text {
		return err
	}
	return &scrubbed{clean, err}
}

// scrubbed has another text than the error it stands for, and the same class.
type scrubbed struct {
	text string
	err  error
}

func (s *scrubbed) Error() string { return s.text }

// Is and As let the class through without giving the text away.
func (s *scrubbed) Is(target error) bool { return errors.Is(s.err, target) }

// open starts a conversation with the remote.
func (r *Remote) open(ctx context.Context) (*session, error) {
	var w wire
	var err error
	if r.ssh != nil {
		w, err = r.ssh.dial(ctx, r.url.Path)
	} else {
		w, err = &httpWire{remote: r, base: r.url}, nil
	}
	if err != nil {
		return nil, err
	}
	s := &session{wire: w}
	if err := s.greet(ctx); err != nil {
		w.close()
		return nil, err
	}
	return s, nil
}
