package kustomize

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/manifest"
	"headwater.dev/kernel/tenant"
)

// known is what is remembered between reconciles of one Kustomization. It only
// saves work: everything is found out again when it is missing.
type known struct {
	// generation, identity and record are the inputs of the build that was
	// applied completely; artifact is the digest it was seen in last.
	generation int64
	identity   tenant.Identity
	record     manifest.Record
	artifact   string

	// digest and refs are what that build gave.
	digest string
	refs   []apply.Ref
	// foreign are those of refs that are left to others.
	foreign []apply.Ref
	// requested is the reconcile request that was answered last.
	requested string
	// tried is what the last apply was for, also of one that failed.
	tried try
	// restored says that this came from before a restart, and that the live
	// objects are to be looked at before it counts.
	restored bool

	// unhealthySince is when the health in progress began, for content that
	// was healthy (wasHealthy) or was not yet.
	unhealthySince time.Time
	content        string
	// pendingSince is when the wait began for what stands in the way of an apply
	// of pendingFor.
	pendingSince time.Time
	pendingFor   string
	wasHealthy   bool
}

// try is the specification and the reconcile request that an apply was for: when
// one of them is new, every object is looked at, once.
type try struct {
	generation int64
	requested  string
}

// memory of all Kustomizations.
type memory struct {
	mu   sync.Mutex
	byID map[types.NamespacedName]known
}

func newMemory() *memory { return &memory{byID: map[types.NamespacedName]known{}} }

func (m *memory) get(key types.NamespacedName) known {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byID[key]
}

func (m *memory) set(key types.NamespacedName, k known) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byID[key] = k
}

// saw notes that another artifact gives the build that was remembered as
// before, unless a reconcile has replaced that: with another artifact, or with
// other inputs, whose files nobody compared.
func (m *memory) saw(key types.NamespacedName, before known, now string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.byID[key]
	if ok && k.artifact == before.artifact && k.generation == before.generation && k.record.Inputs == before.record.Inputs {
		k.artifact = now
		m.byID[key] = k
	}
}

func (m *memory) forget(key types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byID, key)
}
