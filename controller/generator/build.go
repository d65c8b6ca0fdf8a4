package generator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"

	"headwater.dev/controller/generator/compose"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/phase"
)

// build makes the artifacts, stores those that are new and writes their
// objects.
func (l *loop) build(ctx context.Context, s *scope) error {
	if s.current {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	trees, release, err := l.fetch(ctx, s)
	defer release()
	if err != nil {
		return err
	}
	outputs, err := compose.Expand(&s.obj.Spec, trees)
	if err != nil {
		return phase.Stalled(swapi.ValidationFailedReason, err)
	}
	dir, err := l.store.TempDir("generator-")
	if err != nil {
		return phase.Transient(meta.BuildFailedReason, fmt.Errorf("make room to build: %w", err))
	}
	defer os.RemoveAll(dir)
	c := compose.New(trees, dir)
	for _, o := range outputs {
		a, err := l.one(ctx, s, c, o, dir)
		if err != nil {
			return buildFailed(o.Name, err)
		}
		s.inventory = append(s.inventory, swapi.ExternalArtifactReference{
			Name: o.Name, Namespace: s.obj.Namespace, Digest: a.Digest, Filename: filepath.Base(a.Path),
		})
	}
	slices.SortFunc(s.inventory, func(a, b swapi.ExternalArtifactReference) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// fetch gives the trees of the sources; release must be called in any case.
func (l *loop) fetch(ctx context.Context, s *scope) (trees map[string]*compose.Tree, release func(), err error) {
	var held []*artifact.Tree
	release = func() {
		for _, t := range held {
			t.Release()
		}
	}
	trees = map[string]*compose.Tree{}
	for alias, in := range s.sources {
		t, err := l.reader.Tree(ctx, in.artifact)
		if err != nil {
			return nil, release, phase.Transient(swapi.SourceFetchFailedReason, fmt.Errorf("fetch artifact of source %s: %w", in.name, err))
		}
		held = append(held, t)
		if trees[alias], err = compose.List(t.Root); err != nil {
			return nil, release, phase.Transient(swapi.SourceFetchFailedReason, fmt.Errorf("source %s: %w", in.name, err))
		}
	}
	return trees, release, nil
}

// one makes one artifact and its object.
func (l *loop) one(ctx context.Context, s *scope, c *compose.Composer, o compose.Output, dir string) (*meta.Artifact, error) {
	live, err := l.claim(ctx, s, o.Name)
	if err != nil {
		return nil, err
	}
	entries, err := c.Compose(ctx, o.Copy)
	if err != nil {
		return nil, err
	}
	file, digest, err := pack(dir, func(w io.Writer) error { return artifact.Pack(w, entries) })
	if err != nil {
		return nil, err
	}
	defer os.Remove(file)
	key := artifact.Key{Kind: sourcev1.ExternalArtifactKind, Namespace: s.obj.Namespace, Name: o.Name}
	revision, metadata := s.revision(o, "sha256:"+digest)
	a := l.kept(ctx, live, "sha256:"+digest)
	if a == nil {
		published, err := l.store.Publish(ctx, artifact.Put{
			Key: key, File: digest + ".tar.gz", Latest: "latest.tar.gz", Revision: revision, Metadata: metadata,
			Write: func(w io.Writer) error { return copyFile(w, file) },
		})
		if err != nil {
			return nil, err
		}
		a = &published
		s.changed++
	}
	a.Revision, a.Metadata = revision, metadata
	if err := l.writeObject(ctx, s, o, live, a); err != nil {
		return nil, phase.Transient(meta.ReconciliationFailedReason, err)
	}
	if _, err := l.store.Collect(key, *a); err != nil {
		return nil, phase.Transient(meta.ReconciliationFailedReason, fmt.Errorf("remove old artifacts of %s: %w", key, err))
	}
	return a, nil
}

// revision is what an artifact is known by, and what it says of its origin.
func (s *scope) revision(o compose.Output, digest string) (string, map[string]string) {
	revision := "latest@" + digest
	if o.Revision != "" {
		revision = s.sources[strings.TrimPrefix(o.Revision, "@")].artifact.Revision
	}
	if o.OriginRevision == "" {
		return revision, nil
	}
	origin := s.sources[strings.TrimPrefix(o.OriginRevision, "@")].origin
	if origin == "" {
		return revision, nil
	}
	return revision, map[string]string{swapi.ArtifactOriginRevisionAnnotation: origin}
}

// kept gives the artifact that the object has already, when it has the digest
// and the store still has it.
func (l *loop) kept(ctx context.Context, live *sourcev1.ExternalArtifact, digest string) *meta.Artifact {
	if live == nil || live.Status.Artifact == nil || live.Status.Artifact.Digest != digest {
		return nil
	}
	a := live.Status.Artifact.DeepCopy()
	if l.store.Verify(ctx, *a) != nil {
		return nil
	}
	a.URL = l.store.URL(a.Path)
	return a
}

// pack writes an archive to a file in dir and gives its SHA-256.
func pack(dir string, write func(io.Writer) error) (file, digest string, err error) {
	f, err := os.CreateTemp(dir, "archive-*.tar.gz")
	if err != nil {
		return "", "", err
	}
	sum := sha256.New()
	err = write(io.MultiWriter(f, sum))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", "", err
	}
	return f.Name(), hex.EncodeToString(sum.Sum(nil)), nil
}

func copyFile(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
