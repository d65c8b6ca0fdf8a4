package helmrepo

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
)

// Chart names one version of a chart in the repository.
type Chart struct {
	Name, Version string
	// URL is the archive's address.
	URL string
}

// Add takes a chart directory, which is packaged, or a .tgz archive, which is served byte for byte. A version that the
// repository has already is replaced.
func (s *Server) Add(path string) (Chart, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Chart{}, fmt.Errorf("add chart: %w", err)
	}
	if !info.IsDir() {
		data, err := os.ReadFile(path)
		if err != nil {
			return Chart{}, fmt.Errorf("add chart: %w", err)
		}
		return s.AddArchive(data)
	}
	c, err := loader.LoadDir(path)
	if err != nil {
		return Chart{}, fmt.Errorf("add chart from %s: %w", path, err)
	}
	return s.pack(c)
}

// AddFiles packages a chart given as its files: paths relative to the chart's root ("Chart.yaml", "templates/x.yaml")
// and their content.
func (s *Server) AddFiles(files map[string]string) (Chart, error) {
	var buffered []*archive.BufferedFile
	for _, name := range slices.Sorted(maps.Keys(files)) {
		buffered = append(buffered, &archive.BufferedFile{Name: name, Data: []byte(files[name])})
	}
	c, err := loader.LoadFiles(buffered)
	if err != nil {
		return Chart{}, fmt.Errorf("add chart: %w", err)
	}
	return s.pack(c)
}

// AddArchive takes the bytes of a .tgz archive.
func (s *Server) AddArchive(data []byte) (Chart, error) {
	c, err := loader.LoadArchive(bytes.NewReader(data))
	if err != nil {
		return Chart{}, fmt.Errorf("add chart archive: %w", err)
	}
	if err := c.Validate(); err != nil {
		return Chart{}, fmt.Errorf("add chart archive: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	file := filepath.Join(s.charts, fileName(c.Metadata))
	if filepath.Dir(file) != s.charts {
		return Chart{}, fmt.Errorf("add chart archive: name %q and version %q do not make a file name", c.Metadata.Name, c.Metadata.Version)
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return Chart{}, fmt.Errorf("add chart %s: %w", filepath.Base(file), err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return Chart{}, fmt.Errorf("add chart %s: %w", filepath.Base(file), err)
	}
	if err := s.reindex(); err != nil {
		return Chart{}, err
	}
	return Chart{Name: c.Metadata.Name, Version: c.Metadata.Version, URL: s.URL() + "/charts/" + filepath.Base(file)}, nil
}

// Remove takes a version out of the repository; one that is not there is no error.
func (s *Server) Remove(name, version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	file := fileName(&chart.Metadata{Name: name, Version: version})
	if file != filepath.Base(file) {
		return fmt.Errorf("remove chart: name %q and version %q do not make a file name", name, version)
	}
	if err := os.Remove(filepath.Join(s.charts, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove chart: %w", err)
	}
	return s.reindex()
}

func (s *Server) pack(c *chart.Chart) (Chart, error) {
	tmp, err := os.MkdirTemp("", "chart-")
	if err != nil {
		return Chart{}, fmt.Errorf("package chart %s: %w", c.Name(), err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	file, err := chartutil.Save(c, tmp)
	if err != nil {
		return Chart{}, fmt.Errorf("package chart %s: %w", c.Name(), err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return Chart{}, fmt.Errorf("package chart %s: %w", c.Name(), err)
	}
	return s.AddArchive(data)
}
