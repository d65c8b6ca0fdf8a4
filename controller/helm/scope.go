package helm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/event"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
	"headwater.dev/kernel/tenant"
)

// loop is what all reconciles share.
type loop struct {
	client  client.Client
	all     client.Reader // see host.All
	tenants *tenant.Clients
	reader  artifact.Reader
	events  *event.Recorder
	cache   *release.Cache
	watcher *apply.Watcher
	ledger  *ledger
	render  *renderer
	now     func() time.Time

	noCrossNamespace  bool
	defaultIdentity   string
	requeueDependency time.Duration
	detectDrift       bool
}

// scope is what one reconcile has read so far.
type scope struct {
	hr *v2.HelmRelease
	// detectDrift is the default for releases that say nothing of drift.
	detectDrift bool

	force    bool
	source   chartSource
	identity tenant.Identity
	access   *tenant.Access
	releases *release.Client

	values map[string]any
	// secrets are strings that came from Secrets and must not be shown.
	secrets []string

	wanted wanted
	// history in storage, the newest first; known while it is what storage holds.
	history []*release.Release
	known   bool

	// wrote says that this reconcile has written objects.
	wrote bool
	// driftChecked says that drift has been looked for.
	driftChecked bool

	// outcome of a success.
	requeue time.Duration
	event   *event.Event
}

func (l *loop) begin(hr *v2.HelmRelease) *scope { return &scope{hr: hr, detectDrift: l.detectDrift} }

// drift says how drift is to be treated: as the release says, or as the
// operator of the controllers wants it for releases that say nothing.
func (s *scope) drift() v2.DriftDetection {
	if s.hr.Spec.DriftDetection == nil && s.detectDrift {
		return v2.DriftDetection{Mode: v2.DriftDetectionEnabled}
	}
	return s.hr.GetDriftDetection()
}

// phases in order; each is a file or a function that says more.
func (l *loop) phases() []phase.Phase[scope] {
	return []phase.Phase[scope]{
		{Name: "check the specification", Do: l.check},
		{Name: "bring the HelmChart", Do: l.bringChart},
		{Name: "wait for dependencies", Do: l.awaitDependencies},
		{Name: "find the chart", Do: l.findChart},
		{Name: "take the tenant's identity", Do: l.impersonate},
		{Name: "compose the values", Do: l.composeValues},
		{Name: "bring the release", Do: l.converge},
	}
}

func (l *loop) finalizers() []phase.Phase[scope] {
	return []phase.Phase[scope]{
		{Name: "uninstall the release", Do: l.uninstallForGood},
		{Name: "delete the HelmChart", Do: l.deleteChart},
	}
}

// check refuses what cannot work and takes the requests of annotations.
func (l *loop) check(_ context.Context, s *scope) error {
	hr := s.hr
	if hr.Spec.KubeConfig != nil {
		return phase.Stalled("KubeConfigUnsupported", errors.New("spec.kubeConfig: releases on other clusters are not supported; remove the field"))
	}
	if (hr.Spec.Chart == nil) == (hr.Spec.ChartRef == nil) {
		return phase.Stalled("InvalidChartReference", errors.New("exactly one of spec.chart and spec.chartRef must be set"))
	}
	if requested(hr, v2.ResetRequestAnnotation, &hr.Status.LastHandledResetAt) {
		hr.Status.ClearFailures()
	}
	s.force = requested(hr, v2.ForceRequestAnnotation, &hr.Status.LastHandledForceAt)
	return nil
}

// requested reports whether an annotation asks for something that has not been
// handled: its value is new and equals that of the reconcile request.
func requested(hr *v2.HelmRelease, annotation string, handled *string) bool {
	at, ok := hr.Annotations[annotation]
	if !ok || at == *handled {
		return false
	}
	*handled = at
	reconcile, _ := meta.ReconcileAnnotationValue(hr.Annotations)
	return at == reconcile
}

// impersonate opens the cluster in the tenant's name.
func (l *loop) impersonate(_ context.Context, s *scope) error {
	id, access, err := l.identity(s.hr)
	if err != nil {
		return phase.Stalled("AccessDenied", err)
	}
	s.identity, s.access = id, access
	s.releases, err = l.releaseClient(access)
	if err != nil {
		return fmt.Errorf("open the release storage: %w", err)
	}
	return nil
}

func (l *loop) identity(hr *v2.HelmRelease) (tenant.Identity, *tenant.Access, error) {
	name := hr.Spec.ServiceAccountName
	if name == "" {
		name = l.defaultIdentity
	}
	if name == "" && !l.noCrossNamespace {
		access, err := l.tenants.Own()
		return tenant.Identity{}, access, err
	}
	id := tenant.Identity{Namespace: hr.Namespace, ServiceAccount: name}
	access, err := l.tenants.As(id)
	if err != nil {
		return id, nil, fmt.Errorf("act for HelmRelease %s/%s: %w", hr.Namespace, hr.Name, err)
	}
	return id, access, nil
}

// tenant is on whose behalf objects are watched.
func (s *scope) tenant() apply.Tenant {
	return apply.Tenant{Owner: keyOf(s.hr), Identity: s.identity, Access: s.access}
}

func (l *loop) releaseClient(a *tenant.Access) (*release.Client, error) {
	return release.New(release.Connection{
		Config: a.Config, HTTP: a.HTTP, Mapper: a.Mapper, Dynamic: a.Dynamic, Cache: l.cache,
	})
}

// success tells what a chain without error means.
func (l *loop) success(s *scope) phase.Success {
	reason, message := meta.SucceededReason, "release is in sync"
	for _, t := range []string{v2.ReleasedCondition, v2.TestSuccessCondition} {
		if c := conditions.Get(s.hr, t); c != nil && c.Status == "True" {
			reason, message = c.Reason, c.Message
		}
	}
	return phase.Success{Reason: reason, Message: message, Interval: s.requeue, Event: s.event}
}

// metadata of events.
func (l *loop) metadata(s *scope) map[string]string {
	out := map[string]string{}
	if s.wanted.ChartVersion != "" {
		out[v2.GroupVersion.Group+"/"+"revision"] = s.wanted.ChartVersion
	}
	if s.source.ociDigest != "" {
		out[v2.GroupVersion.Group+"/"+"oci-digest"] = s.source.ociDigest
	}
	return out
}

func (l *loop) gone(key types.NamespacedName) {
	l.watcher.Forget(key)
	l.ledger.forget(key)
}

func keyOf(hr *v2.HelmRelease) types.NamespacedName {
	return types.NamespacedName{Namespace: hr.Namespace, Name: hr.Name}
}

// ledger remembers when a release was last verified against storage, and for
// which inputs. It only saves requests: without it everything is verified.
type ledger struct {
	mu   sync.Mutex
	seen map[types.NamespacedName]verification
}

type verification struct {
	inputs string
	at     time.Time
}

func newLedger() *ledger { return &ledger{seen: map[types.NamespacedName]verification{}} }

// fresh returns for how much longer the last verification of the same inputs
// is good; 0 when it has to be repeated.
func (l *ledger) fresh(key types.NamespacedName, inputs string, now time.Time, interval time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.seen[key]
	if !ok || v.inputs != inputs {
		return 0
	}
	// The requeue interval is jittered by 5 %; what comes close to it is due.
	return max(0, v.at.Add(interval*9/10).Sub(now))
}

func (l *ledger) verified(key types.NamespacedName, inputs string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[key] = verification{inputs: inputs, at: now}
}

func (l *ledger) forget(key types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, key)
}
