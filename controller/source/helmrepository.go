package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/opencontainers/go-digest"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/source/charts"
	"headwater.dev/kernel/artifact"
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
	w, err := charts.NewWeb(o.Spec.URL, basic, certificates.Config())
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
	f, err := l.helmDownload(ctx, s, l.etags.of(name, o.Spec.URL, o.Status.Artifact))
	if err != nil {
		return fetchFailed(o, err)
	}
	if !f.Same {
		if err := l.helmPublish(ctx, s, f); err != nil {
			return err
		}
		l.etags.set(name, o.Spec.URL, f.ETag)
	}
	o.Status.URL = l.store.LatestURL(s.key, "index.yaml")
	return l.stored(&s.base, meta.SucceededReason, fmt.Sprintf("stored artifact: revision '%s'", o.Status.Artifact.Revision))
}

func (l *loops) helmDownload(ctx context.Context, s *helmScope, etag string) (charts.File, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(s.obj.GetTimeout()))
	defer cancel()
	u, err := s.web.Resolve("index.yaml")
	if err != nil {
		return charts.File{}, phase.Stalled(sourcev1.URLInvalidReason, err)
	}
	f, err := s.web.Get(ctx, u, etag, charts.MaxIndex)
	switch {
	case errors.Is(err, charts.ErrUnauthorized):
		return f, phase.Transient(sourcev1.AuthenticationFailedReason, fmt.Errorf("failed to fetch Helm repository index: %w", err))
	case err != nil:
		return f, phase.Transient(meta.FailedReason, fmt.Errorf("failed to fetch Helm repository index: %w", err))
	case f.Same:
		return f, nil
	}
	if _, err := charts.ParseIndex(f.Data); err != nil {
		return f, phase.Transient(sourcev1.IndexationFailedReason, fmt.Errorf("failed to load Helm repository from index: %w", err))
	}
	return f, nil
}

func (l *loops) helmPublish(ctx context.Context, s *helmScope, f charts.File) error {
	revision := digest.FromBytes(f.Data)
	if s.obj.Status.Artifact.HasRevision(revision.String()) {
		return nil
	}
	err := l.publish(ctx, &s.base, artifact.Put{
		File: "index-" + revision.Encoded() + ".yaml", Latest: "index.yaml", Revision: revision.String(),
		Write: func(w io.Writer) error { _, err := w.Write(f.Data); return err },
	})
	if err != nil {
		return storageFailed(s.obj, sourcev1.ArchiveOperationFailedReason, err)
	}
	s.announce(fmt.Sprintf("stored fetched index of size %d bytes from '%s'", len(f.Data), s.web))
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
