package artifact

import (
	"net/http"
	"os"
	"strings"
)

// Handler serves the published artifacts: GET and HEAD of
// /<kind>/<namespace>/<name>/<file>, with ranges. There are no listings, and
// nothing but published files can be reached.
func (s *Store) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		f, err := s.openPath(r.URL.Path)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Type", contentType(r.URL.Path))
		http.ServeContent(w, r, "", info.ModTime(), f)
	})
}

// openPath opens a published file; the path comes from outside.
func (s *Store) openPath(p string) (*os.File, error) {
	part := strings.Split(strings.TrimPrefix(p, "/"), "/")
	if len(part) != 4 || !plainName(part[3]) {
		return nil, ErrNotFound
	}
	key := Key{Kind: part[0], Namespace: part[1], Name: part[2]}
	if err := key.validate(); err != nil {
		return nil, ErrNotFound
	}
	root, err := os.OpenRoot(s.opts.Root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Open(strings.Join(part, "/"))
}

func contentType(p string) string {
	switch {
	case strings.HasSuffix(p, ".tar.gz"), strings.HasSuffix(p, ".tgz"):
		return "application/gzip"
	case strings.HasSuffix(p, ".yaml"):
		return "application/yaml"
	}
	return "application/octet-stream"
}
