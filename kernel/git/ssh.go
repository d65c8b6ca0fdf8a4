package git

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	fluxknownhosts "github.com/fluxcd/pkg/ssh/knownhosts"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/net/proxy"
)

// sshDialer reaches one server.
type sshDialer struct {
	address string
	config  *ssh.ClientConfig
	proxy   *url.URL
	local   bool // the proxy may be on this machine
	limit   reach
	seen    *seen
}

func newSSHDialer(u *url.URL, c Credentials, own *seen) (*sshDialer, error) {
	if len(bytes.TrimSpace(c.Identity)) == 0 {
		return nil, fmt.Errorf("%w SSH credentials: no private key (identity)", ErrInvalid)
	}
	if len(bytes.TrimSpace(c.KnownHosts)) == 0 {
		return nil, fmt.Errorf("%w SSH credentials: no known hosts (known_hosts): without them the server's identity cannot be checked", ErrInvalid)
	}
	signer, err := parseKey(c.Identity, c.Passphrase)
	if err != nil {
		return nil, err
	}
	check, _, err := fluxknownhosts.New(c.KnownHosts)
	if err != nil {
		return nil, fmt.Errorf("%w SSH credentials: known_hosts does not parse", ErrInvalid)
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	user := u.User.Username()
	if user == "" {
		user = "git"
	}
	d := &sshDialer{address: net.JoinHostPort(u.Hostname(), port), proxy: c.Proxy, local: c.LoopbackProxy, limit: c.limit, seen: own}
	d.config = &ssh.ClientConfig{
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   check,
		HostKeyAlgorithms: hostKeyAlgorithms(check, d.address),
		ClientVersion:     "SSH-2.0-headwater",
		Timeout:           15 * time.Second,
	}
	return d, nil
}

// parseKey reads a private key. Its errors do not repeat any of it.
func parseKey(key, passphrase []byte) (ssh.Signer, error) {
	if len(passphrase) > 0 {
		if signer, err := ssh.ParsePrivateKeyWithPassphrase(key, passphrase); err == nil {
			return signer, nil
		}
	}
	signer, err := ssh.ParsePrivateKey(key)
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing) && len(passphrase) == 0:
		return nil, fmt.Errorf("%w SSH credentials: the private key needs a passphrase (password)", ErrInvalid)
	case errors.As(err, &missing):
		return nil, fmt.Errorf("%w SSH credentials: the passphrase does not open the private key", ErrInvalid)
	case err != nil:
		return nil, fmt.Errorf("%w SSH credentials: identity is no private key", ErrInvalid)
	}
	return signer, nil
}

// hostKeyAlgorithms asks the server for a kind of host key that is known, so
// that it does not show another one, which would be refused. It learns the
// kinds from the refusal of a key that nobody has.
func hostKeyAlgorithms(check ssh.HostKeyCallback, address string) []string {
	var refusal *knownhosts.KeyError
	err := check(address, &net.TCPAddr{IP: net.IPv4zero}, noKey{})
	if !errors.As(err, &refusal) {
		return nil
	}
	var algorithms []string
	for _, want := range refusal.Want {
		switch t := want.Key.Type(); t {
		case ssh.KeyAlgoRSA:
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			algorithms = append(algorithms, t)
		}
	}
	return algorithms
}

// noKey is a public key that equals no other.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// dial connects, authenticates and starts upload-pack for the repository.
func (d *sshDialer) dial(ctx context.Context, path string) (wire, error) {
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	w := &sshWire{stop: stop, conn: conn}
	if err := w.start(d, path); err != nil {
		w.close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return w, nil
}

// connect reaches the server, through the proxy if there is one.
func (d *sshDialer) connect(ctx context.Context) (net.Conn, error) {
	if d.proxy == nil {
		return d.seen.dial(ctx, "tcp", d.address, d.limit)
	}
	via := proxyAddress(d.proxy)
	if d.proxy.Scheme == "socks5" {
		var auth *proxy.Auth
		if u := d.proxy.User; u != nil {
			password, _ := u.Password()
			auth = &proxy.Auth{User: u.Username(), Password: password}
		}
		socks, err := proxy.SOCKS5("tcp", via, auth, ProxyDialer(d.local))
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		conn, err := socks.(proxy.ContextDialer).DialContext(ctx, "tcp", d.address)
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		return conn, nil
	}
	conn, err := ProxyDialer(d.local).DialContext(ctx, "tcp", via)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if d.proxy.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: d.proxy.Hostname(), MinVersion: tls.VersionTLS12})
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	tunnel, err := d.tunnel(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return tunnel, nil
}

func proxyAddress(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// tunnel asks an HTTP proxy for a connection to the server.
func (d *sshDialer) tunnel(conn net.Conn) (net.Conn, error) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: d.address}, Host: d.address, Header: http.Header{}}
	if u := d.proxy.User; u != nil {
		password, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, fmt.Errorf("%w: the answer is not that of an HTTP proxy", ErrProtocol)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return &tunnelled{Conn: conn, r: br}, nil
	case http.StatusProxyAuthRequired:
		return nil, fmt.Errorf("%w: it answered 407 Proxy Authentication Required", ErrAuth)
	}
	return nil, fmt.Errorf("%w: it answered %d %s", ErrProtocol, resp.StatusCode, http.StatusText(resp.StatusCode))
}

// tunnelled reads first what came with the proxy's answer.
type tunnelled struct {
	net.Conn
	r *bufio.Reader
}

func (t *tunnelled) Read(p []byte) (int, error) { return t.r.Read(p) }

// sshWire talks to upload-pack over one SSH session.
type sshWire struct {
	stop   func() bool
	conn   net.Conn
	in     io.WriteCloser
	out    *packets
	stderr tail
	ended  chan struct{} // closed when upload-pack ended and stderr is whole
}

func (w *sshWire) start(d *sshDialer, path string) error {
	c, chans, reqs, err := ssh.NewClientConn(w.conn, d.address, d.config)
	if err != nil {
		return classifySSH(err)
	}
	session, err := ssh.NewClient(c, chans, reqs).NewSession()
	if err != nil {
		return fmt.Errorf("open SSH session: %w", err)
	}
	session.Stderr = &w.stderr
	if w.in, err = session.StdinPipe(); err != nil {
		return fmt.Errorf("open SSH session: %w", err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return fmt.Errorf("open SSH session: %w", err)
	}
	w.out = newPackets(out, nil)
	// Servers that do not allow the variable speak version 0.
	_ = session.Setenv("GIT_PROTOCOL", "version=2")
	if err := session.Start("git-upload-pack " + shellQuote(remotePath(path))); err != nil {
		return fmt.Errorf("start upload-pack over SSH: %w", err)
	}
	w.ended = make(chan struct{})
	go func() {
		_ = session.Wait() // its error says less than what upload-pack wrote
		close(w.ended)
	}()
	return nil
}

func classifySSH(err error) error {
	var key *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &revoked):
		return fmt.Errorf("%w: the server's host key is revoked in known_hosts", ErrHostKey)
	case errors.As(err, &key) && len(key.Want) == 0:
		return fmt.Errorf("%w: known_hosts has no entry for the server", ErrHostKey)
	case errors.As(err, &key):
		return fmt.Errorf("%w: the server's host key differs from the one in known_hosts", ErrHostKey)
	case strings.Contains(err.Error(), "no common algorithm for host key"):
		return fmt.Errorf("%w: the server has no host key of a kind that known_hosts lists", ErrHostKey)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("%w: the server does not accept the SSH key", ErrAuth)
	}
	return fmt.Errorf("SSH handshake: %w", err)
}

func (w *sshWire) greet(context.Context) (*packets, error) { return w.out, nil }

func (w *sshWire) call(_ context.Context, body []byte) (*packets, error) {
	if _, err := w.in.Write(body); err != nil {
		return nil, w.explain(err)
	}
	return w.out, nil
}

func (w *sshWire) close() {
	w.stop()
	w.conn.Close()
}

// explain replaces an answer that ended early by what the server said about it.
func (w *sshWire) explain(err error) error {
	select {
	case <-w.ended:
	case <-time.After(2 * time.Second):
		return err // it goes on; what it wrote so far may be a part
	}
	said := printable(w.stderr.String())
	if said == "" {
		return err
	}
	lower := strings.ToLower(said)
	switch {
	case strings.Contains(lower, "not our ref"), strings.Contains(lower, "unadvertised object"):
		return fmt.Errorf("%w: the server says: %s", ErrReference, said)
	case strings.Contains(lower, "not found"), strings.Contains(lower, "does not exist"), strings.Contains(lower, "not appear to be a git repository"):
		return fmt.Errorf("%w: the server says: %s", ErrRepository, said)
	case strings.Contains(lower, "denied"), strings.Contains(lower, "not authorized"), strings.Contains(lower, "forbidden"):
		return fmt.Errorf("%w: the server says: %s", ErrAuth, said)
	}
	return fmt.Errorf("%w; the server says: %s", err, said)
}

// tail keeps the beginning of what the server writes to its error stream.
type tail struct{ buf bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	if room := 1024 - t.buf.Len(); room > 0 {
		t.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (t *tail) String() string { return t.buf.String() }

// shellQuote quotes s for the shell at the other end, which may be one of
// several.
func shellQuote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(s) + "'"
}

// remotePath lets paths of the form /~user/repository be relative to a home.
func remotePath(path string) string {
	if strings.HasPrefix(path, "/~") {
		return path[1:]
	}
	return path
}
