package helmrepo

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/getter"
	repo "helm.sh/helm/v4/pkg/repo/v1"

	"headwater.dev/dev/front"
)

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func chartFiles(version, text string) map[string]string {
	return map[string]string{
		"Chart.yaml":          "apiVersion: v2\nname: web\nversion: " + version + "\n",
		"values.yaml":         "text: " + text + "\n",
		"templates/cm.yaml":   "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {text: '{{ .Values.text }}'}\n",
		"templates/NOTES.txt": "done\n",
	}
}

// index reads the repository with Helm's own client.
func index(t *testing.T, url string) *repo.IndexFile {
	t.Helper()
	r, err := repo.NewChartRepository(&repo.Entry{Name: "test", URL: url}, getter.All(&cli.EnvSettings{}))
	if err != nil {
		t.Fatal(err)
	}
	r.CachePath = t.TempDir()
	file, err := r.DownloadIndexFile()
	if err != nil {
		t.Fatal(err)
	}
	i, err := repo.LoadIndexFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func get(t *testing.T, url, etag string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, body
}

func TestChartsComeAndGo(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{Dir: dir})
	for _, v := range []string{"1.0.0", "1.1.0", "0.9.0"} {
		if _, err := s.AddFiles(chartFiles(v, "first")); err != nil {
			t.Fatal(err)
		}
	}
	var versions []string
	for _, v := range index(t, s.URL()).Entries["web"] {
		versions = append(versions, v.Version)
	}
	if diff := cmp.Diff([]string{"1.1.0", "1.0.0", "0.9.0"}, versions); diff != "" {
		t.Errorf("versions, newest first (-want +got):\n%s", diff)
	}
	before, err := index(t, s.URL()).Get("web", "1.1.0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddFiles(chartFiles("1.1.0", "second")); err != nil {
		t.Fatal(err)
	}
	after, err := index(t, s.URL()).Get("web", "1.1.0")
	if err != nil {
		t.Fatal(err)
	}
	if before.Digest == after.Digest {
		t.Error("a replaced version kept its digest in the index")
	}
	_, _, body := get(t, s.URL()+"/"+after.URLs[0], "")
	c, err := loader.LoadArchive(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if c.Values["text"] != "second" {
		t.Errorf("the archive's values are %v", c.Values)
	}
	if err := s.Remove("web", "0.9.0"); err != nil {
		t.Fatal(err)
	}
	if index(t, s.URL()).Has("web", "0.9.0") {
		t.Error("a removed version is in the index")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := index(t, start(t, Config{Dir: dir}).URL())
	if got, err := again.Get("web", "1.1.0"); err != nil || got.Digest != after.Digest {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
}

func TestAddFromDisk(t *testing.T) {
	s := start(t, Config{})
	dir := filepath.Join(t.TempDir(), "web")
	for name, content := range chartFiles("2.0.0", "disk") {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	packed, err := s.Add(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, _, archive := get(t, packed.URL, "")
	tgz := filepath.Join(t.TempDir(), "any-name.tgz")
	if err := os.WriteFile(tgz, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	other := start(t, Config{})
	copied, err := other.Add(tgz)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, got := get(t, copied.URL, ""); !bytes.Equal(got, archive) {
		t.Error("an archive is not served byte for byte")
	}
	for name, files := range map[string]map[string]string{
		"no name":         {"Chart.yaml": "apiVersion: v2\nversion: 1.0.0\n"},
		"no semver":       {"Chart.yaml": "apiVersion: v2\nname: web\nversion: one\n"},
		"name with slash": {"Chart.yaml": "apiVersion: v2\nname: ../web\nversion: 1.0.0\n"},
		"nothing":         {},
	} {
		if _, err := s.AddFiles(files); err == nil {
			t.Errorf("a chart with %s was accepted", name)
		}
	}
}

func TestConditionalRequests(t *testing.T) {
	s := start(t, Config{})
	if _, err := s.AddFiles(chartFiles("1.0.0", "x")); err != nil {
		t.Fatal(err)
	}
	_, h, _ := get(t, s.URL()+"/index.yaml", "")
	etag := h.Get("ETag")
	if status, _, body := get(t, s.URL()+"/index.yaml", etag); status != http.StatusNotModified || len(body) != 0 {
		t.Errorf("unchanged index: status %d with %d bytes, want 304", status, len(body))
	}
	if _, err := s.AddFiles(chartFiles("1.0.1", "x")); err != nil {
		t.Fatal(err)
	}
	if status, h, _ := get(t, s.URL()+"/index.yaml", etag); status != http.StatusOK || h.Get("ETag") == etag {
		t.Errorf("changed index: status %d with the same tag: %v", status, h.Get("ETag") == etag)
	}
	n := s.Requests("GET", "index.yaml")
	if n.Requests != 3 || n.NotModified != 1 {
		t.Errorf("counted %d requests and %d not modified, want 3 and 1", n.Requests, n.NotModified)
	}
	if status, _, _ := get(t, s.URL()+"/charts/..%2f..%2fx.tgz", ""); status != http.StatusNotFound {
		t.Errorf("a path out of the directory: %d", status)
	}
}

func TestAccountsAndFaults(t *testing.T) {
	s := start(t, Config{Users: map[string]string{"ann": "secret"}})
	if status, _, _ := get(t, s.URL()+"/index.yaml", ""); status != http.StatusUnauthorized {
		t.Errorf("anonymous: %d, want 401", status)
	}
	login := strings.Replace(s.URL(), "://", "://ann:secret@", 1)
	if status, _, _ := get(t, login+"/index.yaml", ""); status != http.StatusOK {
		t.Errorf("ann: %d, want 200", status)
	}
	remove := s.Inject(front.Fault{Contains: "index.yaml", Status: http.StatusBadGateway})
	if status, _, _ := get(t, login+"/index.yaml", ""); status != http.StatusBadGateway {
		t.Errorf("with a fault: %d, want 502", status)
	}
	remove()
	if status, _, _ := get(t, login+"/index.yaml", ""); status != http.StatusOK {
		t.Errorf("after the fault: %d, want 200", status)
	}
}
