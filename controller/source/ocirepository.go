package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/source/charts"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/oci"
	"headwater.dev/kernel/phase"
)

// maxLayer bounds the stored size of the layer that becomes an artifact.
const maxLayer = 1 << 30

// ociScope is one reconcile of an OCIRepository.
type ociScope struct {
	base
	obj     *sourcev1.OCIRepository
	options oci.Options
}

func (l *loops) ociRepository() *phase.Reconciler[*sourcev1.OCIRepository, ociScope] {
	return &phase.Reconciler[*sourcev1.OCIRepository, ociScope]{
		Client: l.client, Live: l.host.Manager.GetAPIReader(), Events: l.events,
		FieldOwner: fieldOwner, Finalizer: sourcev1.SourceFinalizer,
		New:       func() *sourcev1.OCIRepository { return &sourcev1.OCIRepository{} },
		Suspended: func(o *sourcev1.OCIRepository) bool { return o.Spec.Suspend },
		Status: func(o *sourcev1.OCIRepository) phase.Fields {
			return phase.Fields{ObservedGeneration: &o.Status.ObservedGeneration, HandledReconcileAt: &o.Status.LastHandledReconcileAt}
		},
		Begin: func(o *sourcev1.OCIRepository) *ociScope {
			return &ociScope{base: newBase(sourcev1.OCIRepositoryKind, o, &o.Status.Artifact), obj: o}
		},
		Phases: []phase.Phase[ociScope]{
			{Name: "look for the stored artifact", Do: func(ctx context.Context, s *ociScope) error { return l.recall(ctx, &s.base) }},
			{Name: "read the credentials", Do: l.ociCredentials},
			{Name: "fetch and store what is new", Do: l.ociFetch},
			{Name: "collect old artifacts", Do: func(_ context.Context, s *ociScope) error {
				s.obj.Status.URL = l.store.LatestURL(s.key, "latest.tar.gz")
				return l.stored(&s.base, meta.SucceededReason, fmt.Sprintf("stored artifact for digest '%s'", s.obj.Status.Artifact.Revision))
			}},
		},
		Finalize: []phase.Phase[ociScope]{
			{Name: "remove the artifacts", Do: func(_ context.Context, s *ociScope) error { return l.forget(&s.base) }},
		},
		Success:  func(s *ociScope) phase.Success { return s.success(s.obj.GetRequeueAfter()) },
		Metadata: func(s *ociScope) map[string]string { return metadata(s.obj.Status.Artifact) },
		Gone: func(n types.NamespacedName) {
			l.gone(sourcev1.OCIRepositoryKind)(n)
			l.notes(sourcev1.OCIRepositoryKind).Forget(n)
		},
	}
}

// ociCredentials reads the Secrets that the repository names.
func (l *loops) ociCredentials(ctx context.Context, s *ociScope) error {
	spec := s.obj.Spec
	var err error
	s.options, err = l.registryOptions(ctx, s.obj, door{
		url: spec.URL, insecure: spec.Insecure, provider: spec.Provider, serviceAccount: spec.ServiceAccountName,
		secret: spec.SecretRef, cert: spec.CertSecretRef, proxy: spec.ProxySecretRef,
	})
	if err != nil {
		return fetchFailed(s.obj, err)
	}
	return nil
}

// ociFetch asks the registry for the digest, and publishes an artifact when it
// is a new one.
func (l *loops) ociFetch(ctx context.Context, s *ociScope) error {
	repo, err := oci.Open(s.obj.Spec.URL, s.options)
	if err != nil {
		return fetchFailed(s.obj, phase.Stalled(sourcev1.URLInvalidReason, fmt.Errorf("spec.url: %w", err)))
	}
	defer repo.Close()
	limit := defaultTimeout
	if s.obj.Spec.Timeout != nil {
		limit = timeout(s.obj.Spec.Timeout.Duration)
	}
	fetch, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	revision, digest, err := resolveOCI(fetch, repo, s.obj.Spec.Reference)
	if err != nil {
		return fetchFailed(s.obj, classifyOCI(fmt.Errorf("failed to determine artifact digest: %w", err)))
	}
	p := pinned{repo, revision, digest}
	if err := l.ociVerify(fetch, s, p); err != nil {
		return err
	}
	if s.current(revision) {
		return nil
	}
	return l.ociPublish(fetch, s, p)
}

// ociVerify checks who signed the digest that is about to be used.
func (l *loops) ociVerify(ctx context.Context, s *ociScope, p pinned) error {
	o := s.obj
	if o.Spec.Verify == nil {
		conditions.Delete(o, sourcev1.SourceVerifiedCondition)
		return nil
	}
	verdict, err := l.checkSignature(ctx, o, p.repo, p.digest, ociTrust(o.Spec.Verify))
	switch {
	case err != nil:
		conditions.MarkFalse(o, sourcev1.SourceVerifiedCondition, sourcev1.VerificationError, "%s", err)
		return err
	case verdict != unchecked:
		conditions.MarkTrue(o, sourcev1.SourceVerifiedCondition, meta.SucceededReason, "verified signature of revision %s", p.revision)
	default:
		conditions.Delete(o, sourcev1.SourceVerifiedCondition)
	}
	return nil
}

// current reports whether the stored artifact is of this revision, made with
// the settings of now.
func (s *ociScope) current(revision string) bool {
	o := s.obj
	return o.Status.Artifact.HasRevision(revision) && reflect.DeepEqual(o.Spec.Ignore, o.Status.ObservedIgnore) &&
		reflect.DeepEqual(o.Spec.LayerSelector, o.Status.ObservedLayerSelector)
}

// resolveOCI gives revision and digest of a reference.
func resolveOCI(ctx context.Context, repo *oci.Repository, ref *sourcev1.OCIRepositoryRef) (revision, digest string, err error) {
	tag := "latest"
	switch {
	case ref == nil:
	case ref.Digest != "":
		return ref.Digest, ref.Digest, nil
	case ref.SemVer != "":
		if tag, err = highestOCITag(ctx, repo, ref); err != nil {
			return "", "", err
		}
	case ref.Tag != "":
		tag = ref.Tag
	}
	digest, err = repo.Resolve(ctx, tag)
	return tag + "@" + digest, digest, err
}

func highestOCITag(ctx context.Context, repo *oci.Repository, ref *sourcev1.OCIRepositoryRef) (string, error) {
	tags, err := repo.Tags(ctx)
	if err != nil {
		return "", err
	}
	if ref.SemverFilter != "" {
		if len(ref.SemverFilter) > 1024 {
			return "", fmt.Errorf("%w spec.ref.semverFilter: longer than 1024 characters", oci.ErrInvalid)
		}
		filter, err := regexp.Compile(ref.SemverFilter)
		if err != nil {
			return "", fmt.Errorf("%w spec.ref.semverFilter: no valid regular expression", oci.ErrInvalid)
		}
		kept := tags[:0]
		for _, t := range tags {
			if filter.MatchString(t) {
				kept = append(kept, t)
			}
		}
		tags = kept
	}
	tag, err := charts.Pick(tags, ref.SemVer)
	if err != nil {
		return "", fmt.Errorf("spec.ref.semver: %w", err)
	}
	return tag, nil
}

// pinned is a manifest by its digest, and the revision that led to it.
type pinned struct {
	repo             *oci.Repository
	revision, digest string
}

func (l *loops) ociPublish(ctx context.Context, s *ociScope, p pinned) error {
	o := s.obj
	img, err := p.repo.Image(ctx, p.digest)
	if err != nil {
		return fetchFailed(o, classifyOCI(fmt.Errorf("failed to pull artifact from '%s': %w", o.Spec.URL, err)))
	}
	layer, err := img.Layer(o.GetLayerMediaType())
	if err != nil {
		return fetchFailed(o, phase.Transient(sourcev1.OCILayerOperationFailedReason, err))
	}
	rc, err := img.Open(layer, maxLayer)
	if err != nil {
		return fetchFailed(o, classifyOCI(fmt.Errorf("failed to pull artifact from '%s': %w", o.Spec.URL, err)))
	}
	defer rc.Close()
	put := artifact.Put{
		File: strings.TrimPrefix(p.digest, "sha256:") + ".tar.gz", Latest: "latest.tar.gz",
		Revision: p.revision, Metadata: img.Manifest.Annotations,
	}
	if o.GetLayerOperation() == sourcev1.OCILayerCopy {
		put.Write = func(w io.Writer) error { _, err := io.Copy(w, rc); return err }
		err = l.publish(ctx, &s.base, put)
	} else {
		err = l.repack(ctx, s, rc, put)
	}
	switch {
	case errors.Is(err, errLayer):
		return fetchFailed(o, phase.Transient(sourcev1.OCILayerOperationFailedReason, err))
	case err != nil:
		return storageFailed(o, sourcev1.ArchiveOperationFailedReason, err)
	}
	o.Status.ObservedIgnore, o.Status.ObservedLayerSelector = o.Spec.Ignore, o.Spec.LayerSelector
	s.announce(ociMessage(p.revision, o.Spec.URL, img.Manifest.Annotations))
	return nil
}

// ociMessage says where an artifact came from.
func ociMessage(revision, url string, annotations map[string]string) string {
	message := fmt.Sprintf("stored artifact with revision '%s' from '%s'", revision, url)
	source, from := annotations["org.opencontainers.image.source"], annotations["org.opencontainers.image.revision"]
	if source != "" {
		message += fmt.Sprintf(", origin source '%s'", source)
	}
	if from != "" {
		message += fmt.Sprintf(", origin revision '%s'", from)
	}
	return message
}

// errLayer says that a layer cannot be read or is no archive that may be
// extracted.
var errLayer = errors.New("failed to extract layer contents from artifact")

// repack extracts a layer and packs what the ignore rules leave.
func (l *loops) repack(ctx context.Context, s *ociScope, layer io.Reader, put artifact.Put) error {
	dir, err := l.store.TempDir("oci-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := artifact.Extract(ctx, layer, dir, artifact.DefaultLimits()); err != nil {
		return fmt.Errorf("%w: %w", errLayer, err)
	}
	// The digest is checked when the end was reached.
	if _, err := io.Copy(io.Discard, layer); err != nil {
		return fmt.Errorf("%w: %w", errLayer, err)
	}
	ignore, err := ignoreRules(dir, s.obj.Spec.Ignore)
	if err != nil {
		return err
	}
	put.Write = func(w io.Writer) error { return artifact.Pack(w, artifact.Dir(dir, ignore)) }
	return l.publish(ctx, &s.base, put)
}

// ignoreRules reads the ignore files below dir, and lets the rules of the
// specification go before them.
func ignoreRules(dir string, spec *string) (artifact.Ignore, error) {
	var rules artifact.IgnoreRules
	for e, err := range artifact.Dir(dir, artifact.Ignore{}) {
		if err != nil {
			return artifact.Ignore{}, err
		}
		folder, name := "", e.Path
		if i := strings.LastIndexByte(e.Path, '/'); i >= 0 {
			folder, name = e.Path[:i], e.Path[i+1:]
		}
		if e.Dir || name != artifact.IgnoreFile {
			continue
		}
		r, err := e.Open()
		if err != nil {
			return artifact.Ignore{}, err
		}
		data, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if closeErr := r.Close(); cmp.Or(err, closeErr) != nil {
			return artifact.Ignore{}, cmp.Or(err, closeErr)
		}
		rules.Add(folder, bytes.NewReader(data))
	}
	if spec != nil {
		rules.Add("", strings.NewReader(*spec))
	}
	return rules.Build(), nil
}

func classifyOCI(err error) error {
	var rate *oci.RateError
	switch {
	case errors.As(err, &rate) && rate.After > 0:
		return phase.RetryAfter(sourcev1.OCIPullFailedReason, rate.After, err)
	case errors.Is(err, oci.ErrInvalid):
		return phase.Stalled(sourcev1.OCIPullFailedReason, err)
	case errors.Is(err, oci.ErrAuth):
		return phase.Transient(sourcev1.AuthenticationFailedReason, err)
	}
	return phase.Transient(sourcev1.OCIPullFailedReason, err)
}

// ociSecrets names the Secrets whose change concerns the repository.
func ociSecrets(o client.Object) []string {
	spec := o.(*sourcev1.OCIRepository).Spec
	list := names(spec.SecretRef, spec.CertSecretRef, spec.ProxySecretRef)
	if v := spec.Verify; v != nil {
		list = append(list, names(v.SecretRef, v.TrustedRootSecretRef)...)
	}
	if spec.ServiceAccountName != "" {
		list = append(list, anySecret)
	}
	return list
}

// ociRemote names the registry, for the gate.
func ociRemote(o client.Object) string {
	r := o.(*sourcev1.OCIRepository)
	if r.Spec.Suspend {
		return ""
	}
	return hostOf(r.Spec.URL)
}
