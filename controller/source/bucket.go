package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/source/bucket"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/phase"
)

// maxObjects bounds how many objects of a bucket are looked at.
const maxObjects = 500_000

// bucketScope is one reconcile of a Bucket.
type bucketScope struct {
	base
	obj    *sourcev1.Bucket
	driver bucket.Driver
	// objects are the wanted objects by key.
	objects map[string]bucket.Object
}

func (l *loops) bucket() *phase.Reconciler[*sourcev1.Bucket, bucketScope] {
	return &phase.Reconciler[*sourcev1.Bucket, bucketScope]{
		Client: l.client, Live: l.host.Manager.GetAPIReader(), Events: l.events,
		FieldOwner: fieldOwner, Finalizer: sourcev1.SourceFinalizer,
		New:       func() *sourcev1.Bucket { return &sourcev1.Bucket{} },
		Suspended: func(o *sourcev1.Bucket) bool { return o.Spec.Suspend },
		Status: func(o *sourcev1.Bucket) phase.Fields {
			return phase.Fields{ObservedGeneration: &o.Status.ObservedGeneration, HandledReconcileAt: &o.Status.LastHandledReconcileAt}
		},
		Begin: func(o *sourcev1.Bucket) *bucketScope {
			return &bucketScope{base: newBase(sourcev1.BucketKind, o, &o.Status.Artifact), obj: o}
		},
		Phases: []phase.Phase[bucketScope]{
			{Name: "look for the stored artifact", Do: func(ctx context.Context, s *bucketScope) error { return l.recall(ctx, &s.base) }},
			{Name: "fetch and store what is new", Do: l.bucketFetch},
			{Name: "collect old artifacts", Do: func(_ context.Context, s *bucketScope) error {
				s.obj.Status.URL = l.store.LatestURL(s.key, "latest.tar.gz")
				return l.stored(&s.base, meta.SucceededReason, fmt.Sprintf("stored artifact: revision '%s'", s.obj.Status.Artifact.Revision))
			}},
		},
		Finalize: []phase.Phase[bucketScope]{
			{Name: "remove the artifacts", Do: func(_ context.Context, s *bucketScope) error { return l.forget(&s.base) }},
		},
		Success:  func(s *bucketScope) phase.Success { return s.success(s.obj.GetRequeueAfter()) },
		Metadata: func(s *bucketScope) map[string]string { return metadata(s.obj.Status.Artifact) },
		Gone: func(n types.NamespacedName) {
			l.gone(sourcev1.BucketKind)(n)
			l.notes(sourcev1.BucketKind).Forget(n)
		},
	}
}

// bucketFetch lists the bucket, and publishes an artifact when something in it
// changed.
func (l *loops) bucketFetch(ctx context.Context, s *bucketScope) error {
	limit := defaultTimeout
	if s.obj.Spec.Timeout != nil {
		limit = timeout(s.obj.Spec.Timeout.Duration)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done, err := l.openBucket(ctx, s)
	if err != nil {
		return fetchFailed(s.obj, err)
	}
	defer done()
	if err := l.listBucket(ctx, s); err != nil {
		return s.failed("list", err)
	}
	revision := bucket.Revision(s.objects)
	if s.obj.Status.Artifact.HasRevision(revision) && reflect.DeepEqual(s.obj.Spec.Ignore, s.obj.Status.ObservedIgnore) {
		return nil
	}
	if s.obj.Status.Artifact != nil {
		conditions.MarkTrue(s.obj, sourcev1.ArtifactOutdatedCondition, "NewRevision", "new upstream revision '%s'", revision)
	}
	dir, err := l.store.TempDir("bucket-")
	if err != nil {
		return storageFailed(s.obj, sourcev1.DirCreationFailedReason, err)
	}
	defer os.RemoveAll(dir)
	if err := bucket.Download(ctx, s.driver, s.objects, dir); err != nil {
		return s.failed("download", err)
	}
	err = l.publish(ctx, &s.base, artifact.Put{
		File: strings.TrimPrefix(revision, "sha256:") + ".tar.gz", Latest: "latest.tar.gz", Revision: revision,
		Write: func(w io.Writer) error { return artifact.Pack(w, artifact.Dir(dir, artifact.Ignore{})) },
	})
	if err != nil {
		return storageFailed(s.obj, sourcev1.ArchiveOperationFailedReason, err)
	}
	s.obj.Status.ObservedIgnore = s.obj.Spec.Ignore
	s.announce(fmt.Sprintf("stored artifact with %d fetched files from '%s' bucket", len(s.objects), s.obj.Spec.BucketName))
	return nil
}

// listBucket finds the wanted objects: those below the prefix that the bucket's
// own ignore file and the specification leave.
func (l *loops) listBucket(ctx context.Context, s *bucketScope) error {
	var rules artifact.IgnoreRules
	text, err := l.bucketIgnore(ctx, s)
	if err != nil {
		return err
	}
	rules.Add("", strings.NewReader(text))
	if s.obj.Spec.Ignore != nil {
		rules.Add("", strings.NewReader(*s.obj.Spec.Ignore))
	}
	ignore := rules.Build()
	s.objects = map[string]bucket.Object{}
	size, n := int64(0), 0
	return s.driver.List(ctx, s.obj.Spec.Prefix, func(o bucket.Object) error {
		if n++; n > maxObjects {
			return fmt.Errorf("%w: more than %d objects", bucket.ErrTooLarge, maxObjects)
		}
		if strings.HasSuffix(o.Key, "/") || o.Key == artifact.IgnoreFile {
			return nil
		}
		if err := bucket.CheckKey(o.Key); err != nil {
			return err
		}
		if ignore.Match(o.Key, false) {
			return nil
		}
		if size += o.Size; size > artifact.DefaultLimits().Bytes {
			return fmt.Errorf("%w: the objects are too large together", bucket.ErrTooLarge)
		}
		s.objects[o.Key] = o
		return nil
	})
}

// bucketIgnore gives the rules of the bucket's ignore file; nothing when it has
// none. The file is read only when its ETag changed.
func (l *loops) bucketIgnore(ctx context.Context, s *bucketScope) (string, error) {
	o, err := s.driver.Stat(ctx, artifact.IgnoreFile)
	if errors.Is(err, bucket.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	key := client.ObjectKeyFromObject(s.obj)
	id := strings.Join([]string{s.obj.Spec.Provider, s.obj.Spec.Endpoint, s.obj.Spec.BucketName, o.ETag}, "\n")
	if text, ok := l.notes(sourcev1.BucketKind).Get(key, id); ok {
		return text, nil
	}
	r, err := s.driver.Open(ctx, o)
	if err != nil {
		return "", err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return "", err
	}
	l.notes(sourcev1.BucketKind).Set(key, id, string(data))
	return string(data), nil
}

// failed decides who has to move. What the storage wrote is not repeated but
// for its code.
func (s *bucketScope) failed(doing string, err error) error {
	name := s.obj.Spec.BucketName
	reason := sourcev1.BucketOperationFailedReason
	switch {
	case errors.Is(err, bucket.ErrDisk):
		return storageFailed(s.obj, sourcev1.ArchiveOperationFailedReason, fmt.Errorf("failed to store the objects of bucket '%s': %w", name, err))
	case errors.Is(err, bucket.ErrNoBucket):
		return fetchFailed(s.obj, phase.Transient(reason, fmt.Errorf("bucket '%s' not found", name)))
	case errors.Is(err, bucket.ErrDenied):
		reason = sourcev1.AuthenticationFailedReason
	}
	return fetchFailed(s.obj, phase.Transient(reason, fmt.Errorf("failed to %s objects of bucket '%s': %w", doing, name, bucket.Plain(err))))
}

// bucketSecrets names the Secrets whose change concerns the bucket.
func bucketSecrets(o client.Object) []string {
	spec := o.(*sourcev1.Bucket).Spec
	refs := []*meta.LocalObjectReference{spec.SecretRef, spec.CertSecretRef, spec.ProxySecretRef}
	if spec.STS != nil {
		refs = append(refs, spec.STS.SecretRef, spec.STS.CertSecretRef)
	}
	return names(refs...)
}

// bucketRemote names the storage, for the gate.
func bucketRemote(o client.Object) string {
	b := o.(*sourcev1.Bucket)
	if b.Spec.Suspend {
		return ""
	}
	return b.Spec.Endpoint
}
