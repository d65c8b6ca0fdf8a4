package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// mount is where builds see the artifact. No path of the machine shows.
const mount = "/artifact"

var (
	errOutside   = errors.New("outside of the artifact")
	errReadOnly  = errors.New("the artifact is read-only")
	errOwnSchema = errors.New("openapi needs a build of its own")
)

// sandbox is the file system of one build: the artifact, read-only, under a
// made-up root, with generated kustomization files laid over it. It bounds and
// records what is read. A refusal is final, because kustomize takes most
// errors for "is probably a directory" and goes on.
type sandbox struct {
	ctx    context.Context
	tree   *tree
	limits Limits
	remote bool
	alone  bool

	generated map[string][]byte // by path
	envs      map[string]bool   // paths of env files, as written in kustomizations
	keys      Decrypter         // nil: nothing is decrypted
	encrypted map[string]string // formats, by path, of files that may be encrypted
	// plugins and pluginDirs are the paths of plugin configurations, and of
	// directories of them.
	plugins, pluginDirs map[string]bool
	// patchFiles are the paths of files that are patches, and openedPatch says
	// that one of them was encrypted.
	patchFiles  map[string]bool
	openedPatch bool
	parsed      map[string][]*resource.Resource
	seen        Record
	counting    bool // kustomize reads, which takes time with the square of the objects
	documents   int64
	patches     int64 // bytes of what is applied to many objects
	sources     int64 // bytes of what generators read
	reads       int
	bytes       int64
	ownSchema   bool
	refused     error
}

func openSandbox(ctx context.Context, r Request) (*sandbox, error) {
	tree, err := openTree(r.Root, r.Files)
	if err != nil {
		return nil, err
	}
	return &sandbox{
		ctx: ctx, tree: tree, limits: r.Limits, remote: r.RemoteBases,
		keys:      r.Decrypt,
		generated: map[string][]byte{}, envs: map[string]bool{}, encrypted: map[string]string{},
		plugins: map[string]bool{}, pluginDirs: map[string]bool{}, patchFiles: map[string]bool{}, parsed: map[string][]*resource.Resource{}, seen: newRecord(),
	}, nil
}

func (s *sandbox) Close() { s.tree.Close() }

// tidy gives the error that ended the build: the first refusal if there was
// one, and never a path of this machine.
func (s *sandbox) tidy(err error) error {
	if s.refused != nil {
		return s.refused
	}
	msg := strings.ReplaceAll(err.Error(), mount+"/", "")
	if s.tree.real != "" {
		msg = strings.ReplaceAll(msg, s.tree.real, "")
	}
	return errors.New(strings.TrimSpace(strings.ReplaceAll(msg, mount, ".")))
}

func (s *sandbox) refuse(err error) error {
	if s.refused == nil {
		s.refused = err
	}
	return err
}

// rel turns a path of the build into one below the root of the artifact.
func (s *sandbox) rel(p string) (string, error) {
	if err := s.ctx.Err(); err != nil {
		return "", s.refuse(fmt.Errorf("build interrupted: %w", err))
	}
	if !path.IsAbs(p) {
		p = path.Join(mount, p)
	}
	p = path.Clean(p)
	if p == mount {
		return ".", nil
	}
	if !strings.HasPrefix(p, mount+"/") {
		return "", s.refuse(fmt.Errorf("%s is %w", strings.TrimPrefix(p, mount), errOutside))
	}
	return strings.TrimPrefix(p, mount+"/"), nil
}

// stat follows links within the artifact and records what it found.
func (s *sandbox) stat(rel string) (fs.FileInfo, error) {
	info, err := s.tree.Stat(rel)
	s.seen.kind(rel, info, err)
	if err != nil && isEscape(err) {
		return nil, s.refuse(fmt.Errorf("%s links %w", rel, errOutside))
	}
	return info, err
}

// isEscape tells the error of os.Root for links that lead out.
func isEscape(err error) bool {
	var p *fs.PathError
	return errors.As(err, &p) && strings.Contains(p.Err.Error(), "escapes")
}

func (s *sandbox) IsDir(p string) bool {
	rel, err := s.rel(p)
	if err != nil {
		return false
	}
	info, err := s.stat(rel)
	return err == nil && info.IsDir()
}

func (s *sandbox) Exists(p string) bool {
	rel, err := s.rel(p)
	if err != nil {
		return false
	}
	if _, ok := s.generated[rel]; ok {
		return true
	}
	_, err = s.stat(rel)
	return err == nil
}

// CleanedAbs implements filesys.FileSystem: links are resolved, so that cycles
// through them show.
func (s *sandbox) CleanedAbs(p string) (filesys.ConfirmedDir, string, error) {
	rel, err := s.rel(p)
	if err != nil {
		return "", "", err
	}
	info, err := s.stat(rel)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", rel, fs.ErrNotExist)
	}
	real, err := s.tree.resolve(rel)
	switch {
	case errors.Is(err, errOutside):
		return "", "", s.refuse(fmt.Errorf("%s links %w", rel, errOutside))
	case err != nil:
		return "", "", fmt.Errorf("%s: %w", rel, fs.ErrNotExist)
	}
	clean := path.Join(mount, real)
	if info.IsDir() {
		return filesys.ConfirmedDir(clean), "", nil
	}
	return filesys.ConfirmedDir(path.Dir(clean)), path.Base(clean), nil
}

// ReadFile implements filesys.FileSystem.
func (s *sandbox) ReadFile(p string) ([]byte, error) {
	rel, err := s.rel(p)
	if err != nil {
		return nil, err
	}
	if data, ok := s.generated[rel]; ok {
		if err := s.count(rel, data); err != nil {
			return nil, err
		}
		return data, s.guard(rel, data)
	}
	data, err := s.read(rel)
	if err != nil {
		return nil, err
	}
	if err := s.count(rel, data); err != nil {
		return nil, err
	}
	if err := s.guard(rel, data); err != nil {
		return nil, err
	}
	return s.plain(rel, data)
}

func (s *sandbox) read(rel string) ([]byte, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, s.refuse(interrupted(err))
	}
	info, err := s.stat(rel)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rel, fs.ErrNotExist)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", rel)
	}
	s.reads++
	s.bytes += info.Size()
	if s.reads > s.limits.Reads {
		return nil, s.refuse(fmt.Errorf("the build reads files more than %d times; do its bases include each other?", s.limits.Reads))
	}
	if s.bytes > s.limits.Bytes {
		return nil, s.refuse(fmt.Errorf("the build reads more than %d bytes", s.limits.Bytes))
	}
	data, err := s.tree.ReadFile(rel)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be read", rel)
	}
	s.seen.file(rel, data)
	return data, nil
}

// ReadDir implements filesys.FileSystem.
func (s *sandbox) ReadDir(p string) ([]string, error) {
	rel, err := s.rel(p)
	if err != nil {
		return nil, err
	}
	entries, err := s.tree.list(rel)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rel, fs.ErrNotExist)
	}
	s.seen.list(rel, entries)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Walk implements filesys.FileSystem; it does not follow links.
func (s *sandbox) Walk(p string, walk filepath.WalkFunc) error {
	rel, err := s.rel(p)
	if err != nil {
		return err
	}
	return fs.WalkDir(s.tree.files, filepath.ToSlash(rel), func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			entries, err := s.tree.list(at)
			if err != nil {
				return err
			}
			s.seen.list(at, entries)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return walk(path.Join(mount, at), info, nil)
	})
}

// Glob implements filesys.FileSystem.
func (s *sandbox) Glob(pattern string) ([]string, error) {
	rel, err := s.rel(pattern)
	if err != nil {
		return nil, err
	}
	dir := path.Dir(rel)
	if strings.ContainsAny(dir, `*?[\`) {
		return nil, fmt.Errorf("%s: patterns are allowed in the last element only", rel)
	}
	names, err := s.ReadDir(path.Join(mount, dir))
	if err != nil {
		return nil, nil // as filepath.Glob
	}
	var found []string
	for _, n := range names {
		ok, err := path.Match(path.Base(rel), n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rel, err)
		}
		if ok {
			found = append(found, path.Join(mount, dir, n))
		}
	}
	return found, nil
}

// The rest of filesys.FileSystem writes, or opens without the checks.

func (s *sandbox) Create(string) (filesys.File, error) { return nil, errReadOnly }
func (s *sandbox) Open(string) (filesys.File, error)   { return nil, errReadOnly }
func (s *sandbox) Mkdir(string) error                  { return errReadOnly }
func (s *sandbox) MkdirAll(string) error               { return errReadOnly }
func (s *sandbox) RemoveAll(string) error              { return errReadOnly }
func (s *sandbox) WriteFile(string, []byte) error      { return errReadOnly }
