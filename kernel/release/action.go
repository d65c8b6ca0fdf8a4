package release

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	hrelease "helm.sh/helm/v4/pkg/release"
	rspb "helm.sh/helm/v4/pkg/release/v1"
)

// Install makes the first revision of a release. When objects have been
// written before the failure, the failed release is returned along with the
// error. Cancelling ctx ends running hooks, not writes in progress.
func (c *Client) Install(ctx context.Context, req Request) (*Release, error) {
	if req.CRDs == "" {
		req.CRDs = CRDsCreate
	}
	if err := c.prepare(ctx, req); err != nil {
		return nil, err
	}
	cfg, k, err := c.configuration(req)
	if err != nil {
		return nil, err
	}
	k.force = req.serverSide()
	a := action.NewInstall(cfg)
	a.ReleaseName = req.Name
	a.Namespace = req.Namespace
	a.ServerSideApply = req.serverSide()
	a.ForceConflicts = req.serverSide()
	a.ForceReplace = req.Force && !req.serverSide()
	a.SkipCRDs = true
	a.DisableHooks = req.DisableHooks
	a.DisableOpenAPIValidation = req.DisableOpenAPIValidation
	a.SkipSchemaValidation = req.DisableSchemaValidation
	a.Replace = req.Replace
	a.TakeOwnership = req.TakeOwnership
	a.Timeout = req.hookTimeout()
	a.WaitStrategy = kube.HookOnlyStrategy
	a.WaitOptions = waitOptions(ctx)
	a.EnableDNS = false
	a.Labels = req.Labels
	a.PostRenderer = req.PostRenderer
	if req.PostRenderStrategy != "" {
		a.PostRenderStrategy = action.PostRenderStrategy(req.PostRenderStrategy)
	}
	rel, err := a.RunWithContext(context.WithoutCancel(ctx), req.Chart, req.Values)
	return result(rel, k.explain(err))
}

// Upgrade makes the next revision of a release. The failed release is
// returned along with the error when one has been stored.
func (c *Client) Upgrade(ctx context.Context, req Request) (*Release, error) {
	if req.CRDs == "" {
		req.CRDs = CRDsSkip
	}
	if err := c.prepare(ctx, req); err != nil {
		return nil, err
	}
	cfg, k, err := c.configuration(req)
	if err != nil {
		return nil, err
	}
	if k.force, err = c.serverSide(ctx, req); err != nil {
		return nil, err
	}
	a := action.NewUpgrade(cfg)
	a.Namespace = req.Namespace
	a.ServerSideApply = strconv.FormatBool(k.force)
	a.ForceConflicts = k.force
	a.ForceReplace = req.Force && !k.force
	a.SkipCRDs = true
	a.DisableHooks = req.DisableHooks
	a.DisableOpenAPIValidation = req.DisableOpenAPIValidation
	a.SkipSchemaValidation = req.DisableSchemaValidation
	a.TakeOwnership = req.TakeOwnership
	a.CleanupOnFail = req.CleanupOnFail
	a.MaxHistory = req.MaxHistory
	a.ReuseValues = req.PreserveValues
	a.ResetValues = !req.PreserveValues
	a.Timeout = req.hookTimeout()
	a.WaitStrategy = kube.HookOnlyStrategy
	a.WaitOptions = waitOptions(ctx)
	a.EnableDNS = false
	a.Labels = req.Labels
	a.PostRenderer = req.PostRenderer
	if req.PostRenderStrategy != "" {
		a.PostRenderStrategy = action.PostRenderStrategy(req.PostRenderStrategy)
	}
	rel, err := a.RunWithContext(context.WithoutCancel(ctx), req.Name, req.Chart, req.Values)
	return result(rel, k.explain(err))
}

// Rollback makes a new revision with the content of an older one and returns
// the release that is stored afterwards.
func (c *Client) Rollback(ctx context.Context, req Request, to int) (*Release, error) {
	cfg, k, err := c.configuration(req)
	if err != nil {
		return nil, err
	}
	if k.force, err = c.serverSide(ctx, req); err != nil {
		return nil, err
	}
	a := action.NewRollback(cfg)
	a.Version = to
	a.ServerSideApply = strconv.FormatBool(k.force)
	a.ForceConflicts = k.force
	a.ForceReplace = req.Force && !k.force
	a.DisableHooks = req.DisableHooks
	a.CleanupOnFail = req.CleanupOnFail
	a.MaxHistory = req.MaxHistory
	a.Timeout = req.hookTimeout()
	a.WaitStrategy = kube.HookOnlyStrategy
	a.WaitOptions = waitOptions(ctx)
	failure := k.explain(a.Run(req.Name))
	rel, err := c.Last(ctx, req.Name, req.storageNamespace())
	if failure != nil {
		return rel, failure
	}
	return rel, err
}

// Removal is how to uninstall.
type Removal struct {
	// DisableHooks leaves out the delete hooks.
	DisableHooks bool
	// KeepHistory keeps the release's record, marked as uninstalled.
	KeepHistory bool
	// HookTimeout bounds each hook; 0 means 5 minutes.
	HookTimeout time.Duration
	// Propagation is background (default), foreground or orphan.
	Propagation string
}

// Uninstall deletes a release's objects and, unless history is kept, its
// record. It does not wait until the objects are gone. A release that does
// not exist is ErrNotFound. The removed release is returned when it is known.
func (c *Client) Uninstall(ctx context.Context, req Request, how Removal) (*Release, error) {
	req.HookTimeout = how.HookTimeout
	if _, err := c.Last(ctx, req.Name, req.storageNamespace()); err != nil {
		return nil, err
	}
	cfg, k, err := c.configuration(req)
	if err != nil {
		return nil, err
	}
	k.lenient = true
	a := action.NewUninstall(cfg)
	a.DisableHooks = how.DisableHooks
	a.KeepHistory = how.KeepHistory
	a.DeletionPropagation = how.Propagation
	if a.DeletionPropagation == "" {
		a.DeletionPropagation = "background"
	}
	a.Timeout = req.hookTimeout()
	a.WaitStrategy = kube.HookOnlyStrategy
	a.WaitOptions = waitOptions(ctx)
	res, err := a.Run(req.Name)
	if res == nil {
		return nil, k.explain(err)
	}
	return result(res.Release, k.explain(err))
}

// Filter selects tests by name.
type Filter struct {
	Name    string
	Exclude bool
}

// Test runs the release's test hooks, one after the other, each within the
// request's HookTimeout. The release carries the outcome of each.
func (c *Client) Test(ctx context.Context, req Request, filters []Filter) (*Release, error) {
	cfg, k, err := c.configuration(req)
	if err != nil {
		return nil, err
	}
	a := action.NewReleaseTesting(cfg)
	a.Namespace = req.Namespace
	a.Timeout = req.hookTimeout()
	a.WaitOptions = waitOptions(ctx)
	for _, f := range filters {
		key := action.IncludeNameFilter
		if f.Exclude {
			key = action.ExcludeNameFilter
		}
		a.Filters[key] = append(a.Filters[key], f.Name)
	}
	rel, shutdown, err := a.Run(req.Name)
	if shutdown != nil {
		err = errors.Join(err, shutdown())
	}
	return result(rel, k.explain(err))
}

// serverSide is the mode of an action on an existing release: what is asked
// for, or else what its newest revision used.
func (c *Client) serverSide(ctx context.Context, req Request) (bool, error) {
	if req.ServerSideApply != nil {
		return *req.ServerSideApply, nil
	}
	last, err := c.Last(ctx, req.Name, req.storageNamespace())
	if err != nil {
		return false, err
	}
	return last.ApplyMethod == string(rspb.ApplyMethodServerSideApply), nil
}

func waitOptions(ctx context.Context) []kube.WaitOption {
	return []kube.WaitOption{kube.WithWaitContext(ctx)}
}

// result unpacks what Helm returns; typed nils become nil.
func result(r hrelease.Releaser, err error) (*Release, error) {
	switch rel := r.(type) {
	case *Release:
		return rel, err
	case nil:
		return nil, err
	default:
		return nil, errors.Join(err, fmt.Errorf("unexpected kind of release %T", r))
	}
}

// explain adds the deletions that failed, which Helm keeps to itself.
func (k *kubeClient) explain(err error) error {
	if err == nil || len(k.deletions) == 0 {
		return err
	}
	return fmt.Errorf("%w: %w", err, errors.Join(k.deletions...))
}
