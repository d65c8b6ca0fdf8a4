package release

import (
	"context"
	"errors"
	"fmt"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
)

// Apply installs a release or upgrades it, whatever is stored of it, and is
// what callers want that own a release alone (extensions, the command line).
// A release that has been pending for longer than stale is taken over; a
// release whose removal was interrupted is removed and installed anew.
func (c *Client) Apply(ctx context.Context, req Request, stale time.Duration) (*Release, error) {
	last, err := c.Unlock(ctx, req.Name, req.storageNamespace(), stale)
	switch {
	case errors.Is(err, ErrNotFound):
		return named("install", req)(c.Install(ctx, req))
	case err != nil:
		return nil, err
	}
	switch last.Info.Status {
	case common.StatusUninstalling, common.StatusUninstalled:
		if _, err := c.Uninstall(ctx, req, Removal{}); err != nil && !errors.Is(err, ErrNotFound) {
			return named("uninstall", req)(nil, err)
		}
		return named("install", req)(c.Install(ctx, req))
	default:
		return named("upgrade", req)(c.Upgrade(ctx, req))
	}
}

func named(verb string, req Request) func(*Release, error) (*Release, error) {
	return func(rel *Release, err error) (*Release, error) {
		if err != nil {
			return rel, fmt.Errorf("%s release %s/%s: %w", verb, req.Namespace, req.Name, err)
		}
		return rel, nil
	}
}
