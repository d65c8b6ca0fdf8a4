package host

import (
	"context"

	"github.com/fluxcd/pkg/runtime/leaderelection"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// lease is the name of the lease that the leader holds: each shard has one.
func (o *Options) lease() string {
	const name = "flux-controllers-leader-election"
	if o.WatchLabelSelector == "" {
		return name
	}
	return leaderelection.GenerateID(name, o.WatchLabelSelector)
}

// All reads objects whoever reconciles them: from the cache, and from the API
// server those that the cache does not have because they are of another shard, or
// of a namespace that is not watched.
func (h *Host) All() client.Reader {
	if h.Options.WatchLabelSelector == "" && h.Options.WatchAllNamespaces {
		return h.Manager.GetClient()
	}
	return all{h.Manager.GetClient(), h.Manager.GetAPIReader()}
}

type all struct {
	client.Reader
	live client.Reader
}

// Get implements client.Reader.
func (a all) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	if a.Reader.Get(ctx, key, obj, opts...) == nil {
		return nil
	}
	return a.live.Get(ctx, key, obj, opts...)
}
