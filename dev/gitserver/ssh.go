package gitserver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const handshakeTimeout = 10 * time.Second

// sshServer accepts SSH connections; what happens in them is in sshsession.go.
type sshServer struct {
	server   *Server
	listener net.Listener
	addr     *net.TCPAddr
	config   *ssh.ServerConfig
	hostKey  ssh.Signer
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

func listenSSH(s *Server) (*sshServer, error) {
	signer, err := openHostKey(filepath.Join(s.cfg.Dir, "ssh_host_ed25519_key"))
	if err != nil {
		return nil, err
	}
	addr := s.cfg.SSHAddr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for SSH on %s: %w", addr, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := &sshServer{server: s, listener: l, addr: l.Addr().(*net.TCPAddr), hostKey: signer, ctx: ctx, cancel: cancel}
	srv.config = &ssh.ServerConfig{PublicKeyCallback: srv.authenticate, ServerVersion: "SSH-2.0-headwater-git"}
	srv.config.AddHostKey(signer)
	srv.running.Go(srv.accept)
	return srv, nil
}

// authenticate lets every known key in. Which identity it stands for travels with the connection's permissions, which
// belong to the key that was proved, not to one that was merely offered.
func (s *sshServer) authenticate(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if _, ok := s.server.access.byKey(key); !ok {
		return nil, errors.New("unknown key")
	}
	return &ssh.Permissions{Extensions: map[string]string{"key": string(key.Marshal())}}, nil
}

// identify looks the key up again, so that a key removed meanwhile opens nothing.
func (s *sshServer) identify(p *ssh.Permissions) identity {
	key, err := ssh.ParsePublicKey([]byte(p.Extensions["key"]))
	if err != nil {
		return identity{}
	}
	who, _ := s.server.access.byKey(key)
	return who
}

func (s *sshServer) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.running.Go(func() { s.connection(conn) })
	}
}

func (s *sshServer) connection(conn net.Conn) {
	defer context.AfterFunc(s.ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	c, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return // the client has been told
	}
	_ = conn.SetDeadline(time.Time{})
	go ssh.DiscardRequests(requests)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	var sessions sync.WaitGroup
	for ch := range channels {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.UnknownChannelType, "only sessions are served here")
			continue
		}
		channel, reqs, err := ch.Accept()
		if err != nil {
			continue
		}
		sessions.Go(func() { s.session(ctx, s.identify(c.Permissions), channel, reqs) })
	}
	cancel()
	sessions.Wait()
}

// host is the advertised host and port.
func (s *sshServer) host() string {
	h := s.server.cfg.Advertise
	if h == "" {
		h = s.addr.IP.String()
	}
	return net.JoinHostPort(h, strconv.Itoa(s.addr.Port))
}

func (s *sshServer) knownHosts() string {
	port := strconv.Itoa(s.addr.Port)
	names := []string{s.host()}
	for _, h := range append([]string{s.addr.IP.String(), "localhost"}, s.server.cfg.Hosts...) {
		if hp := net.JoinHostPort(h, port); hp != names[0] {
			names = append(names, hp)
		}
	}
	var b strings.Builder
	for _, n := range names {
		b.WriteString(knownhosts.Line([]string{knownhosts.Normalize(n)}, s.hostKey.PublicKey()) + "\n")
	}
	return b.String()
}

func (s *sshServer) close() error {
	s.cancel()
	err := s.listener.Close()
	s.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil // a second call
	}
	return err
}

// openHostKey reads the host key or makes one: clients that know the server must know it after a restart too.
func openHostKey(file string) (ssh.Signer, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generate SSH host key: %w", err)
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return nil, fmt.Errorf("encode SSH host key: %w", err)
		}
		data = pem.EncodeToMemory(block)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return nil, fmt.Errorf("keep SSH host key: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("read SSH host key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("parse SSH host key %s: %w", file, err)
	}
	return signer, nil
}
