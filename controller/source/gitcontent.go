package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/git"
	"headwater.dev/kernel/git/signature"
	"headwater.dev/kernel/git/worktree"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/secret"
)

// The reasons of the conditions SourceVerified and IncludeUnavailable, as
// upstream has them.
const (
	verificationError       = "VerificationError"
	invalidVerificationMode = "InvalidVerificationMode"
	invalidGitObject        = "InvalidGitObject"
	invalidTagSignature     = "InvalidTagSignature"
	invalidCommitSignature  = "InvalidCommitSignature"
	includeNotFound         = "NotFound"
	includeNoArtifact       = "NoArtifact"
	includeCycle            = "IncludeCycle"
	copyFailure             = "CopyFailure"
)

// gitKeys are the trusted keys, and what tells them from others.
type gitKeys struct {
	signature.Keys
	sum [32]byte
}

// readKeys reads the keys of spec.verify.
func (g *gitLoop) readKeys(ctx context.Context, s *gitScope) error {
	v := s.obj.Spec.Verification
	if v == nil {
		s.obj.Status.SourceVerificationMode = nil
		conditions.Delete(s.obj, sourcev1.SourceVerifiedCondition)
		return nil
	}
	name := v.SecretRef.Name
	data, err := secret.Load(ctx, g.client, s.obj.GetNamespace(), name)
	switch {
	case errors.Is(err, secret.ErrMissing):
		return unverified(s.obj, phase.Waiting(verificationError, g.host.Options.RequeueDependency, fmt.Errorf("spec.verify.secretRef: public keys secret error: %w", err)))
	case err != nil:
		return unverified(s.obj, phase.Transient(verificationError, fmt.Errorf("spec.verify.secretRef: public keys secret error: %w", err)))
	}
	if s.keys.Keys, err = signature.ParseKeys(data.Data); err != nil {
		return unverified(s.obj, phase.Stalled(verificationError, fmt.Errorf("spec.verify.secretRef: Secret %q: %w", name, err)))
	}
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(data.Data)) {
		fmt.Fprintf(h, "%d:%s%d:%s", len(key), key, len(data.Data[key]), data.Data[key])
	}
	s.keys.sum = [32]byte(h.Sum(nil))
	return nil
}

// unverified notes that the source is not to be trusted.
func unverified(o *sourcev1.GitRepository, err error) error {
	e := phase.Classify(err)
	conditions.MarkFalse(o, sourcev1.SourceVerifiedCondition, e.Reason, "%s", e.Error())
	return err
}

// proof is what a verification depended on: object, commit, mode and keys.
func (s *gitScope) proof(t git.Target) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s %x", t.Object, t.Commit, t.Tag, s.obj.Spec.Verification.GetMode(), s.keys.sum))
}

// isVerified reports whether the target was verified with the keys of now.
// What is not known any more is verified again: it needs no request when the
// mirror has the commit.
func (g *gitLoop) isVerified(s *gitScope, t git.Target) bool {
	v := s.obj.Spec.Verification
	if v == nil {
		return true
	}
	last, ok := g.verified.Load(client.ObjectKeyFromObject(s.obj))
	return ok && last == s.proof(t) && conditions.IsTrue(s.obj, sourcev1.SourceVerifiedCondition) &&
		s.obj.Status.SourceVerificationMode != nil && *s.obj.Status.SourceVerificationMode == v.GetMode()
}

// verify checks the signatures that spec.verify asks for.
func (g *gitLoop) verify(s *gitScope, snapshot *git.Snapshot) error {
	v := s.obj.Spec.Verification
	if v == nil {
		return nil
	}
	conditions.Delete(s.obj, sourcev1.FetchFailedCondition)
	var by []string
	if v.VerifyTag() {
		message, err := s.verifyTag(snapshot)
		if err != nil {
			return unverified(s.obj, err)
		}
		by = append(by, message)
	}
	if v.VerifyHEAD() {
		message, err := s.verifyCommit(snapshot)
		if err != nil {
			return unverified(s.obj, err)
		}
		by = append(by, message)
	}
	mode := v.GetMode()
	s.obj.Status.SourceVerificationMode = &mode
	conditions.MarkTrue(s.obj, sourcev1.SourceVerifiedCondition, meta.SucceededReason, "%s", "verified signature of\n\t- "+strings.Join(by, "\n\t- "))
	g.verified.Store(client.ObjectKeyFromObject(s.obj), s.proof(snapshot.Target))
	return nil
}

func (s *gitScope) verifyTag(snapshot *git.Snapshot) (string, error) {
	t := snapshot.Target
	if t.Tag == "" {
		return "", phase.Stalled(invalidVerificationMode, errors.New("cannot verify tag object's signature if a tag reference is not specified: set spec.ref.tag, spec.ref.semver or a tag's spec.ref.name, or spec.verify.mode HEAD"))
	}
	if snapshot.Tag == nil {
		return "", phase.Transient(invalidGitObject, fmt.Errorf("cannot verify signature of tag '%s' since it is not signed", t.Tag))
	}
	payload, sig := snapshot.Tag.Signed()
	if len(sig) == 0 {
		return "", phase.Transient(invalidGitObject, fmt.Errorf("cannot verify signature of tag '%s' since it is not signed", snapshot.Tag))
	}
	key, err := s.keys.Verify(payload, sig)
	if err == nil && snapshot.Tag.Name != t.Tag {
		err = fmt.Errorf("it was signed as tag '%s' and is offered as '%s'", snapshot.Tag, t.Tag)
	}
	if err != nil {
		return "", phase.Transient(invalidTagSignature, fmt.Errorf("signature verification of tag '%s' failed: %w", snapshot.Tag, err))
	}
	return fmt.Sprintf("tag '%s' with key '%s'", snapshot.Tag, key), nil
}

func (s *gitScope) verifyCommit(snapshot *git.Snapshot) (string, error) {
	payload, sig, err := snapshot.Commit.Signed()
	key := ""
	if err == nil {
		key, err = s.keys.Verify(payload, sig)
	}
	if err != nil {
		return "", phase.Transient(invalidCommitSignature, fmt.Errorf("signature verification of commit '%s' failed: %w", snapshot.Commit.Hash, err))
	}
	return fmt.Sprintf("commit '%s' with key '%s'", snapshot.Commit.Hash, key), nil
}

// gitIncludes names the repositories that one includes.
func gitIncludes(o client.Object) []string {
	var keys []string
	for _, i := range o.(*sourcev1.GitRepository).Spec.Include {
		keys = append(keys, sourcev1.GitRepositoryKind+"/"+i.GitRepositoryRef.Name)
	}
	return keys
}

// findIncludes waits until every included repository has an artifact. Their
// changes wake the object.
func (g *gitLoop) findIncludes(ctx context.Context, s *gitScope) error {
	o := s.obj
	unavailable := func(reason, format string, args ...any) error {
		err := fmt.Errorf(format, args...)
		conditions.MarkTrue(o, sourcev1.IncludeUnavailableCondition, reason, "%s", err)
		return phase.Waiting(reason, g.host.Options.RequeueDependency, err)
	}
	s.includes = nil
	for i, include := range o.Spec.Include {
		var dep sourcev1.GitRepository
		name := include.GitRepositoryRef.Name
		err := g.client.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: name}, &dep)
		switch {
		case apierrors.IsNotFound(err):
			return unavailable(includeNotFound, "could not get resource for include '%s': spec.include[%d]: %w", name, i, err)
		case err != nil:
			return err
		}
		if chain := g.cycle(ctx, o, &dep); chain != nil {
			err := fmt.Errorf("spec.include[%d]: repositories include each other: %s", i, strings.Join(chain, " -> "))
			conditions.MarkTrue(o, sourcev1.IncludeUnavailableCondition, includeCycle, "%s", err)
			return phase.Stalled(includeCycle, err)
		}
		if dep.Status.Artifact == nil {
			return unavailable(includeNoArtifact, "no artifact available for include '%s'", name)
		}
		s.includes = append(s.includes, dep.Status.Artifact.DeepCopy())
	}
	conditions.Delete(o, sourcev1.IncludeUnavailableCondition)
	return nil
}

// maxIncluded is how many repositories are looked at for cycles.
const maxIncluded = 100

// cycle gives the way on which a repository includes itself through another
// one, or nil. Every new artifact of one would make one of the other, for ever.
func (g *gitLoop) cycle(ctx context.Context, o, first *sourcev1.GitRepository) []string {
	seen := map[string]bool{}
	var visit func(r *sourcev1.GitRepository, way []string) []string
	visit = func(r *sourcev1.GitRepository, way []string) []string {
		way = append(way, r.Name)
		if r.Name == o.Name {
			return way
		}
		if seen[r.Name] || len(seen) > maxIncluded {
			return nil
		}
		seen[r.Name] = true
		for _, i := range r.Spec.Include {
			var next sourcev1.GitRepository
			if g.client.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: i.GitRepositoryRef.Name}, &next) != nil {
				continue
			}
			if found := visit(&next, way); found != nil {
				return found
			}
		}
		return nil
	}
	return visit(first, []string{o.Name})
}

// sameIncludes reports whether the stored artifact includes what it should.
func (s *gitScope) sameIncludes() bool {
	o := s.obj
	if !slices.Equal(o.Spec.Include, o.Status.ObservedInclude) || len(s.includes) != len(o.Status.IncludedArtifacts) {
		return false
	}
	for i, a := range s.includes {
		if old := o.Status.IncludedArtifacts[i]; old == nil || !old.HasRevision(a.Revision) || !old.HasDigest(a.Digest) {
			return false
		}
	}
	return true
}

// content is what an artifact is made of.
type content struct {
	entries iter.Seq2[artifact.Entry, error]
	close   func()
}

// compose gives the files of a commit, with its submodules and includes.
func (g *gitLoop) compose(ctx context.Context, s *gitScope, snapshot *git.Snapshot, remote *git.Remote) (content, error) {
	spec := s.obj.Spec
	if !spec.RecurseSubmodules && len(spec.Include) == 0 {
		files := snapshot.Files(git.Selection{Ignore: spec.Ignore, Directories: spec.SparseCheckout})
		return content{entries: files, close: func() {}}, nil
	}
	tree := worktree.New()
	var release []func()
	c := content{entries: tree.Files(spec.Ignore), close: func() {
		tree.Close()
		for _, r := range release {
			r()
		}
	}}
	var modules *worktree.Modules
	if spec.RecurseSubmodules {
		modules = &worktree.Modules{Mirrors: g.mirrors, Remote: remote}
	}
	if err := tree.Add(ctx, snapshot, spec.SparseCheckout, modules); err != nil {
		c.close()
		return content{}, s.fetchFailed(context.WithoutCancel(ctx), "failed to checkout", err)
	}
	for i, include := range spec.Include {
		dir, err := g.reader.Tree(ctx, *s.includes[i])
		if err == nil {
			release = append(release, dir.Release)
			err = tree.Include(dir.Root, include.GetFromPath(), include.GetToPath())
		}
		if err != nil {
			c.close()
			return content{}, storageFailed(s.obj, copyFailure, fmt.Errorf("failed to copy '%s' include from %s to %s: %w", include.GitRepositoryRef.Name, include.GetFromPath(), include.GetToPath(), err))
		}
	}
	return c, nil
}
