package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/source/charts"
	"headwater.dev/kernel/artifact"
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

func (l *loops) helmRepository() *phase.Reconciler[*sourcev1.HelmRepository, helmScope] {
	return &phase.Reconciler[*sourcev1.HelmRepository, helmScope]{
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
		Success:  helmSuccess,
		Metadata: func(s *helmScope) map[string]string { return metadata(s.obj.Status.Artifact) },
		Gone: func(n types.NamespacedName) {
			l.gone(sourcev1.HelmRepositoryKind)(n)
			l.etags.forget(n)
		},
	}
}

// isOCI tells registries, which have no index, from repositories.
func isOCI(o *sourcev1.HelmRepository) bool {
	return o.Spec.Type == sourcev1.HelmRepositoryTypeOCI
}

func helmSuccess(s *helmScope) phase.Success {
	if isOCI(s.obj) {
		return phase.Success{Reason: meta.SucceededReason, Message: "Helm repository is ready"}
	}
	return s.success(s.obj.GetRequeueAfter())
}

// helmCredentials reads the Secrets that the repository names.
func (l *loops) helmCredentials(ctx context.Context, s *helmScope) error {
	if isOCI(s.obj) {
		if !strings.HasPrefix(s.obj.Spec.URL, sourcev1.OCIRepositoryPrefix) {
			return fetchFailed(s.obj, phase.Stalled(sourcev1.URLInvalidReason, errors.New("spec.url: a repository of type oci wants a URL that starts with oci://")))
		}
		return nil
	}
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
	if isOCI(o) {
		// There is nothing to fetch: charts are pulled one by one.
		o.Status.Artifact, o.Status.URL = nil, ""
		for _, c := range []string{sourcev1.ArtifactInStorageCondition, sourcev1.FetchFailedCondition, sourcev1.StorageOperationFailedCondition} {
			conditions.Delete(o, c)
		}
		return nil
	}
	defer s.web.Close()
	name := client.ObjectKeyFromObject(o)
	x, err := l.download(ctx, s.web, o.GetTimeout(), l.etags.of(name, o.Spec.URL, o.Status.Artifact))
	if err != nil {
		return fetchFailed(o, err)
	}
	defer x.remove()
	if !x.same {
		if err := l.helmPublish(ctx, s, x); err != nil {
			return err
		}
		l.etags.set(name, o.Spec.URL, x.etag)
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

// etags remembers the ETag of the index that each repository's artifact was
// made of. Forgetting one costs a download.
type etags struct {
	mu  sync.Mutex
	all map[types.NamespacedName]etag
}

type etag struct{ url, value string }

func (e *etags) of(n types.NamespacedName, url string, a *meta.Artifact) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if known := e.all[n]; a != nil && known.url == url {
		return known.value
	}
	return ""
}

func (e *etags) set(n types.NamespacedName, url, value string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = map[types.NamespacedName]etag{}
	}
	e.all[n] = etag{url, value}
}

func (e *etags) forget(n types.NamespacedName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.all, n)
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
