package release

import (
	"time"

	"helm.sh/helm/v4/pkg/postrenderer"
)

// CRDPolicy says what happens to the objects of a chart's crds directory.
type CRDPolicy string

const (
	// CRDsCreate creates those that are missing. It is the default of Install.
	CRDsCreate CRDPolicy = "Create"
	// CRDsCreateReplace creates those that are missing and replaces the others.
	CRDsCreateReplace CRDPolicy = "CreateReplace"
	// CRDsSkip does nothing. It is the default of Upgrade.
	CRDsSkip CRDPolicy = "Skip"
)

// defaultHookTimeout bounds each hook when the request says nothing.
const defaultHookTimeout = 5 * time.Minute

// Request is what to release, where and how.
type Request struct {
	// Name of the release.
	Name string
	// Namespace that objects go to which name none.
	Namespace string
	// StorageNamespace keeps the release's Secrets; empty means Namespace.
	StorageNamespace string
	// Chart to release. An action changes it: load it anew for each.
	Chart *Chart
	// Values override the chart's own.
	Values map[string]any
	Options
}

// Options of actions. The zero value is what most callers want: server-side
// apply, hooks on, no history limit.
type Options struct {
	// CreateNamespace makes Namespace (and StorageNamespace) when missing.
	CreateNamespace bool
	// CRDs policy; empty means the action's default.
	CRDs CRDPolicy
	// HookTimeout bounds each hook; 0 means 5 minutes.
	HookTimeout time.Duration
	// MaxHistory limits the stored revisions; 0 means no limit.
	MaxHistory int
	// ServerSideApply off uses three-way merges; nil means on for a new
	// release and as before for an existing one.
	ServerSideApply *bool

	DisableHooks             bool
	DisableOpenAPIValidation bool
	DisableSchemaValidation  bool
	// TakeOwnership adopts existing objects that no or another release owns.
	TakeOwnership bool
	// Force replaces objects that cannot be patched (without server-side apply).
	Force bool
	// CleanupOnFail deletes what a failed upgrade or rollback created.
	CleanupOnFail bool
	// PreserveValues merges Values over those of the last release.
	PreserveValues bool
	// Replace re-uses the name of a failed or uninstalled release.
	Replace bool

	// PostRenderer changes rendered manifests.
	PostRenderer postrenderer.PostRenderer
	// PostRenderStrategy is "combined" (default), "separate" or "nohooks".
	PostRenderStrategy string
	// Labels of the stored release.
	Labels map[string]string
}

func (r Request) storageNamespace() string {
	if r.StorageNamespace != "" {
		return r.StorageNamespace
	}
	return r.Namespace
}

func (r Request) hookTimeout() time.Duration {
	if r.HookTimeout > 0 {
		return r.HookTimeout
	}
	return defaultHookTimeout
}

// serverSide is the mode of a new release.
func (r Request) serverSide() bool { return r.ServerSideApply == nil || *r.ServerSideApply }
