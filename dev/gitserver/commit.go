package gitserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Change is the content of one commit.
type Change struct {
	Message string
	// Write maps paths to new content; files not mentioned stay.
	Write map[string]string
	// Delete lists files and folders to remove.
	Delete []string
	// Replace empties the tree first, so that the commit holds Write and nothing else.
	Replace bool
	// Orphan starts a new history: the branch then holds this commit alone, as after a forced push.
	Orphan bool
	// When is the commit's time; now when zero.
	When time.Time
}

// Commit writes files on top of a branch, which is created when missing, and returns the commit's hash.
func (s *Server) Commit(repo, branch, message string, files map[string]string) (string, error) {
	return s.CommitChange(repo, branch, Change{Message: message, Write: files})
}

// CommitDir makes a branch's tree equal to the files of a local directory (symbolic links and .git are left out).
func (s *Server) CommitDir(repo, branch, message, dir string) (string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		files[filepath.ToSlash(rel)] = string(data)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read %s for a commit to %q: %w", dir, repo, err)
	}
	return s.CommitChange(repo, branch, Change{Message: message, Write: files, Replace: true})
}

// CommitChange makes a commit on a branch, which is created when missing, and returns the commit's hash.
func (s *Server) CommitChange(repo, branch string, c Change) (string, error) {
	dir, err := s.existing(repo)
	if err != nil {
		return "", fmt.Errorf("commit: %w", err)
	}
	ref := "refs/heads/" + branch
	ctx := context.Background()
	if _, err := s.run(ctx, command{dir: dir, args: []string{"check-ref-format", ref}}); err != nil {
		return "", fmt.Errorf("commit to %q: %q is not a branch name", repo, branch)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	parent := ""
	if !c.Orphan {
		if parent, err = s.resolve(ctx, dir, ref); err != nil && !errors.Is(err, errNoRef) {
			return "", err
		}
	}
	stream, err := importStream(ref, parent, c)
	if err != nil {
		return "", fmt.Errorf("commit to %q: %w", repo, err)
	}
	if _, err := s.run(ctx, command{dir: dir, args: []string{"fast-import", "--quiet", "--force", "--date-format=raw"}, stdin: stream}); err != nil {
		return "", fmt.Errorf("commit to %q: %w", repo, err)
	}
	return s.resolve(ctx, dir, ref)
}

// Tag points a lightweight tag to a commit; a tag that exists is moved.
func (s *Server) Tag(repo, tag, sha string) error {
	dir, err := s.existing(repo)
	if err != nil {
		return fmt.Errorf("tag: %w", err)
	}
	ref := "refs/tags/" + tag
	if _, err := s.run(context.Background(), command{dir: dir, args: []string{"update-ref", "--end-of-options", ref, sha}}); err != nil {
		return fmt.Errorf("tag %s of %q as %q: %w", sha, repo, tag, err)
	}
	return nil
}

// Head is the hash of the commit at the tip of a branch.
func (s *Server) Head(repo, branch string) (string, error) {
	dir, err := s.existing(repo)
	if err != nil {
		return "", err
	}
	return s.resolve(context.Background(), dir, "refs/heads/"+branch)
}

var errNoRef = errors.New("no such branch")

func (s *Server) resolve(ctx context.Context, dir, ref string) (string, error) {
	out, err := s.run(ctx, command{dir: dir, args: []string{"for-each-ref", "--format=%(objectname) %(refname)", ref}})
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", ref, err)
	}
	for line := range strings.SplitSeq(out, "\n") {
		if sha, name, ok := strings.Cut(line, " "); ok && name == ref {
			return sha, nil
		}
	}
	return "", fmt.Errorf("resolve %s: %w", ref, errNoRef)
}

// importStream is one commit in the language of git fast-import.
func importStream(ref, parent string, c Change) ([]byte, error) {
	when := c.When
	if when.IsZero() {
		when = time.Now()
	}
	var b bytes.Buffer
	if parent == "" {
		fmt.Fprintf(&b, "reset %s\n\n", ref)
	}
	fmt.Fprintf(&b, "commit %s\ncommitter Headwater Dev <dev@headwater.dev> %d +0000\ndata %d\n%s\n",
		ref, when.Unix(), len(c.Message), c.Message)
	if parent != "" {
		fmt.Fprintf(&b, "from %s\n", parent)
	}
	if c.Replace || parent == "" {
		b.WriteString("deleteall\n")
	}
	for _, p := range c.Delete {
		quoted, err := quotePath(p)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "D %s\n", quoted)
	}
	for _, p := range slices.Sorted(maps.Keys(c.Write)) {
		quoted, err := quotePath(p)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "M 100644 inline %s\ndata %d\n%s\n", quoted, len(c.Write[p]), c.Write[p])
	}
	return b.Bytes(), nil
}

// quotePath refuses paths that leave the tree, and quotes the rest the way fast-import unquotes it.
func quotePath(p string) (string, error) {
	if p == "" || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("path %q: use a clean path relative to the repository's root", p)
	}
	if slices.Contains(strings.Split(strings.ToLower(p), "/"), ".git") {
		return "", fmt.Errorf("path %q: .git cannot be part of a tree", p)
	}
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`, "\n", `\n`).Replace(p) + `"`, nil
}
