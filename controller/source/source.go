// Package source reconciles the kinds of source.toolkit.fluxcd.io: it fetches
// what a source points to and publishes it as an artifact.
//
// Every kind is one file with its list of phases. A reconcile that finds
// nothing new costs one question to the remote and no write. Workers are many
// and a remote gets only a few of them at a time, so that a remote which hangs
// delays nobody but itself.
package source

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/source/memo"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/cloud"
	"headwater.dev/kernel/event"
	"headwater.dev/kernel/git"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/verify"
)

// fieldOwner is who writes our fields, and the name in events.
const fieldOwner = "source-controller"

// defaultTimeout bounds one conversation with a remote.
const defaultTimeout = time.Minute

// packTimeout bounds making an artifact of what was fetched.
const packTimeout = 5 * time.Minute

// loops is what the reconcilers of this package share.
type loops struct {
	host    *host.Host
	client  client.Client
	store   *artifact.Store
	reader  artifact.Reader
	mirrors *git.Mirrors
	clouds  *cloud.Providers
	events  *event.Recorder
	// packing holds a place for every archive that may be made at a time.
	packing chan struct{}
	// sigstore is the public instance that keyless signatures are checked
	// against.
	sigstore *verify.Instance
}

// base is the part of a scope that all kinds have.
type base struct {
	obj phase.Object
	key artifact.Key
	// artifact points into the status of obj.
	artifact **meta.Artifact
	// failed says that the object was not ready before.
	failed bool
	event  *event.Event
}

func newBase(kind string, obj phase.Object, a **meta.Artifact) base {
	return base{
		obj: obj, artifact: a, failed: conditions.IsFalse(obj, meta.ReadyCondition),
		key: artifact.Key{Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName()},
	}
}

// notes are what was learned about the objects of a kind: of a Bucket the rules
// of its ignore file, of a HelmRepository the ETag of its index, of an
// OCIRepository and a HelmChart what its signature was checked for.
func (l *loops) notes(kind string) memo.Notes {
	return memo.Notes{Dir: filepath.Join(l.host.Options.StoragePath, "notes", strings.ToLower(kind))}
}

// recall checks that the store still has the artifact that the status names;
// otherwise there is none. It never fails the chain for that.
func (l *loops) recall(ctx context.Context, b *base) error {
	a := *b.artifact
	if a == nil {
		conditions.Delete(b.obj, sourcev1.ArtifactInStorageCondition)
		return nil
	}
	err := l.store.Verify(ctx, *a)
	switch {
	case err == nil:
		if url := l.store.URL(a.Path); a.URL != url {
			a.URL = url
		}
	case errors.Is(err, artifact.ErrNotFound), errors.Is(err, artifact.ErrDigest):
		*b.artifact = nil
		conditions.Delete(b.obj, sourcev1.ArtifactInStorageCondition)
	default:
		return storageFailed(b.obj, sourcev1.StatOperationFailedReason, err)
	}
	return nil
}

// publish makes the artifact of an object and collects those it replaced.
func (l *loops) publish(ctx context.Context, b *base, p artifact.Put) error {
	select {
	case l.packing <- struct{}{}:
		defer func() { <-l.packing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, packTimeout)
	defer cancel()
	p.Key = b.key
	a, err := l.store.Publish(ctx, p)
	if err != nil {
		conditions.MarkTrue(b.obj, sourcev1.ArtifactOutdatedCondition, "NewRevision", "new upstream revision '%s'", p.Revision)
		return err
	}
	*b.artifact = &a
	return nil
}

// stored sets the conditions of an object whose artifact is current, and frees
// the room of those that were replaced.
func (l *loops) stored(b *base, reason, message string) error {
	a := *b.artifact
	conditions.MarkTrue(b.obj, sourcev1.ArtifactInStorageCondition, reason, "%s", message)
	for _, c := range []string{sourcev1.FetchFailedCondition, sourcev1.ArtifactOutdatedCondition, sourcev1.BuildFailedCondition, sourcev1.StorageOperationFailedCondition} {
		conditions.Delete(b.obj, c)
	}
	if _, err := l.store.Collect(b.key, *a); err != nil {
		return storageFailed(b.obj, "GarbageCollectionFailed", err)
	}
	return nil
}

// announce records that there is a new artifact.
func (b *base) announce(message string) {
	a := *b.artifact
	b.event = &event.Event{Severity: event.Info, Reason: "NewArtifact", Message: message, Metadata: metadata(a)}
}

func metadata(a *meta.Artifact) map[string]string {
	if a == nil {
		return nil
	}
	return map[string]string{
		sourcev1.GroupVersion.Group + "/" + eventv1.MetaRevisionKey: a.Revision,
		sourcev1.GroupVersion.Group + "/" + eventv1.MetaDigestKey:   a.Digest,
	}
}

// success says what Ready means once the artifact is stored.
func (b *base) success(interval time.Duration) phase.Success {
	stored := conditions.Get(b.obj, sourcev1.ArtifactInStorageCondition)
	s := phase.Success{Reason: stored.Reason, Message: stored.Message, Interval: interval, Event: b.event}
	if s.Event == nil && b.failed {
		s.Event = &event.Event{Severity: event.Info, Reason: meta.SucceededReason, Message: s.Message, Metadata: metadata(*b.artifact)}
	}
	return s
}

// forget removes everything that an object published.
func (l *loops) forget(b *base) error {
	if err := l.store.Remove(b.key); err != nil {
		return phase.Transient("GarbageCollectionFailed", err)
	}
	return nil
}

// fetchFailed notes that the remote, or the way to it, is at fault.
func fetchFailed(obj phase.Object, err error) error {
	e := phase.Classify(err)
	conditions.MarkTrue(obj, sourcev1.FetchFailedCondition, e.Reason, "%s", e.Error())
	return err
}

// storageFailed notes that our own disk is at fault.
func storageFailed(obj phase.Object, reason string, err error) error {
	conditions.MarkTrue(obj, sourcev1.StorageOperationFailedCondition, reason, "%s", err)
	return phase.Transient(reason, err)
}

func timeout(d time.Duration) time.Duration {
	if d <= 0 {
		return defaultTimeout
	}
	return d
}

// gone is what a kind does about an object that does not exist any more.
func (l *loops) gone(kind string) func(types.NamespacedName) {
	return func(n types.NamespacedName) {
		// With a finalizer this was done; without one it is the last chance,
		// and a failure is made good by the janitor.
		_ = l.store.Remove(artifact.Key{Kind: kind, Namespace: n.Namespace, Name: n.Name})
	}
}
