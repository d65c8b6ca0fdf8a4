package kustomize

import (
	"context"
	"errors"
	"fmt"
	"time"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/event"
	"headwater.dev/kernel/manifest"
	"headwater.dev/kernel/phase"
)

// build renders the objects, unless it is known what that would give and that
// the cluster holds it.
func (l *loop) build(ctx context.Context, s *scope) error {
	if err := l.variables(ctx, s); err != nil {
		return retry(s.obj, meta.BuildFailedReason, err)
	}
	keys, err := l.decryption(ctx, s)
	if err != nil {
		return err
	}
	s.request = manifest.Request{Spec: &s.obj.Spec, RemoteBases: !l.options.NoRemoteBases, Variables: s.vars, Decrypt: keys}
	files := func() (*artifact.Content, error) { return l.files(ctx, s) }
	defer func() {
		if s.files != nil {
			s.files.Release()
		}
	}()
	same, err := s.known.sameInputs(s, files)
	if err != nil {
		return err
	}
	if same && s.inventoried() && l.watcher.Undisturbed(s.key) {
		return nil
	}
	content, err := files()
	if err != nil {
		return err
	}
	s.request.Root, s.request.Files = content.Root, content.Files
	l.fault("build")
	built, err := buildInTime(ctx, s)
	if errors.Is(err, manifest.ErrPath) {
		return phase.RetryAfter(meta.ArtifactFailedReason, s.obj.GetRetryInterval(), fmt.Errorf("kustomization path not found: %w", err))
	}
	if err != nil {
		return phase.RetryAfter(meta.BuildFailedReason, s.obj.GetRetryInterval(), err)
	}
	s.built = built
	s.refs, err = apply.Fit(s.tenant, built.Objects)
	switch {
	case err != nil && apply.Transient(err): // the cluster is not reached
		return phase.Transient(meta.ReconciliationFailedReason, err)
	case err != nil:
		return phase.RetryAfter(meta.BuildFailedReason, s.obj.GetRetryInterval(), err)
	}
	return nil
}

// buildInTime builds for as long as the Kustomization gives: no build holds a
// worker longer, whatever its objects are.
func buildInTime(ctx context.Context, s *scope) (*manifest.Result, error) {
	timeout := s.obj.GetTimeout()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	built, err := manifest.Build(ctx, s.request)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("spec.timeout %s: %w", timeout, err)
	}
	return built, err
}

// inventoried reports whether the status lists what was applied: not when the
// process ended, or the API server did, before the status was written.
func (s *scope) inventoried() bool {
	listed := apply.Refs(s.obj.Status.Inventory)
	return len(listed) == len(s.known.refs) && len(apply.Missing(listed, s.known.refs)) == 0
}

// retry is soon for what goes away by itself, and at the retry interval else.
func retry(k *kustomizev1.Kustomization, reason string, err error) error {
	if apply.Transient(err) {
		return phase.Transient(reason, err)
	}
	return phase.RetryAfter(reason, k.GetRetryInterval(), err)
}

func (l *loop) files(ctx context.Context, s *scope) (*artifact.Content, error) {
	if s.files != nil {
		return s.files, nil
	}
	l.fault("fetch")
	content, err := l.reader.Content(ctx, *s.artifact)
	if err != nil {
		return nil, phase.RetryAfter(meta.ArtifactFailedReason, l.options.RequeueDependency, fmt.Errorf("fetch artifact of revision %s: %w", s.revision(), err))
	}
	s.files = content
	return content, nil
}

func (l *loop) apply(ctx context.Context, s *scope) error {
	if s.built == nil {
		return nil
	}
	l.fault("recorded")
	now := try{s.obj.Generation, requestOf(s.obj)}
	limited, cancel := s.limited(ctx, len(s.built.Objects))
	defer cancel()
	out, err := l.engine.Apply(limited, apply.Request{
		Tenant: s.tenant, Objects: s.built.Objects, Force: s.obj.Spec.Force, Ignore: s.ignores, Sealed: sealedOf(s.built),
		Verify: s.known.tried.generation != 0 && s.known.tried != now,
	})
	s.changes, s.fights = out.Changes, out.Fights
	if err != nil {
		err = overdue(limited, err)
		l.tellChanges(ctx, s)
		s.withdrawIntent(out.Changes, err)
		l.memory.set(s.key, known{tried: now})
		l.remember(s, meta.ReconciliationFailedReason)
		return retry(s.obj, meta.ReconciliationFailedReason, err)
	}
	if len(out.Pending) == 0 { // the scope of every kind is known by now
		if made := refsOf(out.Changes); len(made) != len(s.refs) || len(apply.Missing(made, s.refs)) > 0 {
			s.refs = made
		}
		s.foreign = foreignOf(out.Changes)
	}
	if len(out.Pending) > 0 {
		l.tellChanges(ctx, s)
		return l.pending(s, out.Pending)
	}
	return nil
}

// sealedOf are the objects that decryption opened: no message quotes them.
func sealedOf(built *manifest.Result) []apply.ID {
	ids := make([]apply.ID, 0, len(built.Opened))
	for _, u := range built.Opened {
		ids = append(ids, apply.RefOf(u).ID)
	}
	return ids
}

func refsOf(changes []apply.Change) []apply.Ref {
	refs := make([]apply.Ref, 0, len(changes))
	for _, c := range changes {
		refs = append(refs, c.Ref)
	}
	return refs
}

func foreignOf(changes []apply.Change) []apply.Ref {
	var refs []apply.Ref
	for _, c := range changes {
		if c.Foreign {
			refs = append(refs, c.Ref)
		}
	}
	return refs
}

// prune deletes what the inventory holds and the build did not give. What
// could not be deleted stays in the inventory.
func (l *loop) prune(ctx context.Context, s *scope) error {
	if s.built == nil {
		return nil
	}
	l.fault("applied")
	stale := apply.Stale(s.tenant, apply.Refs(s.obj.Status.Inventory), s.refs)
	var left []apply.Ref
	var failed error
	if s.obj.Spec.Prune && len(stale) > 0 {
		limited, cancel := s.limited(ctx, len(stale))
		defer cancel()
		out, err := l.engine.Prune(limited, s.tenant, stale)
		s.changes = append(s.changes, out.Changes...)
		left, failed = out.Left, overdue(limited, err)
	}
	s.obj.Status.Inventory = apply.Inventory(append(s.refs[:len(s.refs):len(s.refs)], left...))
	l.tellChanges(ctx, s)
	if failed != nil {
		l.remember(s, meta.PruneFailedReason)
		return retry(s.obj, meta.PruneFailedReason, failed)
	}
	l.fault("pruned")
	l.track(s, s.refs)
	s.known = known{
		generation: s.obj.Generation, identity: s.tenant.Identity, record: s.built.Read, digest: s.built.Digest, refs: s.refs, foreign: s.foreign, requested: requestOf(s.obj), tried: try{s.obj.Generation, requestOf(s.obj)},
		unhealthySince: s.known.unhealthySince, content: s.known.content, wasHealthy: s.known.wasHealthy,
	}
	return nil
}

// remember adds an entry to the history.
func (l *loop) remember(s *scope, reason string) {
	digest := s.known.digest
	if s.built != nil {
		digest = s.built.Digest
	}
	if digest == "" {
		return
	}
	info := map[string]string{"revision": s.revision()}
	if o := s.originRevision(); o != "" {
		info["originRevision"] = o
	}
	s.obj.Status.History.Upsert(digest, l.now(), l.now().Sub(s.started), reason, info)
}

// success is what a reconcile without error means.
func (l *loop) success(s *scope) phase.Success {
	k := s.obj
	news := s.built != nil || k.Status.LastAppliedRevision != s.revision() || !conditions.IsReady(k)
	if news {
		l.remember(s, meta.ReconciliationSucceededReason)
	}
	k.Status.LastAppliedRevision = s.revision()
	k.Status.LastAppliedOriginRevision = s.originRevision()
	l.keep(s)
	l.fault("status")

	out := phase.Success{
		Reason: meta.ReconciliationSucceededReason, Message: "Applied revision: " + s.revision(),
		Interval: k.GetRequeueAfter(),
	}
	if s.recheck > 0 {
		out.Interval = min(out.Interval, s.recheck)
	}
	if news {
		out.Notice = l.commitStatus(s)
	}
	for _, f := range s.fights {
		out.Interval = min(out.Interval, max(f.Until.Sub(l.now()), time.Millisecond))
		out.Message += "; " + f.Brief()
		if f.New {
			out.Event = &event.Event{Severity: event.Error, Reason: fightReason, Message: f.String(), Metadata: l.metadata(s)}
		}
	}
	return out
}

// tellChanges says what happened to objects as soon as it did: what follows may
// take long, or fail.
func (l *loop) tellChanges(ctx context.Context, s *scope) {
	if text := describe(s.changes); text != "" {
		l.events.Record(ctx, s.obj, event.Event{Severity: event.Info, Reason: meta.ProgressingReason, Message: text, Metadata: l.metadata(s)})
	}
}

// keep remembers what was done, and across restarts when it is new.
func (l *loop) keep(s *scope) {
	news := s.built != nil || s.known.artifact != s.artifact.Digest || l.watcher.Unkept(s.key)
	s.known.artifact, s.known.restored = s.artifact.Digest, false
	l.memory.set(s.key, s.known)
	if !news {
		return
	}
	if err := l.store.save(s.key, s.obj.UID, s.known, l.watcher.Receipts(s.key)); err != nil {
		l.store.forget(s.key)
		ctrl.Log.WithName(fieldOwner).Info("what was applied is not kept across restarts", "error", err.Error())
	}
}

// commitStatus tells the notification controller what became of the revision,
// so that it can say so at the Git server; other receivers skip it. It is no
// Kubernetes Event, which would be a write for every Kustomization and revision.
func (l *loop) commitStatus(s *scope) *event.Event {
	m := l.metadata(s)
	m[group+"/"+eventv1.MetaCommitStatusKey] = eventv1.MetaCommitStatusUpdateValue
	return &event.Event{Severity: event.Info, Reason: meta.ReconciliationSucceededReason, Metadata: m, Notify: true,
		Message: fmt.Sprintf("Reconciliation finished in %s, next run in %s", l.now().Sub(s.started), s.obj.Spec.Interval.Duration)}
}

// fightReason of the event about an object that two field managers change.
const fightReason = "DriftFight"

func (l *loop) metadata(s *scope) map[string]string {
	revision, origin := s.revision(), s.originRevision()
	if !s.obj.DeletionTimestamp.IsZero() {
		revision, origin = s.obj.Status.LastAppliedRevision, s.obj.Status.LastAppliedOriginRevision
	}
	m := map[string]string{}
	if revision != "" {
		m[group+"/revision"] = revision
	}
	if origin != "" {
		m[group+"/originRevision"] = origin
	}
	return m
}

// pruneAll deletes what a deleted Kustomization leaves, as its tenant. When
// there is no tenant any more, nobody has the right to, and the objects stay.
func (l *loop) pruneAll(ctx context.Context, s *scope) error {
	refs := apply.Refs(s.obj.Status.Inventory)
	if !prunesOnDeletion(s.obj) || len(refs) == 0 {
		return nil
	}
	if err := l.becomeTenant(ctx, s); err != nil {
		if class := phase.Classify(err).Class; class == phase.ClassStalled || errors.Is(err, errNoCredentials) {
			return l.orphan(ctx, s, refs, err) // nobody will ever have the right to
		}
		return err
	}
	if gone, err := l.tenantGone(ctx, s.tenant); gone || err != nil {
		if err != nil {
			return phase.Transient(meta.PruneFailedReason, err)
		}
		return l.orphan(ctx, s, refs, fmt.Errorf("service account %s not found", s.tenant.Identity.Username()))
	}
	refs = apply.Scoped(s.tenant, refs)
	l.track(s, refs)
	limited, cancel := s.limited(ctx, len(refs))
	defer cancel()
	out, err := l.engine.Prune(limited, s.tenant, refs)
	err = overdue(limited, err)
	s.changes = out.Changes
	l.tellChanges(ctx, s)
	if err != nil {
		s.obj.Status.Inventory = apply.Inventory(append(out.Going, out.Left...))
		return phase.Transient(meta.PruneFailedReason, err) // with back-off, as in Flux: a namespace may wait for it
	}
	if s.obj.GetDeletionPolicy() == kustomizev1.DeletionPolicyWaitForTermination && len(out.Going) > 0 {
		left := s.obj.GetTimeout() - l.now().Sub(s.obj.DeletionTimestamp.Time)
		if left <= 0 {
			return l.orphan(ctx, s, out.Going, fmt.Errorf("not gone within spec.timeout %s", s.obj.GetTimeout()))
		}
		return phase.Progressing(meta.ProgressingReason, min(left, pollPeriod), fmt.Errorf("Waiting for %d objects to be gone", len(out.Going)))
	}
	return nil
}

func (l *loop) tenantGone(ctx context.Context, t apply.Tenant) (bool, error) {
	if t.Identity.ServiceAccount == "" || t.Identity.Cluster != "" {
		return false, nil
	}
	sa := &corev1.ServiceAccount{}
	err := l.live.Get(ctx, types.NamespacedName{Namespace: t.Identity.Namespace, Name: t.Identity.ServiceAccount}, sa)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return false, err
}

func (l *loop) orphan(ctx context.Context, s *scope, refs []apply.Ref, why error) error {
	names := make([]string, 0, len(refs))
	for _, ref := range refs {
		names = append(names, ref.String())
	}
	ctrl.LoggerFrom(ctx).Info("objects are left behind", "error", why.Error(), "objects", len(refs))
	l.events.Record(ctx, s.obj, event.Event{Severity: event.Error, Reason: meta.PruneFailedReason, Metadata: l.metadata(s),
		Message: fmt.Sprintf("unable to prune: %v; left behind: %s", why, shorten(names))})
	return nil
}

// gone forgets a Kustomization that does not exist any more.
func (l *loop) gone(key types.NamespacedName) {
	l.watcher.Forget(key)
	l.inputs.Forget(key)
	l.memory.forget(key)
	l.store.forget(key)
}

// owned reports whether an object with other's labels must be left to it: the
// Kustomization exists, in another tenant's namespace, whichever shard it is of.
// What cannot be read is not taken for gone.
func (l *loop) owned(mine, other types.NamespacedName) bool {
	if !l.options.NoCrossNamespaceRefs || mine.Namespace == other.Namespace {
		return false
	}
	return !apierrors.IsNotFound(l.all.Get(context.Background(), other, &kustomizev1.Kustomization{}))
}
