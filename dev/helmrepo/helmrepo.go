// Package helmrepo is a Helm repository over HTTP for development and tests: chart archives in a directory and an
// index.yaml made from them, with conditional requests, optional TLS and accounts, faults on demand and counters.
// Charts can be added, replaced and removed while it runs; the next request for the index sees the change.
package helmrepo

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	repo "helm.sh/helm/v4/pkg/repo/v1"
	"sigs.k8s.io/yaml"

	"headwater.dev/dev/front"
)

// Config describes a repository.
type Config struct {
	// Dir keeps the chart archives and the certificate authority. Required.
	Dir string
	// Addr is the listen address; empty means a free port on 127.0.0.1.
	Addr string
	// Advertise is the host in URL; empty means the listen address. The index itself holds relative URLs.
	Advertise string
	// TLS serves HTTPS under the repository's own certificate authority (see Authority).
	TLS bool
	// Hosts are further host names and addresses for the certificate.
	Hosts []string
	// Users are the passwords of those who may read; none means that everybody may.
	Users map[string]string
}

// Server is a running repository. URL is its address.
type Server struct {
	*front.Server
	authority *front.Authority
	charts    string

	mu      sync.RWMutex
	index   []byte
	etag    string
	changed time.Time
}

// Start opens the directory, indexes the charts in it and opens the listener.
func Start(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("start helm repository: Config.Dir is empty")
	}
	s := &Server{charts: filepath.Join(cfg.Dir, "charts")}
	if err := os.MkdirAll(s.charts, 0o700); err != nil {
		return nil, fmt.Errorf("start helm repository: %w", err)
	}
	if err := s.reindex(); err != nil {
		return nil, fmt.Errorf("start helm repository: %w", err)
	}
	var err error
	if cfg.TLS {
		if s.authority, err = front.OpenAuthority(filepath.Join(cfg.Dir, "tls")); err != nil {
			return nil, fmt.Errorf("start helm repository: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /index.yaml", s.serveIndex)
	mux.HandleFunc("GET /charts/{file}", s.serveChart)
	s.Server, err = front.Listen(front.Config{
		Addr: cfg.Addr, Advertise: cfg.Advertise, Authority: s.authority, Hosts: cfg.Hosts,
	}, front.Basic("helm", cfg.Users, mux))
	if err != nil {
		return nil, fmt.Errorf("start helm repository: %w", err)
	}
	return s, nil
}

// Authority is the certificate authority behind the repository's certificate; nil without TLS.
func (s *Server) Authority() *front.Authority { return s.authority }

func (s *Server) serveIndex(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	index, etag, changed := s.index, s.etag, s.changed
	s.mu.RUnlock()
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("ETag", etag)
	http.ServeContent(w, r, "index.yaml", changed, bytes.NewReader(index))
}

func (s *Server) serveChart(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if name != filepath.Base(name) || filepath.Ext(name) != ".tgz" {
		http.NotFound(w, r)
		return
	}
	s.mu.RLock()
	data, err := os.ReadFile(filepath.Join(s.charts, name))
	s.mu.RUnlock()
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("ETag", etagOf(data))
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
}

// reindex makes the index from the archives on disk. The caller holds the lock, or is alone.
func (s *Server) reindex() error {
	files, err := filepath.Glob(filepath.Join(s.charts, "*.tgz"))
	if err != nil {
		return fmt.Errorf("list charts: %w", err)
	}
	index := repo.NewIndexFile()
	index.Generated = time.Unix(0, 0).UTC()
	for _, f := range files {
		created, err := addTo(index, f)
		if err != nil {
			return err
		}
		if created.After(index.Generated) {
			index.Generated = created
		}
	}
	index.SortEntries()
	data, err := yaml.Marshal(index)
	if err != nil {
		return fmt.Errorf("encode index: %w", err)
	}
	if etag := etagOf(data); etag != s.etag {
		s.index, s.etag, s.changed = data, etag, time.Now()
	}
	return nil
}

// addTo enters one archive into an index, and returns when it was added to the repository.
func addTo(index *repo.IndexFile, file string) (time.Time, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, fmt.Errorf("read chart: %w", err)
	}
	c, err := loader.LoadArchive(bytes.NewReader(data))
	if err != nil {
		return time.Time{}, fmt.Errorf("load chart %s: %w", filepath.Base(file), err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}, fmt.Errorf("read chart: %w", err)
	}
	sum := sha256.Sum256(data)
	if err := index.MustAdd(c.Metadata, "charts/"+filepath.Base(file), "", hex.EncodeToString(sum[:])); err != nil {
		return time.Time{}, fmt.Errorf("index chart %s: %w", filepath.Base(file), err)
	}
	versions := index.Entries[c.Metadata.Name]
	versions[len(versions)-1].Created = info.ModTime().UTC()
	return info.ModTime().UTC(), nil
}

func fileName(m *chart.Metadata) string { return m.Name + "-" + m.Version + ".tgz" }

func etagOf(data []byte) string {
	sum := sha256.Sum256(data)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}
