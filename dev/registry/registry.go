// Package registry is an OCI registry for development and tests: blobs and manifests on disk, so that images and
// artifacts outlive a restart, with optional TLS, optional accounts, faults on demand and counters.
//
// The protocol itself is go-containerregistry's registry, including the referrers API.
package registry

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"

	"headwater.dev/dev/front"
)

// Config describes a registry.
type Config struct {
	// Dir keeps blobs, manifests and the certificate authority. Required.
	Dir string
	// Addr is the listen address; empty means a free port on 127.0.0.1.
	Addr string
	// Advertise is the host in the addresses that the registry hands out; empty means the listen address.
	Advertise string
	// TLS serves HTTPS under the registry's own certificate authority (see Authority).
	TLS bool
	// Hosts are further host names and addresses for the certificate.
	Hosts []string
	// Users are the passwords of those who may pull and push; none means that everybody may.
	Users map[string]string
}

// Server is a running registry. Host is what image references begin with.
type Server struct {
	*front.Server
	authority *front.Authority
}

// Start opens the directory and the listener.
func Start(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("start registry: Config.Dir is empty")
	}
	blobs := filepath.Join(cfg.Dir, "blobs")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	handler := registry.New(
		registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)),
		registry.WithReferrersSupport(true),
		registry.Logger(log.New(io.Discard, "", 0)),
	)
	kept, err := keepManifests(filepath.Join(cfg.Dir, "manifests"), handler)
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	s := &Server{}
	if cfg.TLS {
		if s.authority, err = front.OpenAuthority(filepath.Join(cfg.Dir, "tls")); err != nil {
			return nil, fmt.Errorf("start registry: %w", err)
		}
	}
	s.Server, err = front.Listen(front.Config{
		Addr: cfg.Addr, Advertise: cfg.Advertise, Authority: s.authority, Hosts: cfg.Hosts,
	}, front.Basic("registry", cfg.Users, kept))
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	return s, nil
}

// Authority is the certificate authority behind the registry's certificate; nil without TLS.
func (s *Server) Authority() *front.Authority { return s.authority }

// Reference is the address of a repository, with a tag ("app:1") or digest if the name has one.
func (s *Server) Reference(name string) string { return s.Host() + "/" + strings.TrimPrefix(name, "/") }

// OCIURL is Reference as an oci:// URL, the form that OCIRepository and HelmRepository objects use.
func (s *Server) OCIURL(name string) string { return "oci://" + s.Reference(name) }
