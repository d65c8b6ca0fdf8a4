package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/git"
	"headwater.dev/kernel/phase"
)

// gitScope is one reconcile of a GitRepository.
type gitScope struct {
	base
	obj   *sourcev1.GitRepository
	creds git.Credentials
}

func (l *loops) gitRepository() *phase.Reconciler[*sourcev1.GitRepository, gitScope] {
	return &phase.Reconciler[*sourcev1.GitRepository, gitScope]{
		Client: l.client, Live: l.host.Manager.GetAPIReader(), Events: l.events,
		FieldOwner: fieldOwner, Finalizer: sourcev1.SourceFinalizer,
		New:       func() *sourcev1.GitRepository { return &sourcev1.GitRepository{} },
		Suspended: func(o *sourcev1.GitRepository) bool { return o.Spec.Suspend },
		Status: func(o *sourcev1.GitRepository) phase.Fields {
			return phase.Fields{ObservedGeneration: &o.Status.ObservedGeneration, HandledReconcileAt: &o.Status.LastHandledReconcileAt}
		},
		Begin: func(o *sourcev1.GitRepository) *gitScope {
			return &gitScope{base: newBase(sourcev1.GitRepositoryKind, o, &o.Status.Artifact), obj: o}
		},
		Phases: []phase.Phase[gitScope]{
			{Name: "check the specification", Do: checkGit},
			{Name: "look for the stored artifact", Do: func(ctx context.Context, s *gitScope) error { return l.recall(ctx, &s.base) }},
			{Name: "read the credentials", Do: l.gitCredentials},
			{Name: "fetch and store what is new", Do: l.gitFetch},
			{Name: "collect old artifacts", Do: func(_ context.Context, s *gitScope) error {
				return l.stored(&s.base, meta.SucceededReason, fmt.Sprintf("stored artifact for revision '%s'", s.obj.Status.Artifact.Revision))
			}},
		},
		Finalize: []phase.Phase[gitScope]{
			{Name: "remove the artifacts", Do: func(_ context.Context, s *gitScope) error { return l.forget(&s.base) }},
		},
		Success:  func(s *gitScope) phase.Success { return s.success(s.obj.GetRequeueAfter()) },
		Metadata: func(s *gitScope) map[string]string { return metadata(s.obj.Status.Artifact) },
		Gone:     l.gone(sourcev1.GitRepositoryKind),
	}
}

// checkGit refuses what cannot work, before anything is done.
func checkGit(_ context.Context, s *gitScope) error {
	spec := s.obj.Spec
	unsupported := ""
	switch {
	case s.obj.GetProvider() != sourcev1.GitProviderGeneric:
		unsupported = fmt.Sprintf("spec.provider: %q is not supported: use \"generic\" with spec.secretRef", spec.Provider)
	case spec.Verification != nil:
		unsupported = "spec.verify: signatures cannot be checked yet; remove the field to use the repository without"
	case spec.RecurseSubmodules:
		unsupported = "spec.recurseSubmodules: submodules are not supported yet; remove the field to use the repository without them"
	case len(spec.Include) > 0:
		unsupported = "spec.include: including other repositories is not supported yet; remove the field"
	}
	if unsupported != "" {
		return fetchFailed(s.obj, phase.Stalled(sourcev1.InvalidProviderConfigurationReason, errors.New(unsupported)))
	}
	if err := gitReference(s.obj).Validate(); err != nil {
		return fetchFailed(s.obj, phase.Stalled(sourcev1.GitOperationFailedReason, fmt.Errorf("spec.ref: %w", err)))
	}
	return nil
}

func gitReference(o *sourcev1.GitRepository) git.Reference {
	if o.Spec.Reference == nil {
		return git.Reference{}
	}
	r := o.Spec.Reference
	return git.Reference{Branch: r.Branch, Tag: r.Tag, SemVer: r.SemVer, Name: r.Name, Commit: r.Commit}
}

// gitCredentials reads the Secrets that the repository names.
func (l *loops) gitCredentials(ctx context.Context, s *gitScope) error {
	err := l.readGitSecret(ctx, s)
	if err == nil && s.obj.Spec.ProxySecretRef != nil {
		s.creds.Proxy, err = l.proxy(ctx, s.obj, s.obj.Spec.ProxySecretRef.Name)
	}
	if err != nil {
		return fetchFailed(s.obj, err)
	}
	return nil
}

func (l *loops) readGitSecret(ctx context.Context, s *gitScope) error {
	if s.obj.Spec.SecretRef == nil {
		return nil
	}
	data, err := l.secret(ctx, s.obj, s.obj.Spec.SecretRef.Name)
	if err != nil {
		return err
	}
	u, err := url.Parse(s.obj.Spec.URL)
	if err == nil && u.Scheme == "ssh" {
		key, err := data.SSH()
		if err != nil {
			return badSecret(err)
		}
		s.creds.Identity, s.creds.Passphrase, s.creds.KnownHosts = key.Identity, key.Passphrase, key.KnownHosts
		return nil
	}
	tls, err := data.TLS()
	if err != nil {
		return badSecret(err)
	}
	s.creds.CA, s.creds.ClientCert, s.creds.ClientKey = tls.CA, tls.Cert, tls.Key
	if s.creds.BearerToken = data.Bearer(); s.creds.BearerToken != "" {
		return nil
	}
	basic, err := data.Basic()
	if err != nil {
		return badSecret(err)
	}
	s.creds.Username, s.creds.Password = basic.Username, basic.Password
	return nil
}

// gitFetch asks the remote, and publishes an artifact when it has something
// new.
func (l *loops) gitFetch(ctx context.Context, s *gitScope) error {
	remote, err := git.NewRemote(s.obj.Spec.URL, s.creds)
	if err != nil {
		return fetchFailed(s.obj, phase.Stalled(sourcev1.URLInvalidReason, err))
	}
	limit := timeout(s.timeout())
	fetch, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	mirror := l.mirrors.For(remote)
	_, snapshot, err := mirror.Update(fetch, remote, gitReference(s.obj), s.current)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = fmt.Errorf("%w: it took longer than spec.timeout (%s)", err, limit)
		}
		return fetchFailed(s.obj, classifyGit(fmt.Errorf("failed to checkout and determine revision: %w", err), s.obj.GetRequeueAfter()))
	}
	if snapshot == nil {
		return nil
	}
	defer snapshot.Close()
	err = l.gitPublish(ctx, s, snapshot)
	if errors.Is(err, git.ErrDamaged) {
		err = errors.Join(err, mirror.Reset(ctx))
	}
	return err
}

func (s *gitScope) timeout() time.Duration {
	if s.obj.Spec.Timeout == nil {
		return 0
	}
	return s.obj.Spec.Timeout.Duration
}

// current reports whether the stored artifact is of this target, made with the
// settings of now.
func (s *gitScope) current(t git.Target) bool {
	o := s.obj
	return o.Status.Artifact.HasRevision(t.Revision()) &&
		reflect.DeepEqual(o.Spec.Ignore, o.Status.ObservedIgnore) &&
		reflect.DeepEqual(o.Spec.SparseCheckout, o.Status.ObservedSparseCheckout) &&
		len(o.Status.ObservedInclude) == 0 && !o.Status.ObservedRecurseSubmodules
}

func (l *loops) gitPublish(ctx context.Context, s *gitScope, snapshot *git.Snapshot) error {
	o := s.obj
	files := snapshot.Files(git.Selection{Ignore: o.Spec.Ignore, Directories: o.Spec.SparseCheckout})
	err := l.publish(ctx, &s.base, artifact.Put{
		File:     snapshot.Commit.Hash.String() + ".tar.gz",
		Latest:   "latest.tar.gz",
		Revision: snapshot.Target.Revision(),
		Write:    func(w io.Writer) error { return artifact.Pack(w, files) },
	})
	switch {
	case errors.Is(err, git.ErrInvalid):
		return fetchFailed(o, phase.Stalled(sourcev1.GitOperationFailedReason, err))
	case errors.Is(err, git.ErrReference), errors.Is(err, git.ErrProtocol), errors.Is(err, git.ErrDamaged), errors.Is(err, artifact.ErrTooLarge):
		return fetchFailed(o, phase.Transient(sourcev1.GitOperationFailedReason, err))
	case err != nil:
		return storageFailed(o, sourcev1.ArchiveOperationFailedReason, err)
	}
	o.Status.ObservedIgnore = o.Spec.Ignore
	o.Status.ObservedSparseCheckout = o.Spec.SparseCheckout
	o.Status.ObservedInclude, o.Status.IncludedArtifacts = nil, nil
	o.Status.ObservedRecurseSubmodules = false
	o.Status.SourceVerificationMode = nil
	conditions.Delete(o, sourcev1.SourceVerifiedCondition)
	s.announce(fmt.Sprintf("stored artifact for commit '%s'", snapshot.Commit.Subject()))
	return nil
}

// classifyGit decides who has to move.
func classifyGit(err error, interval time.Duration) error {
	var limited *git.RateLimited
	switch {
	case errors.As(err, &limited):
		return phase.RetryAfter(sourcev1.GitOperationFailedReason, max(limited.After, min(interval, time.Minute)), err)
	case errors.Is(err, git.ErrInvalid):
		return phase.Stalled(sourcev1.GitOperationFailedReason, err)
	case errors.Is(err, git.ErrAuth), errors.Is(err, git.ErrHostKey):
		return phase.Transient(sourcev1.AuthenticationFailedReason, err)
	}
	return phase.Transient(sourcev1.GitOperationFailedReason, err)
}

// gitSecrets names the Secrets whose change concerns the repository.
func gitSecrets(o client.Object) []string {
	spec := o.(*sourcev1.GitRepository).Spec
	return names(spec.SecretRef, spec.ProxySecretRef)
}

// gitRemote names the server of the repository, for the gate.
func gitRemote(o client.Object) string {
	r := o.(*sourcev1.GitRepository)
	if r.Spec.Suspend {
		return ""
	}
	return hostOf(r.Spec.URL)
}
