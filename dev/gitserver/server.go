// Package gitserver is a real Git server for development and tests: smart HTTP and SSH in front of bare repositories in
// a directory, with accounts, deploy keys, private repositories, TLS, faults on demand and counters.
//
// Git's own upload-pack and receive-pack do the work, so protocol version 2, shallow and partial clones behave as
// with the servers that people use. No command ever passes through a shell, and a repository name is checked before
// it becomes part of a path.
//
// Everything that must outlive a restart is in Config.Dir: the repositories, access.json (accounts and keys; readable
// by the owner only), the SSH host key and the certificate authority.
//
// While it runs the server can be administered over HTTP by an account with Admin set; see handleAdmin.
package gitserver

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"headwater.dev/dev/front"
)

// Config describes a server.
type Config struct {
	// Dir keeps everything that outlives a restart. Required.
	Dir string
	// HTTPAddr and SSHAddr are listen addresses; empty means a free port on 127.0.0.1.
	HTTPAddr, SSHAddr string
	// TLS serves HTTPS under the server's own certificate authority (see Authority).
	TLS bool
	// Hosts are further host names and addresses for the certificate and the known hosts.
	Hosts []string
	// Advertise is the host in the URLs that the server hands out; empty means the listen address.
	Advertise string
	// Accounts exist from the start; each replaces an account of the same name from an earlier run.
	Accounts []Account
}

// Server is a running Git server.
type Server struct {
	*front.Server

	cfg       Config
	git       string
	authority *front.Authority
	access    *access
	ssh       *sshServer
	writing   sync.Mutex // one writer of commits at a time
	counts    counts
}

// Start opens the directory and both listeners.
func Start(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("start git server: Config.Dir is empty")
	}
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("start git server: git is needed (Debian package git): %w", err)
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("start git server: %w", err)
	}
	s := &Server{cfg: cfg, git: git}
	if err := os.MkdirAll(s.repositoriesDir(), 0o700); err != nil {
		return nil, fmt.Errorf("start git server: %w", err)
	}
	if s.access, err = openAccess(filepath.Join(cfg.Dir, "access.json")); err != nil {
		return nil, err
	}
	for _, a := range cfg.Accounts {
		if err := s.AddAccount(a); err != nil {
			return nil, err
		}
	}
	if cfg.TLS {
		if s.authority, err = front.OpenAuthority(filepath.Join(cfg.Dir, "tls")); err != nil {
			return nil, err
		}
	}
	return s, s.listen()
}

func (s *Server) listen() error {
	mux := http.NewServeMux()
	mux.Handle("/-/", s.handleAdmin())
	mux.HandleFunc("/", s.handleGit)
	var err error
	s.Server, err = front.Listen(front.Config{
		Addr: s.cfg.HTTPAddr, Advertise: s.cfg.Advertise, Authority: s.authority, Hosts: s.cfg.Hosts,
	}, mux)
	if err != nil {
		return fmt.Errorf("start git server: %w", err)
	}
	if s.ssh, err = listenSSH(s); err != nil {
		return errors.Join(err, s.Server.Close())
	}
	return nil
}

// URL is the HTTP address of a repository.
func (s *Server) URL(repo string) string { return s.Server.URL() + "/" + repo + ".git" }

// BaseURL is the HTTP address that repository names are appended to, without a trailing slash.
func (s *Server) BaseURL() string { return s.Server.URL() }

// SSHURL is the SSH address of a repository.
func (s *Server) SSHURL(repo string) string { return s.SSHBaseURL() + "/" + repo + ".git" }

// SSHBaseURL is the SSH address that repository names are appended to, without a trailing slash.
func (s *Server) SSHBaseURL() string { return "ssh://git@" + s.ssh.host() }

// KnownHosts is the server's host key in the format of an OpenSSH known_hosts file, one line per name of the server.
func (s *Server) KnownHosts() string { return s.ssh.knownHosts() }

// SSHAddr is the address that the SSH server listens on.
func (s *Server) SSHAddr() string { return s.ssh.addr.String() }

// Authority is the certificate authority behind the server's certificate; nil without TLS.
func (s *Server) Authority() *front.Authority { return s.authority }

// Close ends all connections and waits for the listeners to be gone. The directory stays. A second call does nothing.
func (s *Server) Close() error {
	return errors.Join(s.ssh.close(), s.Server.Close())
}
