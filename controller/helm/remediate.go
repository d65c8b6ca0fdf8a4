package helm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/object"
	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/event"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

// request is an install of the wanted release.
func (l *loop) request(s *scope, chart *release.Chart) release.Request {
	hr := s.hr
	in := hr.GetInstall()
	return release.Request{
		Name: s.wanted.Name, Namespace: s.wanted.Namespace, StorageNamespace: s.wanted.StorageNamespace,
		Chart: chart, Values: s.values,
		Options: release.Options{
			CreateNamespace:          in.CreateNamespace,
			CRDs:                     crdPolicy(in.CRDs, in.SkipCRDs),
			HookTimeout:              in.GetTimeout(hr.GetTimeout()).Duration,
			MaxHistory:               hr.GetMaxHistory(),
			ServerSideApply:          in.ServerSideApply,
			DisableHooks:             in.DisableHooks,
			DisableOpenAPIValidation: in.DisableOpenAPIValidation,
			DisableSchemaValidation:  in.DisableSchemaValidation,
			TakeOwnership:            !in.DisableTakeOwnership,
			Replace:                  len(s.history) > 0,
			PostRenderer:             l.render.For(hr),
			PostRenderStrategy:       string(hr.GetPostRenderStrategy()),
			Labels:                   map[string]string{labelName: hr.Name, labelNS: hr.Namespace},
		},
	}
}

func crdPolicy(p v2.CRDsPolicy, skip bool) release.CRDPolicy {
	if p == "" && skip {
		return release.CRDsSkip
	}
	return release.CRDPolicy(p)
}

// upgradeOptions turns an install into an upgrade.
func upgradeOptions(hr *v2.HelmRelease, req release.Request) release.Request {
	up := hr.GetUpgrade()
	req.CreateNamespace = false
	req.CRDs = release.CRDPolicy(up.CRDs)
	req.HookTimeout = up.GetTimeout(hr.GetTimeout()).Duration
	req.ServerSideApply = serverSide(up.ServerSideApply)
	req.DisableHooks = up.DisableHooks
	req.DisableOpenAPIValidation = up.DisableOpenAPIValidation
	req.DisableSchemaValidation = up.DisableSchemaValidation
	req.TakeOwnership = !up.DisableTakeOwnership
	req.Replace = false
	req.Force = up.Force
	req.CleanupOnFail = up.CleanupOnFail
	req.PreserveValues = up.PreserveValues
	return req
}

func serverSide(mode v2.ServerSideApplyMode) *bool {
	switch mode {
	case v2.ServerSideApplyEnabled, v2.ServerSideApplyDisabled:
		on := mode == v2.ServerSideApplyEnabled
		return &on
	default:
		return nil
	}
}

func (l *loop) rollback(ctx context.Context, s *scope, to int) error {
	hr, rb := s.hr, s.hr.GetRollback()
	req := release.Request{
		Name: s.wanted.Name, Namespace: s.wanted.Namespace, StorageNamespace: s.wanted.StorageNamespace,
		Options: release.Options{
			HookTimeout: rb.GetTimeout(hr.GetTimeout()).Duration, MaxHistory: hr.GetMaxHistory(),
			ServerSideApply: serverSide(rb.ServerSideApply), DisableHooks: rb.DisableHooks,
			Force: rb.Force, CleanupOnFail: rb.CleanupOnFail,
		},
	}
	good := hr.Status.History.Previous(ignoreTests(hr))
	s.known = false
	rel, err := s.releases.Rollback(ctx, req, to)
	if err != nil {
		message := fmt.Sprintf("Helm rollback to previous release %s failed: %s", describeSnapshot(good), s.hide(err))
		conditions.MarkFalse(hr, v2.RemediatedCondition, v2.RollbackFailedReason, "%s", message)
		if rel != nil {
			remember(hr, snapshot(rel, v2.ReleaseActionRollback, ""), ignoreTests(hr))
		}
		return phase.Transient(v2.RollbackFailedReason, errors.New(message))
	}
	message := fmt.Sprintf("Helm rollback to previous release %s succeeded", describeSnapshot(good))
	remember(hr, snapshot(rel, v2.ReleaseActionRollback, good.OCIDigest), ignoreTests(hr))
	conditions.MarkTrue(hr, v2.RemediatedCondition, v2.RollbackSucceededReason, "%s", message)
	l.tell(ctx, s, event.Info, v2.RollbackSucceededReason, message)
	return nil
}

// uninstall removes the wanted release, to install it anew or to leave it.
func (l *loop) uninstall(ctx context.Context, s *scope, why string) error {
	last := s.hr.Status.History.Latest()
	err := l.remove(ctx, s, types.NamespacedName{Namespace: s.wanted.Namespace, Name: s.wanted.Name}, s.wanted.StorageNamespace, false)
	if err != nil {
		message := fmt.Sprintf("Helm uninstall remediation for release %s failed: %s", fullName(s), s.hide(err))
		conditions.MarkFalse(s.hr, v2.RemediatedCondition, v2.UninstallFailedReason, "%s", message)
		return phase.Transient(v2.UninstallFailedReason, errors.New(message))
	}
	message := fmt.Sprintf("Helm uninstall remediation for release %s succeeded: %s", fullName(s), why)
	if last != nil {
		message = fmt.Sprintf("Helm uninstall remediation for release %s succeeded", describeSnapshot(last))
	}
	conditions.MarkTrue(s.hr, v2.RemediatedCondition, v2.UninstallSucceededReason, "%s", message)
	l.tell(ctx, s, event.Info, v2.UninstallSucceededReason, message)
	return nil
}

// replace removes the release of a former name, place or chart.
func (l *loop) replace(ctx context.Context, s *scope, why string) error {
	last := s.hr.Status.History.Latest()
	key := types.NamespacedName{Namespace: last.Namespace, Name: last.Name}
	if err := l.remove(ctx, s, key, formerStorage(s.hr), false); err != nil {
		return phase.Transient(v2.UninstallFailedReason,
			fmt.Errorf("Helm uninstall failed for release %s: %w", describeSnapshot(last), s.hide(err)))
	}
	s.hr.Status.ClearHistory()
	s.hr.Status.ClearFailures()
	s.hr.Status.LastAttemptedReleaseAction = ""
	s.hr.Status.StorageNamespace = ""
	conditions.Delete(s.hr, v2.ReleasedCondition)
	l.tell(ctx, s, event.Info, v2.UninstallSucceededReason,
		fmt.Sprintf("Helm uninstall succeeded for release %s: %s", describeSnapshot(last), why))
	return nil
}

func formerStorage(hr *v2.HelmRelease) string {
	if hr.Status.StorageNamespace != "" {
		return hr.Status.StorageNamespace
	}
	return hr.GetStorageNamespace()
}

// remove uninstalls a release; one that is gone already is no error.
func (l *loop) remove(ctx context.Context, s *scope, key types.NamespacedName, storage string, keep bool) error {
	un := s.hr.GetUninstall()
	l.watcher.Forget(keyOf(s.hr))
	l.ledger.forget(keyOf(s.hr))
	s.known = false
	_, err := s.releases.Uninstall(ctx,
		release.Request{Name: key.Name, Namespace: key.Namespace, StorageNamespace: storage},
		release.Removal{
			DisableHooks: un.DisableHooks, KeepHistory: keep,
			HookTimeout: un.GetTimeout(s.hr.GetTimeout()).Duration, Propagation: un.GetDeletionPropagation(),
		})
	if errors.Is(err, release.ErrNotFound) {
		return nil
	}
	return err
}

// uninstallForGood removes the release of a HelmRelease that is being deleted.
// A suspended HelmRelease leaves its release alone.
func (l *loop) uninstallForGood(ctx context.Context, s *scope) error {
	hr := s.hr
	if hr.Spec.Suspend {
		return nil
	}
	if err := l.impersonate(ctx, s); err != nil {
		return err
	}
	key := types.NamespacedName{Namespace: hr.GetReleaseNamespace(), Name: releaseName(hr)}
	last := hr.Status.History.Latest()
	if last != nil {
		key = types.NamespacedName{Namespace: last.Namespace, Name: last.Name}
	} else if ours, err := l.isOurs(ctx, s, key); err != nil || !ours {
		return l.orphan(ctx, s, err)
	}
	if err := l.remove(ctx, s, key, formerStorage(hr), hr.GetUninstall().KeepHistory); err != nil {
		return l.orphan(ctx, s, err)
	}
	if last != nil {
		l.tell(ctx, s, event.Info, v2.UninstallSucceededReason, fmt.Sprintf("Helm uninstall succeeded for release %s", describeSnapshot(last)))
	}
	return nil
}

// isOurs reports whether storage holds a release that this HelmRelease made
// and could not note in its status.
func (l *loop) isOurs(ctx context.Context, s *scope, key types.NamespacedName) (bool, error) {
	rel, err := s.releases.Last(ctx, key.Name, formerStorage(s.hr))
	if errors.Is(err, release.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return rel.Labels[labelName] == s.hr.Name && rel.Labels[labelNS] == s.hr.Namespace, nil
}

// orphan decides about a removal that failed. When the tenant is gone, nobody
// may act in its place: the release is left behind, and said to be.
func (l *loop) orphan(ctx context.Context, s *scope, err error) error {
	if err == nil {
		return nil
	}
	failure := phase.Transient(v2.UninstallFailedReason, fmt.Errorf("Helm uninstall failed for release of HelmRelease %s: %w", keyOf(s.hr), err))
	if !apierrors.IsForbidden(err) {
		return failure
	}
	gone, lookup := l.tenantGone(ctx, s.hr)
	if lookup != nil || !gone {
		return failure
	}
	l.tell(ctx, s, event.Error, v2.UninstallFailedReason, fmt.Sprintf("service account of HelmRelease %s is gone; its release is left behind", keyOf(s.hr)))
	return nil
}

// tenantGone reports whether the service account does not exist any more.
func (l *loop) tenantGone(ctx context.Context, hr *v2.HelmRelease) (bool, error) {
	own, err := l.tenants.Own()
	if err != nil {
		return false, err
	}
	name := hr.Spec.ServiceAccountName
	if name == "" {
		name = l.defaultIdentity
	}
	err = own.Client.Get(ctx, types.NamespacedName{Namespace: hr.Namespace, Name: name}, &corev1.ServiceAccount{})
	return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
}

// inventory lists the objects of the newest revision.
func inventory(s *scope) (*v2.ResourceInventory, error) {
	objs, err := s.releases.Objects(s.history[0])
	if err != nil {
		return nil, err
	}
	inv := &v2.ResourceInventory{Entries: make([]v2.ResourceRef, 0, len(objs))}
	for _, o := range objs {
		inv.Entries = append(inv.Entries, v2.ResourceRef{
			ID: object.UnstructuredToObjMetadata(o).String(), Version: o.GroupVersionKind().Version,
		})
	}
	slices.SortFunc(inv.Entries, func(a, b v2.ResourceRef) int { return strings.Compare(a.ID, b.ID) })
	return inv, nil
}

func since(start, end time.Time) *metav1.Duration {
	return &metav1.Duration{Duration: end.Sub(start).Round(time.Millisecond)}
}
