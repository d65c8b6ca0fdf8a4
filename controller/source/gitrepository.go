package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/cloud"
	"headwater.dev/kernel/git"
	"headwater.dev/kernel/git/githubapp"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/secret"
)

// gitScope is one reconcile of a GitRepository.
type gitScope struct {
	base
	obj   *sourcev1.GitRepository
	creds git.Credentials
	// keys are who may sign; includes are the artifacts of spec.include.
	keys     gitKeys
	includes []*meta.Artifact
	// refused is called when the server refuses the credentials; nil for none.
	refused func()
}

// gitLoop is what the reconciles of GitRepositories share: caches, without which
// everything is asked again.
type gitLoop struct {
	*loops
	tokens *githubapp.Tokens
	// verified tells what was verified last, by object.
	verified sync.Map
}

func (l *loops) gitRepository() *phase.Reconciler[*sourcev1.GitRepository, gitScope] {
	g := &gitLoop{loops: l, tokens: githubapp.NewTokens(time.Now)}
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
			{Name: "read the credentials", Do: g.credentials},
			{Name: "read the trusted keys", Do: g.readKeys},
			{Name: "look for the included artifacts", Do: g.findIncludes},
			{Name: "fetch, verify and store what is new", Do: g.fetch},
			{Name: "collect old artifacts", Do: func(_ context.Context, s *gitScope) error {
				return l.stored(&s.base, meta.SucceededReason, fmt.Sprintf("stored artifact for revision '%s'", s.obj.Status.Artifact.Revision))
			}},
		},
		Finalize: []phase.Phase[gitScope]{
			{Name: "remove the artifacts", Do: func(_ context.Context, s *gitScope) error { return l.forget(&s.base) }},
		},
		Success:  func(s *gitScope) phase.Success { return s.success(s.obj.GetRequeueAfter()) },
		Metadata: func(s *gitScope) map[string]string { return metadata(s.obj.Status.Artifact) },
		Gone: func(n types.NamespacedName) {
			g.verified.Delete(n)
			l.gone(sourcev1.GitRepositoryKind)(n)
		},
	}
}

// checkGit refuses what cannot work, before anything is done.
func checkGit(_ context.Context, s *gitScope) error {
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

// credentials reads the Secrets that the repository names, and asks its provider.
func (g *gitLoop) credentials(ctx context.Context, s *gitScope) error {
	var err error
	if s.obj.Spec.ProxySecretRef != nil {
		s.creds.LoopbackProxy = g.host.Options.LoopbackProxies
		s.creds.Proxy, err = g.proxy(ctx, s.obj, s.obj.Spec.ProxySecretRef.Name)
	}
	var data secret.Secret
	if err == nil && s.obj.Spec.SecretRef != nil {
		data, err = g.secret(ctx, s.obj, s.obj.Spec.SecretRef.Name)
	}
	if err == nil && s.obj.Spec.SecretRef != nil {
		err = s.readSecret(data)
	}
	if err == nil {
		err = g.login(ctx, s, data)
	}
	if err != nil {
		return fetchFailed(s.obj, err)
	}
	return nil
}

// login gets credentials from the provider of the repository.
func (g *gitLoop) login(ctx context.Context, s *gitScope, data secret.Secret) error {
	invalid := func(format string, args ...any) error {
		return phase.Stalled(sourcev1.InvalidProviderConfigurationReason, fmt.Errorf(format, args...))
	}
	o := s.obj
	u, err := url.Parse(o.Spec.URL)
	provider := o.GetProvider()
	switch {
	case err != nil:
		return phase.Stalled(sourcev1.URLInvalidReason, errors.New("spec.url does not parse"))
	case provider == sourcev1.GitProviderGeneric && githubapp.Present(data.Data):
		return invalid("secretRef '%s/%s' has github app data but provider is not set to github", o.Namespace, o.Spec.SecretRef.Name)
	case provider == sourcev1.GitProviderGeneric:
		return nil
	case u.Scheme == "ssh":
		return invalid("spec.provider %q gives credentials for https, and spec.url is ssh: use an https URL or the provider generic", provider)
	case provider == sourcev1.GitProviderGitHub:
		return g.githubLogin(ctx, s, data)
	}
	if err := g.ownIdentity(o.Spec.ServiceAccountName, s.creds.Proxy != nil || len(s.creds.CA) > 0); err != nil {
		return err
	}
	login, err := g.clouds.Git(ctx, provider, u, g.clouds.Options(o, o.Spec.ServiceAccountName, s.creds.Proxy)...)
	if errors.Is(err, cloud.ErrUnsupported) {
		return invalid("spec.provider: %w", err)
	}
	if err != nil {
		return phase.Transient(sourcev1.AuthenticationFailedReason, fmt.Errorf("failed to configure authentication options: %w", err))
	}
	s.creds.Username, s.creds.Password, s.creds.BearerToken = login.Username, login.Password, login.Bearer
	s.creds.Principal = provider + "/" + o.Namespace + "/" + o.Spec.ServiceAccountName
	return nil
}

// githubLogin gets a token of the GitHub App in the Secret.
func (g *gitLoop) githubLogin(ctx context.Context, s *gitScope, data secret.Secret) error {
	if !githubapp.Present(data.Data) {
		return phase.Stalled(sourcev1.InvalidProviderConfigurationReason, errors.New("secretRef with github app data must be specified when provider is set to github"))
	}
	app, err := githubapp.Parse(data.Data)
	if err != nil {
		return badSecret(fmt.Errorf("Secret %q: %w", s.obj.Spec.SecretRef.Name, err))
	}
	app.CA, app.Proxy, app.LoopbackProxy = s.creds.CA, s.creds.Proxy, s.creds.LoopbackProxy
	ctx, cancel := context.WithTimeout(ctx, timeout(s.timeout()))
	defer cancel()
	token, err := g.tokens.Get(ctx, app)
	if err != nil {
		return phase.Transient(sourcev1.AuthenticationFailedReason, fmt.Errorf("failed to configure authentication options: %w", err))
	}
	s.creds.Username, s.creds.Password, s.creds.BearerToken = githubapp.Username, token, ""
	s.creds.Principal = app.Principal()
	s.refused = func() { g.tokens.Forget(app) }
	return nil
}

// readSecret takes what fits the URL.
func (s *gitScope) readSecret(data secret.Secret) error {
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

// fetch asks the remote, and publishes an artifact when it has something new.
func (g *gitLoop) fetch(ctx context.Context, s *gitScope) error {
	remote, err := git.NewRemote(s.obj.Spec.URL, s.creds)
	if err != nil {
		return fetchFailed(s.obj, phase.Stalled(sourcev1.URLInvalidReason, err))
	}
	limit := timeout(s.timeout())
	fetch, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	mirror := g.mirrors.For(remote)
	known := func(t git.Target) bool { return s.current(t) && g.isVerified(s, t) }
	_, snapshot, err := mirror.Update(fetch, remote, gitReference(s.obj), known)
	if err != nil {
		return s.fetchFailed(ctx, "failed to checkout and determine revision", err)
	}
	if snapshot == nil {
		if c := conditions.Get(s.obj, sourcev1.SourceVerifiedCondition); c != nil { // for this generation too
			conditions.MarkTrue(s.obj, c.Type, c.Reason, "%s", c.Message)
		}
		return nil
	}
	defer snapshot.Close()
	if err := g.verify(s, snapshot); err != nil || s.current(snapshot.Target) {
		return err
	}
	tree, err := g.compose(fetch, s, snapshot, remote)
	if err == nil {
		defer tree.close()
		err = g.gitPublish(ctx, s, snapshot, tree)
	}
	if errors.Is(err, git.ErrDamaged) {
		err = errors.Join(err, mirror.Reset(ctx))
	}
	return err
}

// fetchFailed notes that the remote is at fault.
func (s *gitScope) fetchFailed(ctx context.Context, what string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("%w: it took longer than spec.timeout (%s)", err, timeout(s.timeout()))
	}
	if errors.Is(err, git.ErrAuth) && s.refused != nil {
		s.refused()
	}
	return fetchFailed(s.obj, classifyGit(fmt.Errorf("%s: %w", what, err), s.obj.GetRequeueAfter()))
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
		o.Spec.RecurseSubmodules == o.Status.ObservedRecurseSubmodules && s.sameIncludes()
}

func (g *gitLoop) gitPublish(ctx context.Context, s *gitScope, snapshot *git.Snapshot, files content) error {
	o := s.obj
	err := g.publish(ctx, &s.base, artifact.Put{
		File:     snapshot.Commit.Hash.String() + ".tar.gz",
		Latest:   "latest.tar.gz",
		Revision: snapshot.Target.Revision(),
		Write:    func(w io.Writer) error { return artifact.Pack(w, files.entries) },
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
	o.Status.ObservedInclude, o.Status.IncludedArtifacts = o.Spec.Include, s.includes
	o.Status.ObservedRecurseSubmodules = o.Spec.RecurseSubmodules
	s.announce(fmt.Sprintf("stored artifact for commit '%s'", snapshot.Commit.Subject()))
	return nil
}

// classifyGit decides who has to move.
func classifyGit(err error, interval time.Duration) error {
	var limited *git.RateLimited
	switch {
	case errors.As(err, &limited):
		return phase.RetryAfter(sourcev1.GitOperationFailedReason, max(limited.After, min(interval, time.Minute)), err)
	case errors.Is(err, git.ErrEmpty):
		return phase.Transient("EmptyGitRepository", err)
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
	list := names(spec.SecretRef, spec.ProxySecretRef)
	if spec.Verification != nil {
		list = append(list, spec.Verification.SecretRef.Name)
	}
	return list
}

// gitRemote names the server of the repository, for the gate.
func gitRemote(o client.Object) string {
	r := o.(*sourcev1.GitRepository)
	if r.Spec.Suspend {
		return ""
	}
	return hostOf(r.Spec.URL)
}
