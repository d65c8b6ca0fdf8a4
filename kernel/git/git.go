// Package git fetches revisions of Git repositories over HTTP(S) and SSH into
// mirrors on disk and gives their files, without a work tree and without a git
// program.
//
// It speaks Git's wire protocol, version 2 where the server does and version 0
// otherwise. A Mirror keeps what was fetched: asking for an unchanged revision
// costs one listing of the wanted references, and a new revision costs the
// objects that are new. Every object is hashed as it arrives, with detection
// of SHA-1 collision attacks.
package git

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

var (
	// ErrAuth says that the server refused the credentials, or wants some.
	ErrAuth = errors.New("authentication failed")
	// ErrHostKey says that the server's host key is not among the known hosts.
	ErrHostKey = errors.New("host key verification failed")
	// ErrRepository says that the server does not know the repository, or
	// does not let these credentials know about it.
	ErrRepository = errors.New("repository not found")
	// ErrReference says that the repository has no such reference or commit.
	ErrReference = errors.New("reference not found")
	// ErrEmpty says that the repository has no references at all.
	ErrEmpty = errors.New("git repository is empty")
	// ErrInvalid says that something given by the user can never work.
	ErrInvalid = errors.New("invalid")
	// ErrAddress says that a server's address may not be connected to.
	ErrAddress = errors.New("the address of the server is refused: link-local addresses always are, private ones where a server on the Internet leads to them by a redirect or a submodule, and proxies on this machine where they are not allowed")
	// ErrProtocol says that the server broke the protocol or exceeded a limit.
	ErrProtocol = errors.New("bad answer from the Git server")
	// ErrDamaged says that a mirror lacks or cannot read an object; Reset it
	// and fetch again.
	ErrDamaged = errors.New("mirror is damaged")
)

// RateLimited is the error of a server that asks to come back later.
type RateLimited struct {
	// After is how long the server asked to wait; zero when it did not say.
	After time.Duration
}

func (e *RateLimited) Error() string {
	if e.After > 0 {
		return fmt.Sprintf("the Git server limits the rate of requests; it asks to wait %s", e.After)
	}
	return "the Git server limits the rate of requests"
}

// Hash is the SHA-1 name of an object.
type Hash [20]byte

// IsZero reports whether h names nothing.
func (h Hash) IsZero() bool { return h == Hash{} }

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash parses 40 hexadecimal digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("%w object name %.60q: want 40 hexadecimal digits", ErrInvalid, s)
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("%w object name %.60q: want 40 hexadecimal digits", ErrInvalid, s)
	}
	return h, nil
}

// Ref is a reference of a remote repository.
type Ref struct {
	// Name is the full name, such as "refs/heads/main".
	Name string
	Hash Hash
	// Peeled is what an annotated tag points to; zero otherwise.
	Peeled Hash
}

// Commit gives the commit the reference leads to.
func (r Ref) Commit() Hash {
	if !r.Peeled.IsZero() {
		return r.Peeled
	}
	return r.Hash
}

// printable shortens text from a server to one harmless line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if s = strings.TrimSpace(s); len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// agent is how we introduce ourselves.
const agent = "headwater/1"

// Credentials are how a remote is approached. Fields that do not fit the
// scheme of the URL are not used.
type Credentials struct {
	// Username and Password are for basic authentication over HTTP.
	Username, Password string
	// BearerToken is sent instead of them when set.
	BearerToken string
	// Principal names whose Username, Password and BearerToken these are, for
	// those that a provider makes anew all the time; empty for others. What was
	// fetched before is found again by it.
	Principal string
	// CA, ClientCert and ClientKey are PEM, for HTTPS.
	CA, ClientCert, ClientKey []byte
	// Identity is the PEM private key for SSH, with the Passphrase that
	// protects it; KnownHosts is in the format of the known_hosts file.
	Identity, Passphrase, KnownHosts []byte
	// Proxy is an HTTP or SOCKS5 proxy, with its user information. Nil means
	// the environment's for HTTP and none for SSH.
	Proxy *url.URL
	// LoopbackProxy lets Proxy be on this machine.
	LoopbackProxy bool
	// limit is for URLs that come out of a repository rather than from its
	// owner: how close to us the server may be. Zero means anywhere.
	limit reach
}

// For gives the part of the credentials that may be used for another URL that a
// repository names: all of them on the same server, and on others none but the
// way through the proxy. Another server may be no closer to us than this one is,
// so that a repository on the Internet cannot make us ask services inside.
func (r *Remote) For(other string) Credentials {
	c := Credentials{Proxy: r.creds.Proxy, LoopbackProxy: r.creds.LoopbackProxy}
	if u, err := parseURL(other); err == nil && u.Scheme == r.url.Scheme && strings.EqualFold(u.Host, r.url.Host) {
		c = r.creds
	}
	c.limit = r.creds.limit.and(r.seen.elsewhere())
	return c
}

// identity tells credentials apart without revealing them.
func (c Credentials) identity() [32]byte {
	h := sha256.New()
	proxy := ""
	if c.Proxy != nil {
		proxy = c.Proxy.String()
	}
	if c.Principal != "" {
		c.Username, c.Password, c.BearerToken = "principal", c.Principal, ""
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
	user   string   // of SSH
	seen   *seen
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
	r := &Remote{creds: c, seen: &seen{}}
	if u.Scheme == "ssh" {
		if r.ssh, err = newSSHDialer(u, c, r.seen); err != nil {
			return nil, err
		}
		r.user = u.User.Username()
	} else {
		if password, ok := u.User.Password(); ok && c.Username == "" && c.BearerToken == "" {
			r.creds.Username, r.creds.Password = u.User.Username(), password
		}
		if r.client, err = newHTTPClient(u, r.creds, r.seen); err != nil {
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

// URL gives the URL with the user name for SSH, and without any password.
func (r *Remote) URL() string {
	u := *r.url
	if r.user != "" {
		u.User = url.User(r.user)
	}
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
	proxy := ""
	if r.creds.Proxy != nil {
		proxy, _ = r.creds.Proxy.User.Password()
	}
	for _, secret := range []string{proxy, r.creds.Password, r.creds.BearerToken, url.QueryEscape(r.creds.Password),
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

// Is lets the class through without giving the text away.
func (s *scrubbed) Is(target error) bool { return errors.Is(s.err, target) }

// As lets through what holds no text of a server.
func (s *scrubbed) As(target any) bool {
	limited, ok := target.(**RateLimited)
	return ok && errors.As(s.err, limited)
}

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
