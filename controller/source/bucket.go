package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/phase"
)

// maxObjects bounds how many objects of a bucket are looked at.
const maxObjects = 500_000

// bucketScope is one reconcile of a Bucket.
type bucketScope struct {
	base
	obj    *sourcev1.Bucket
	client *minio.Client
	// objects are the sizes and ETags of the wanted objects by key.
	objects map[string]minio.ObjectInfo
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
			{Name: "check the specification", Do: checkBucket},
			{Name: "look for the stored artifact", Do: func(ctx context.Context, s *bucketScope) error { return l.recall(ctx, &s.base) }},
			{Name: "read the credentials", Do: l.bucketClient},
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
		Gone:     l.gone(sourcev1.BucketKind),
	}
}

// checkBucket refuses what cannot work, before anything is done.
func checkBucket(_ context.Context, s *bucketScope) error {
	spec := s.obj.Spec
	unsupported := ""
	switch p := spec.Provider; {
	case p == sourcev1.BucketProviderAmazon && spec.SecretRef == nil:
		unsupported = "spec.provider: \"aws\" needs spec.secretRef with accesskey and secretkey: identities of the node are not supported"
	case p != "" && p != sourcev1.BucketProviderGeneric && p != sourcev1.BucketProviderAmazon:
		unsupported = fmt.Sprintf("spec.provider: %q is not supported: use \"generic\" for S3-compatible storage", p)
	case spec.STS != nil:
		unsupported = "spec.sts: temporary credentials are not supported: use spec.secretRef"
	case spec.ServiceAccountName != "":
		unsupported = "spec.serviceAccountName: it is not supported: use spec.secretRef"
	}
	if unsupported != "" {
		return fetchFailed(s.obj, phase.Stalled(sourcev1.InvalidProviderConfigurationReason, errors.New(unsupported)))
	}
	return nil
}

// bucketClient makes the client of the storage.
func (l *loops) bucketClient(ctx context.Context, s *bucketScope) error {
	spec := s.obj.Spec
	o := &minio.Options{Creds: credentials.NewStaticV4("", "", ""), Secure: !spec.Insecure, Region: spec.Region, MaxRetries: 1}
	transport, err := minio.DefaultTransport(o.Secure)
	if err != nil {
		return fetchFailed(s.obj, phase.Transient(sourcev1.BucketOperationFailedReason, err))
	}
	o.Transport = transport
	if spec.SecretRef != nil {
		data, err := l.secret(ctx, s.obj, spec.SecretRef.Name)
		if err != nil {
			return fetchFailed(s.obj, err)
		}
		access, secret := string(data.Data["accesskey"]), string(data.Data["secretkey"])
		if access == "" || secret == "" {
			return fetchFailed(s.obj, badSecret(fmt.Errorf("secret %q: accesskey and secretkey must be set", data.Ref)))
		}
		o.Creds = credentials.NewStaticV4(access, secret, "")
	}
	if spec.CertSecretRef != nil {
		if transport.TLSClientConfig, err = l.certificates(ctx, s.obj, spec.CertSecretRef.Name); err != nil {
			return fetchFailed(s.obj, err)
		}
	}
	if spec.ProxySecretRef != nil {
		u, err := l.proxy(ctx, s.obj, spec.ProxySecretRef.Name)
		if err != nil {
			return fetchFailed(s.obj, err)
		}
		transport.Proxy = http.ProxyURL(u)
	}
	if s.client, err = minio.New(spec.Endpoint, o); err != nil {
		return fetchFailed(s.obj, phase.Stalled(sourcev1.URLInvalidReason, errors.New("spec.endpoint: want <host> or <host>:<port> without a scheme")))
	}
	return nil
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
	if err := s.list(ctx); err != nil {
		return fetchFailed(s.obj, s.classify("list", err))
	}
	revision := s.revision()
	if s.obj.Status.Artifact.HasRevision(revision) && reflect.DeepEqual(s.obj.Spec.Ignore, s.obj.Status.ObservedIgnore) {
		return nil
	}
	dir, err := l.store.TempDir("bucket-")
	if err != nil {
		return storageFailed(s.obj, sourcev1.DirCreationFailedReason, err)
	}
	defer os.RemoveAll(dir)
	if err := s.download(ctx, dir); err != nil {
		return fetchFailed(s.obj, s.classify("download", err))
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

// list finds the wanted objects: those below the prefix that the bucket's own
// ignore file and the specification leave.
func (s *bucketScope) list(ctx context.Context) error {
	var rules artifact.IgnoreRules
	data, err := s.ignoreFile(ctx)
	if err != nil {
		return err
	}
	rules.Add("", bytes.NewReader(data))
	if s.obj.Spec.Ignore != nil {
		rules.Add("", strings.NewReader(*s.obj.Spec.Ignore))
	}
	ignore := rules.Build()
	s.objects = map[string]minio.ObjectInfo{}
	size, n := int64(0), 0
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for o := range s.client.ListObjects(ctx, s.obj.Spec.BucketName, minio.ListObjectsOptions{Prefix: s.obj.Spec.Prefix, Recursive: true}) {
		if o.Err != nil {
			return o.Err
		}
		if n++; n > maxObjects {
			return fmt.Errorf("%w: more than %d objects", artifact.ErrTooLarge, maxObjects)
		}
		if strings.HasSuffix(o.Key, "/") || o.Key == artifact.IgnoreFile {
			continue
		}
		if !safeKey(o.Key) {
			return fmt.Errorf("%w: object key %.200q cannot be a file", artifact.ErrUnsafe, o.Key)
		}
		if ignore.Match(o.Key, false) {
			continue
		}
		if size += o.Size; size > artifact.DefaultLimits().Bytes {
			return fmt.Errorf("%w: the objects are too large together", artifact.ErrTooLarge)
		}
		s.objects[o.Key] = o
	}
	return ctx.Err()
}

// safeKey reports whether an object's key can be the path of a file.
func safeKey(key string) bool {
	return filepath.IsLocal(key) && !strings.ContainsAny(key, "\\\x00") && !strings.Contains(key, "//") &&
		!slices.Contains(strings.Split(key, "/"), ".") && !slices.Contains(strings.Split(key, "/"), "..")
}

// ignoreFile gives the bucket's ignore file; nothing when it has none.
func (s *bucketScope) ignoreFile(ctx context.Context) ([]byte, error) {
	r, err := s.client.GetObject(ctx, s.obj.Spec.BucketName, artifact.IgnoreFile, minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return nil, nil
	}
	return data, err
}

// revision is the digest of all keys with their ETags.
func (s *bucketScope) revision() string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		fmt.Fprintf(h, "%s %s\n", key, s.objects[key].ETag)
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}

// download writes the objects to files below dir, in the state in which they
// were listed.
func (s *bucketScope) download(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for key, o := range s.objects {
		g.Go(func() error { return s.one(ctx, root, key, o) })
	}
	return g.Wait()
}

func (s *bucketScope) one(ctx context.Context, root *os.Root, key string, o minio.ObjectInfo) error {
	var opts minio.GetObjectOptions
	if err := opts.SetMatchETag(o.ETag); err != nil {
		return err
	}
	r, err := s.client.GetObject(ctx, s.obj.Spec.BucketName, key, opts)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := root.MkdirAll(filepath.Dir(key), 0o700); err != nil {
		return fmt.Errorf("%w: object key %.200q is below another object", artifact.ErrUnsafe, key)
	}
	f, err := root.OpenFile(key, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("%w: object key %.200q is a folder of other objects", artifact.ErrUnsafe, key)
	}
	n, err := io.Copy(f, io.LimitReader(r, o.Size+1))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil && n != o.Size {
		err = fmt.Errorf("object %.200q changed while it was read", key)
	}
	return err
}

// classify decides who has to move. What the storage wrote is not repeated but
// for its code.
func (s *bucketScope) classify(doing string, err error) error {
	prefix := fmt.Sprintf("failed to %s objects of bucket '%s'", doing, s.obj.Spec.BucketName)
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return phase.Transient(sourcev1.BucketOperationFailedReason, fmt.Errorf("%s: %w", prefix, err))
	}
	switch answer.Code {
	case minio.AccessDenied, "InvalidAccessKeyId", "SignatureDoesNotMatch":
		return phase.Transient(sourcev1.AuthenticationFailedReason, fmt.Errorf("%s: the storage refuses the credentials (%s)", prefix, answer.Code))
	}
	return phase.Transient(sourcev1.BucketOperationFailedReason, fmt.Errorf("%s: the storage answered %d %.60s", prefix, answer.StatusCode, answer.Code))
}

// bucketSecrets names the Secrets whose change concerns the bucket.
func bucketSecrets(o client.Object) []string {
	spec := o.(*sourcev1.Bucket).Spec
	return names(spec.SecretRef, spec.CertSecretRef, spec.ProxySecretRef)
}

// bucketRemote names the storage, for the gate.
func bucketRemote(o client.Object) string {
	b := o.(*sourcev1.Bucket)
	if b.Spec.Suspend {
		return ""
	}
	return b.Spec.Endpoint
}
