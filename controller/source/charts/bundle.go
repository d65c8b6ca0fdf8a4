package charts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"sigs.k8s.io/yaml"

	"headwater.dev/kernel/artifact"
)

const (
	// MaxArchive bounds the archive of a chart in bytes.
	MaxArchive = 10 << 20
	// maxChartDir bounds the files of a chart that is not packed yet.
	maxChartDir = 100 << 20
)

// Bundle is a chart as the files of its archive, without the leading
// directory. Equal bundles give equal archives.
type Bundle struct {
	Meta  *chart.Metadata
	Files map[string][]byte
	// Missing are the dependencies that the files do not hold.
	Missing []*chart.Dependency
}

// OpenArchive reads a packed chart.
func OpenArchive(data []byte) (*Bundle, error) {
	if err := (&budget{maxUnpacked, maxEntries}).inspect(data, 0); err != nil {
		return nil, fmt.Errorf("the archive is no chart: %w", err)
	}
	c, err := loader.LoadArchive(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("the archive is no chart: %w", err)
	}
	return newBundle(c)
}

// OpenDir reads the chart in a directory or archive of a source, whose root is
// root.
func OpenDir(root, dir string) (*Bundle, error) {
	name, err := within(root, dir)
	if err != nil {
		return nil, err
	}
	size, err := measure(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the source has no path %q", dir)
	case err != nil:
		return nil, fmt.Errorf("read chart %q: %s", dir, strings.ReplaceAll(err.Error(), root, ""))
	case size > maxChartDir:
		return nil, fmt.Errorf("chart %q is larger than %d bytes", dir, maxChartDir)
	}
	if info, err := os.Stat(name); err == nil && !info.IsDir() {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read chart %q: %w", dir, err)
		}
		return OpenArchive(data)
	}
	c, err := loader.Load(name)
	if err != nil {
		return nil, fmt.Errorf("%q is no chart: %s", dir, strings.ReplaceAll(err.Error(), root, ""))
	}
	return newBundle(c)
}

// measure gives the size of a file or directory, with what the archives in it
// unpack to. Links are refused: they may lead anywhere.
func measure(root string) (int64, error) {
	size, packed := int64(0), budget{maxUnpacked, maxEntries}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return errors.New("it holds a link or device, which is refused")
		}
		if packed.entries--; packed.entries < 0 {
			return fmt.Errorf("%w: it has more than %d files", ErrBomb, maxEntries)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		size += info.Size()
		if name == root || !packedChart(filepath.ToSlash(name)) || info.Size() > MaxArchive {
			return nil
		}
		data, err := os.ReadFile(name)
		if err == nil {
			err = packed.inspect(data, 0)
		}
		if errors.Is(err, ErrBomb) {
			return err
		}
		return nil
	})
	return size, err
}

// within joins a path from a specification to a root that it must not leave.
func within(root, p string) (string, error) {
	clean := path.Clean(strings.TrimPrefix(p, "./"))
	if !filepath.IsLocal(clean) {
		return "", fmt.Errorf("path %q leaves the source", p)
	}
	return filepath.Join(root, filepath.FromSlash(clean)), nil
}

func newBundle(c *chart.Chart) (*Bundle, error) {
	if c.Metadata == nil {
		return nil, errors.New("the chart has no Chart.yaml")
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("the chart is invalid: %w", err)
	}
	b := &Bundle{Meta: c.Metadata, Files: map[string][]byte{}}
	for _, f := range c.Raw {
		b.Files[f.Name] = f.Data
	}
	have := map[string]bool{}
	for _, d := range c.Dependencies() {
		have[d.Name()] = true
	}
	for _, d := range c.Metadata.Dependencies {
		if !have[d.Name] {
			b.Missing = append(b.Missing, locked(c.Lock, d))
		}
	}
	return b, nil
}

// locked gives a dependency in the version that the lock file names, if that is
// in the range: the file does not tell apart two dependencies on one chart.
func locked(lock *chart.Lock, d *chart.Dependency) *chart.Dependency {
	if lock == nil {
		return d
	}
	for _, l := range lock.Dependencies {
		if l == nil || l.Name != d.Name || l.Repository != d.Repository {
			continue
		}
		if _, err := Pick([]string{l.Version}, d.Version); err == nil {
			pinned := *d
			pinned.Version = l.Version
			return &pinned
		}
	}
	return d
}

// SetVersion adds build metadata to the version of the chart.
func (b *Bundle) SetVersion(metadata string) error {
	version, err := WithMetadata(b.Meta.Version, metadata)
	if err != nil || version == b.Meta.Version {
		return err
	}
	var fields map[string]any
	if err := yaml.Unmarshal(b.Files["Chart.yaml"], &fields); err != nil {
		return fmt.Errorf("rewrite Chart.yaml: %w", err)
	}
	fields["version"] = version
	data, err := yaml.Marshal(fields)
	if err != nil {
		return fmt.Errorf("rewrite Chart.yaml: %w", err)
	}
	b.Meta.Version = version
	b.Files["Chart.yaml"] = data
	return nil
}

// WithMetadata gives a version with build metadata, when there is some.
func WithMetadata(version, metadata string) (string, error) {
	if metadata == "" {
		return version, nil
	}
	v, err := semver.NewVersion(version)
	if err != nil {
		return "", fmt.Errorf("chart version %q is no semantic version", version)
	}
	set, err := v.SetMetadata(metadata)
	if err != nil {
		return "", fmt.Errorf("add %q to chart version %q: %w", metadata, version, err)
	}
	return set.String(), nil
}

// MergeValues replaces the chart's values by those of files, later ones going
// before earlier ones. read gives the content of a file.
func (b *Bundle) MergeValues(files []string, ignoreMissing bool, read func(string) ([]byte, error)) ([]string, error) {
	merged := map[string]any{}
	var used []string
	for _, name := range files {
		data, err := read(name)
		if errors.Is(err, fs.ErrNotExist) && ignoreMissing {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("no values file found at path %q", name)
		}
		if err != nil {
			return nil, fmt.Errorf("read values file %q: %w", name, err)
		}
		var values map[string]any
		if err := yaml.Unmarshal(data, &values); err != nil {
			return nil, fmt.Errorf("values file %q does not parse as YAML", name)
		}
		merged = loader.MergeMaps(merged, values)
		used = append(used, name)
	}
	if len(used) == 0 {
		return nil, nil
	}
	data, err := yaml.Marshal(merged)
	if err != nil {
		return nil, fmt.Errorf("merge values files: %w", err)
	}
	b.Files["values.yaml"] = data
	return used, nil
}

// ReadOwn gives a file of the chart itself.
func (b *Bundle) ReadOwn(name string) ([]byte, error) {
	data, ok := b.Files[path.Clean(name)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return data, nil
}

// ReadTree gives a function that reads a file of a source.
func ReadTree(root string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		file, err := within(root, name)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(file)
		if err != nil {
			return nil, fs.ErrNotExist
		}
		if !info.Mode().IsRegular() || info.Size() > MaxArchive {
			return nil, errors.New("it is no file of a reasonable size")
		}
		return os.ReadFile(file)
	}
}

// Add puts a dependency into the chart. Another version of a dependency that is
// there goes beside it, as an alias may ask for.
func (b *Bundle) Add(d *Bundle) {
	dir := path.Join("charts", d.Meta.Name)
	if there, ok := b.Files[path.Join(dir, "Chart.yaml")]; ok && !bytes.Equal(there, d.Files["Chart.yaml"]) {
		dir += "-" + d.Meta.Version
	}
	for name, data := range d.Files {
		b.Files[path.Join(dir, name)] = data
	}
}

// Pack writes the archive.
func (b *Bundle) Pack(w io.Writer) error { return artifact.Pack(w, b.entries()) }

func (b *Bundle) entries() iter.Seq2[artifact.Entry, error] {
	return func(yield func(artifact.Entry, error) bool) {
		for _, name := range slices.Sorted(maps.Keys(b.Files)) {
			data := b.Files[name]
			e := artifact.Entry{Path: path.Join(b.Meta.Name, name), Size: int64(len(data)), Open: func() (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(data)), nil
			}}
			if !yield(e, nil) {
				return
			}
		}
	}
}
