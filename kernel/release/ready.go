package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling/event"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/cli-utils/pkg/kstatus/watcher"
	"github.com/fluxcd/cli-utils/pkg/object"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ErrNotReady says that objects failed, or were not ready in time.
var ErrNotReady = errors.New("not ready")

// WaitReady blocks until all objects are current, one of them has failed, or
// ctx ends. It watches. The error names each object that is not ready and why.
// It is for processes that have nothing else to do; controllers park.
func (c *Client) WaitReady(ctx context.Context, objs []*unstructured.Unstructured) error {
	ids := make(object.ObjMetadataSet, 0, len(objs))
	seen := make(map[object.ObjMetadata]*event.ResourceStatus, len(objs))
	for _, o := range objs {
		id := object.UnstructuredToObjMetadata(o)
		ids = append(ids, id)
		seen[id] = nil
	}
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := watcher.NewDefaultStatusWatcher(c.conn.Dynamic, c.conn.Mapper)
	opts := watcher.Options{RESTScopeStrategy: watcher.RESTScopeNamespace}
	for e := range w.Watch(ctx, ids, opts) {
		switch e.Type {
		case event.ErrorEvent:
			return fmt.Errorf("watch objects: %w", e.Error)
		case event.ResourceUpdateEvent:
			seen[e.Resource.Identifier] = e.Resource
		}
		if err, done := verdict(seen); done {
			return err
		}
	}
	return fmt.Errorf("%w: %s: %w", ErrNotReady, describeUnready(seen), context.Cause(ctx))
}

func verdict(seen map[object.ObjMetadata]*event.ResourceStatus) (error, bool) {
	all := true
	for _, r := range seen {
		if r != nil && r.Status == status.FailedStatus {
			return fmt.Errorf("%w: %s", ErrNotReady, describeUnready(seen)), true
		}
		all = all && r != nil && r.Status == status.CurrentStatus
	}
	return nil, all
}

func describeUnready(seen map[object.ObjMetadata]*event.ResourceStatus) string {
	var lines []string
	for id, r := range seen {
		name := strings.TrimPrefix(id.Namespace+"/", "/") + id.Name
		switch {
		case r == nil:
			lines = append(lines, fmt.Sprintf("%s/%s: not observed", id.GroupKind.Kind, name))
		case r.Status == status.CurrentStatus:
		case r.Message == "":
			lines = append(lines, fmt.Sprintf("%s/%s: %s", id.GroupKind.Kind, name, r.Status))
		default:
			lines = append(lines, fmt.Sprintf("%s/%s: %s: %s", id.GroupKind.Kind, name, r.Status, r.Message))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}
