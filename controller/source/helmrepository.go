package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"headwater.dev/controller/source/charts"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/event"
	"headwater.dev/kernel/oci"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/secret"
)

// helmScope is one reconcile of a HelmRepository.
type helmScope struct {
	base
	obj *sourcev1.HelmRepository
	web *charts.Web
}

func (l *loops) helmRepository() reconcile.Reconciler {
	gone := func(n types.NamespacedName) {
		l.gone(sourcev1.HelmRepositoryKind)(n)
		l.notes(sourcev1.HelmRepositoryKind).Forget(n)
	}
	return &registries{client: l.client, live: l.host.Manager.GetAPIReader(), events: l.events, forget: gone, next: &phase.Reconciler[*sourcev1.HelmRepository, helmScope]{
		Client: l.client, Live: l.host.Manager.GetAPIReader(), Events: l.events,
		FieldOwner: fieldOwner, Finalizer: sourcev1.SourceFinalizer,
		New:       func() *sourcev1.HelmRepository { return &sourcev1.HelmRepository{} },
		Suspended: func(o *sourcev1.HelmRepository) bool { return o.Spec.Suspend },
		Status: func(o *sourcev1.HelmRepository) phase.Fields {
			return phase.Fields{ObservedGeneration: &o.Status.ObservedGeneration, HandledReconcileAt: &o.Status.LastHandledReconcileAt}
		},
		Begin: func(o *sourcev1.HelmRepository) *helmScope {
			return &helmScope{base: newBase(sourcev1.HelmRepositoryKind, o, &o.Status.Artifact), obj: o}
		},
		Phases: []phase.Phase[helmScope]{
			{Name: "look for the stored index", Do: func(ctx context.Context, s *helmScope) error { return l.recall(ctx, &s.base) }},
			{Name: "read the credentials", Do: l.helmCredentials},
			{Name: "fetch and store the index", Do: l.helmFetch},
		},
		Finalize: []phase.Phase[helmScope]{
			{Name: "remove the artifacts", Do: func(_ context.Context, s *helmScope) error { return l.forget(&s.base) }},
		},
		Success:  func(s *helmScope) phase.Success { return s.success(s.obj.GetRequeueAfter()) },
		Metadata: func(s *helmScope) map[string]string { return metadata(s.obj.Status.Artifact) },
		Gone:     gone,
	}}
}

// registries stands before the reconciler of repositories and keeps those of
// type oci from it: they are data for charts, without status and finalizer.
type registries struct {
	next   reconcile.Reconciler
	client client.Client
	live   client.Reader // past the cache
	events *event.Recorder
	// forget removes what an object published before it became a registry.
	forget func(types.NamespacedName)
}

// Reconcile implements reconcile.Reconciler.
func (r *registries) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	obj := &sourcev1.HelmRepository{}
	if err := r.client.Get(ctx, req.NamespacedName, obj); err != nil || !isOCI(obj) || !obj.DeletionTimestamp.IsZero() {
		return r.next.Reconcile(ctx, req)
	}
	if obj.Spec.Suspend {
		return reconcile.Result{}, nil
	}
	if !controllerutil.ContainsFinalizer(obj, sourcev1.SourceFinalizer) && emptyStatus(obj) {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, r.clear(ctx, obj)
}

// clear takes from a registry everything that it has from another life.
func (r *registries) clear(ctx context.Context, obj *sourcev1.HelmRepository) error {
	name := client.ObjectKeyFromObject(obj)
	// The cache may not have seen yet what was written in that life.
	if err := r.live.Get(ctx, name, obj); err != nil || !isOCI(obj) {
		return client.IgnoreNotFound(err)
	}
	r.forget(name)
	r.events.Gone(obj) // with its metrics
	before := obj.DeepCopy()
	if !emptyStatus(obj) {
		obj.Status = sourcev1.HelmRepositoryStatus{}
		if err := r.client.Status().Patch(ctx, obj, client.MergeFrom(before), client.FieldOwner(fieldOwner)); err != nil {
			return client.IgnoreNotFound(fmt.Errorf("clear the status of %s, which is a registry now: %w", name, err))
		}
		before = obj.DeepCopy()
	}
	if !controllerutil.RemoveFinalizer(obj, sourcev1.SourceFinalizer) {
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, obj, patch, client.FieldOwner(fieldOwner)); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("remove the finalizer of %s, which is a registry now: %w", name, err))
	}
	return nil
}

// emptyStatus reports whether nothing was said about the object. The API server
// gives new objects an observed generation of -1.
func emptyStatus(o *sourcev1.HelmRepository) bool {
	return reflect.DeepEqual(o.Status, sourcev1.HelmRepositoryStatus{}) || reflect.DeepEqual(o.Status, sourcev1.HelmRepositoryStatus{ObservedGeneration: -1})
}

// isOCI tells registries, which have no index, from repositories.
func isOCI(o *sourcev1.HelmRepository) bool {
	return o.Spec.Type == sourcev1.HelmRepositoryTypeOCI
}

// helmCredentials reads the Secrets that the repository names.
func (l *loops) helmCredentials(ctx context.Context, s *helmScope) error {
	var err error
	if s.web, err = l.helmWeb(ctx, s.obj); err != nil {
		return fetchFailed(s.obj, err)
	}
	return nil
}

// helmWeb gives the way to a repository over HTTP.
func (l *loops) helmWeb(ctx context.Context, o *sourcev1.HelmRepository) (*charts.Web, error) {
	var basic secret.Basic
	var certificates secret.TLS
	if ref := o.Spec.SecretRef; ref != nil {
		data, err := l.secret(ctx, o, ref.Name)
		if err != nil {
			return nil, err
		}
		if basic, err = data.Basic(); err != nil {
			return nil, badSecret(err)
		}
		if certificates, err = data.TLS(); err != nil {
			return nil, badSecret(err)
		}
	}
	if ref := o.Spec.CertSecretRef; ref != nil {
		data, err := l.secret(ctx, o, ref.Name)
		if err != nil {
			return nil, err
		}
		if certificates, err = data.TLS(); err != nil {
			return nil, badSecret(err)
		}
	}
	w, err := charts.NewWeb(o.Spec.URL, basic, certificates.Config(), charts.Rules{Private: l.host.Options.PrivateChartHosts})
	if err != nil {
		return nil, phase.Stalled(sourcev1.URLInvalidReason, fmt.Errorf("spec.url: %w", err))
	}
	w.PassOn = o.Spec.PassCredentials
	return w, nil
}

// helmFetch gets the index and publishes it when it changed.
func (l *loops) helmFetch(ctx context.Context, s *helmScope) error {
	o := s.obj
	defer s.web.Close()
	name := client.ObjectKeyFromObject(o)
	notes := l.notes(sourcev1.HelmRepositoryKind)
	known := ""
	if o.Status.Artifact != nil {
		known, _ = notes.Get(name, indexID(o))
	}
	x, err := l.download(ctx, s.web, o.GetTimeout(), known)
	if err != nil {
		return fetchFailed(o, err)
	}
	defer x.remove()
	if !x.same {
		if err := l.helmPublish(ctx, s, x); err != nil {
			return err
		}
		notes.Set(name, indexID(o), x.etag)
	}
	o.Status.URL = l.store.LatestURL(s.key, "index.yaml")
	return l.stored(&s.base, meta.SucceededReason, fmt.Sprintf("stored artifact: revision '%s'", o.Status.Artifact.Revision))
}

// index is an index that was fetched, in a file: some are too large to be held
// in memory by many at a time.
type index struct {
	file     *os.File
	size     int64
	revision digest.Digest
	etag     string
	same     bool
	dir      string
}

// remove frees the room of the file.
func (x *index) remove() {
	if x.file != nil {
		x.file.Close()
	}
	os.RemoveAll(x.dir)
}

// download gets the index of a repository, unless it still has the ETag.
func (l *loops) download(ctx context.Context, w *charts.Web, limit time.Duration, etag string) (*index, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(limit))
	defer cancel()
	u, err := w.Resolve("index.yaml")
	if err != nil {
		return nil, phase.Stalled(sourcev1.URLInvalidReason, err)
	}
	x := &index{}
	if x.dir, err = l.store.TempDir("index-"); err != nil {
		return nil, phase.Transient(sourcev1.DirCreationFailedReason, err)
	}
	if err := l.fill(ctx, x, w, charts.Want{URL: u, ETag: etag, Limit: charts.MaxIndex}); err != nil {
		x.remove()
		return nil, err
	}
	return x, nil
}

func (l *loops) fill(ctx context.Context, x *index, w *charts.Web, want charts.Want) error {
	var err error
	if x.file, err = os.Create(filepath.Join(x.dir, "index.yaml")); err != nil {
		return phase.Transient(sourcev1.DirCreationFailedReason, err)
	}
	sum := digest.Canonical.Digester()
	f, err := w.Save(ctx, io.MultiWriter(x.file, sum.Hash()), want)
	var rate *oci.RateError
	switch {
	case errors.As(err, &rate) && rate.After > 0:
		return phase.RetryAfter(meta.FailedReason, rate.After, fmt.Errorf("failed to fetch Helm repository index: %w", err))
	case errors.Is(err, charts.ErrUnauthorized):
		return phase.Transient(sourcev1.AuthenticationFailedReason, fmt.Errorf("failed to fetch Helm repository index: %w", err))
	case err != nil:
		return phase.Transient(meta.FailedReason, fmt.Errorf("failed to fetch Helm repository index: %w", err))
	}
	x.size, x.etag, x.same, x.revision = f.Size, f.ETag, f.Same, sum.Digest()
	if x.same {
		return nil
	}
	if err := charts.CheckIndex(x.file); err != nil {
		return phase.Transient(sourcev1.IndexationFailedReason, fmt.Errorf("failed to load Helm repository from index: %w", err))
	}
	return nil
}

func (l *loops) helmPublish(ctx context.Context, s *helmScope, x *index) error {
	if s.obj.Status.Artifact.HasRevision(x.revision.String()) {
		return nil
	}
	err := l.publish(ctx, &s.base, artifact.Put{
		File: "index-" + x.revision.Encoded() + ".yaml", Latest: "index.yaml", Revision: x.revision.String(),
		Write: func(w io.Writer) error {
			if _, err := x.file.Seek(0, io.SeekStart); err != nil {
				return err
			}
			_, err := io.Copy(w, x.file)
			return err
		},
	})
	if err != nil {
		return storageFailed(s.obj, sourcev1.ArchiveOperationFailedReason, err)
	}
	s.announce(fmt.Sprintf("stored fetched index of size %d bytes from '%s'", x.size, s.web))
	return nil
}

// indexID names what the ETag of an index belongs to: the URL, and the artifact
// that was made of the index.
func indexID(o *sourcev1.HelmRepository) string {
	return o.Spec.URL + "\n" + o.Status.Artifact.Revision
}

// helmSecrets names the Secrets whose change concerns the repository.
func helmSecrets(o client.Object) []string {
	spec := o.(*sourcev1.HelmRepository).Spec
	return names(spec.SecretRef, spec.CertSecretRef)
}

// helmRemote names the server of the repository, for the gate.
func helmRemote(o client.Object) string {
	r := o.(*sourcev1.HelmRepository)
	if r.Spec.Suspend || isOCI(r) {
		return ""
	}
	return hostOf(r.Spec.URL)
}
