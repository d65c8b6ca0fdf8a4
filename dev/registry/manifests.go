package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const maxManifest = 8 << 20

// manifests keeps every manifest that the registry behind it has accepted in a file, and replays the files at start:
// the registry itself has manifests in memory only.
type manifests struct {
	dir  string
	next http.Handler
	mu   sync.Mutex
}

// stored is the file of one manifest.
type stored struct {
	Path        string    `json:"path"` // of the request: /v2/NAME/manifests/REFERENCE
	ContentType string    `json:"contentType"`
	Content     []byte    `json:"content"`
	Pushed      time.Time `json:"pushed"`
}

func keepManifests(dir string, next http.Handler) (*manifests, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep manifests: %w", err)
	}
	m := &manifests{dir: dir, next: next}
	return m, m.replay()
}

// replay puts the kept manifests back. An index needs what it lists to be there first, so those that are refused are
// tried again as long as others succeed.
func (m *manifests) replay() error {
	files, err := filepath.Glob(filepath.Join(m.dir, "*.json"))
	if err != nil {
		return fmt.Errorf("list manifests: %w", err)
	}
	for len(files) > 0 {
		var refused []string
		for _, f := range files {
			ok, err := m.put(f)
			if err != nil {
				return err
			}
			if !ok {
				refused = append(refused, f)
			}
		}
		if len(refused) == len(files) {
			return fmt.Errorf("manifest %s cannot be restored, its layers are gone; remove the file", refused[0])
		}
		files = refused
	}
	return nil
}

func (m *manifests) put(file string) (bool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("restore manifest: %w", err)
	}
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return false, fmt.Errorf("restore manifest %s: %w", file, err)
	}
	r := httptest.NewRequest(http.MethodPut, s.Path, bytes.NewReader(s.Content))
	r.Header.Set("Content-Type", s.ContentType)
	w := httptest.NewRecorder()
	m.next.ServeHTTP(w, r)
	return w.Code < 300, nil
}

// ServeHTTP passes requests on, and follows what they do to manifests.
func (m *manifests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.URL.Path, "/manifests/") || r.Method != http.MethodPut && r.Method != http.MethodDelete {
		m.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	if err != nil {
		http.Error(w, "read the manifest: "+err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	m.mu.Lock()
	defer m.mu.Unlock()
	answer := httptest.NewRecorder()
	m.next.ServeHTTP(answer, r)
	if answer.Code < 300 {
		if err := m.keep(r, body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func (m *manifests) keep(r *http.Request, body []byte) error {
	sum := sha256.Sum256([]byte(r.URL.Path)) // as a path may be longer than a file name can be
	file := filepath.Join(m.dir, hex.EncodeToString(sum[:])+".json")
	if r.Method == http.MethodDelete {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget manifest: %w", err)
		}
		return nil
	}
	data, err := json.Marshal(stored{Path: r.URL.Path, ContentType: r.Header.Get("Content-Type"), Content: body, Pushed: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	return nil
}
