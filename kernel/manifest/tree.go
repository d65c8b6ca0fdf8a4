package manifest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// tree is the content of an artifact: a directory that nothing outside of is
// reached from, links included, or files that are in none.
type tree struct {
	files fs.FS
	root  *os.Root // nil for files in no directory
	real  string   // where root is
}

func openTree(dir string, files fs.FS) (*tree, error) {
	if files != nil {
		return &tree{files: files}, nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("open artifact: %w", err)
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return nil, fmt.Errorf("open artifact: %w", err)
	}
	return &tree{files: root.FS(), root: root, real: real}, nil
}

// Close gives the directory back.
func (t *tree) Close() {
	if t.root != nil {
		_ = t.root.Close()
	}
}

// Stat follows links.
func (t *tree) Stat(rel string) (fs.FileInfo, error) {
	if t.root != nil {
		return t.root.Stat(rel)
	}
	return fs.Stat(t.files, filepath.ToSlash(rel))
}

// ReadFile follows links.
func (t *tree) ReadFile(rel string) ([]byte, error) {
	if t.root != nil {
		return t.root.ReadFile(rel)
	}
	return fs.ReadFile(t.files, filepath.ToSlash(rel))
}

// list gives the entries of a directory in the order of their names.
func (t *tree) list(rel string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(t.files, filepath.ToSlash(rel))
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	return entries, err
}

// resolve is the path below the root, with slashes, of what a path leads to;
// links that lead out are errOutside.
func (t *tree) resolve(rel string) (string, error) {
	if t.root == nil {
		return filepath.ToSlash(rel), nil
	}
	real, err := filepath.EvalSymlinks(filepath.Join(t.real, rel))
	if err != nil {
		return "", err
	}
	if real != t.real && !strings.HasPrefix(real, t.real+string(filepath.Separator)) {
		return "", errOutside
	}
	return filepath.ToSlash(strings.TrimPrefix(real, t.real)), nil
}
