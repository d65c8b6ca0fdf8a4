package kustomize

import (
	"context"
	"errors"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/cloud"
	"headwater.dev/kernel/event"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/manifest"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/tenant"
)

// loop is what all reconciles share.
type loop struct {
	client  client.Client
	live    client.Reader
	all     client.Reader // see host.All
	tenants *tenant.Clients
	reader  artifact.Reader
	events  *event.Recorder
	options host.Options
	engine  *apply.Engine
	watcher *apply.Watcher
	// inputs watches the Secrets and ConfigMaps that Kustomizations read.
	inputs *apply.Watcher
	clouds *cloud.Providers
	memory *memory
	store  store
	wakes  *wakes
	now    func() time.Time
}

// scope is what one reconcile has read and done so far.
type scope struct {
	obj     *kustomizev1.Kustomization
	key     types.NamespacedName
	started time.Time
	write   func(context.Context) error // the status so far
	claim   phase.Claim                 // writes the finalizer
	// known is what is remembered of the last reconcile; it only saves work.
	known    known
	receipts []apply.Receipt // of before a restart
	judge    apply.Judge
	ignores  apply.Ignores

	source   sourcev1.Source
	artifact *meta.Artifact
	// local is who acts in this cluster, tenant who does where the objects are.
	local, tenant apply.Tenant
	files         *artifact.Content // nil until it is needed

	vars    *manifest.Variables
	request manifest.Request // of the build
	built   *manifest.Result // nil while nothing was built
	refs    []apply.Ref      // what the build gave, or gave last time
	// recorded is the inventory as it was before this reconcile.
	recorded []apply.Ref
	changes  []apply.Change
	// foreign are objects of the build that are left to others.
	foreign []apply.Ref
	fights  []apply.Fight
	recheck time.Duration // when not zero, health is to be looked at by then
}

// fault lets tests end the process at a point.
func (l *loop) fault(point string) {
	if l.options.Fault != nil {
		l.options.Fault(point)
	}
}

func (l *loop) begin(k *kustomizev1.Kustomization) *scope {
	key := client.ObjectKeyFromObject(k)
	s := &scope{obj: k, key: key, started: l.now(), known: l.memory.get(key)}
	if refs, ok := intended(k); ok {
		k.Status.Inventory = apply.Inventory(refs)
	}
	if s.known.generation == 0 {
		if n, receipts, ok := l.store.load(key, k.UID); ok {
			s.known, s.receipts = n, receipts
		}
	}
	return s
}

// phases of a reconcile, in order: this list is what the loop does.
func (l *loop) phases() []phase.Phase[scope] {
	return []phase.Phase[scope]{
		{Name: "check the specification", Do: l.checkSpec},
		{Name: "find the source", Do: l.findSource},
		{Name: "check the dependencies", Do: l.checkDependencies},
		{Name: "become the tenant", Do: l.becomeTenant},
		{Name: "see the live objects", Do: l.seeLive},
		{Name: "build what changed", Do: l.build},
		{Name: "record what is about to be applied", Do: l.recordIntent},
		{Name: "apply what changed", Do: l.apply},
		{Name: "prune what is gone", Do: l.prune},
		{Name: "judge the health", Do: l.checkHealth},
	}
}

// finalizers run when the Kustomization is deleted.
func (l *loop) finalizers() []phase.Phase[scope] {
	return []phase.Phase[scope]{{Name: "prune everything", Do: l.pruneAll}}
}

func (s *scope) revision() string {
	if s.artifact == nil {
		return ""
	}
	return s.artifact.Revision
}

func (s *scope) originRevision() string {
	if s.artifact == nil {
		return ""
	}
	return s.artifact.Metadata[ociRevision]
}

// ociRevision is where OCI artifacts name the revision that they were made of.
const ociRevision = "org.opencontainers.image.revision"

// waits reports whether the Kustomization asks for health.
func waits(k *kustomizev1.Kustomization) bool {
	return k.Spec.Wait || len(k.Spec.HealthChecks) > 0
}

// perObject is what a large apply or prune gets for each object besides
// spec.timeout: a cluster that does ten in a second is slow, and not stuck.
const perObject = 100 * time.Millisecond

// limited bounds an apply or a prune of n objects, so that no cluster holds a
// worker for good. What was done until then is known the next time.
func (s *scope) limited(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	limit := s.obj.GetTimeout() + time.Duration(n)*perObject
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s (spec.timeout, and %s for each object)", limit, perObject))
}

// overdue says of an error that came with the end of the time that it did.
func overdue(ctx context.Context, err error) error {
	if err == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}
