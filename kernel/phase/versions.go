package phase

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// versions remembers the resource version of our last write of each object, so
// that a reconcile never decides from a cache that is older than its own work.
type versions struct {
	mu   sync.Mutex
	last map[types.NamespacedName]string
}

func (v *versions) set(obj client.Object) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last == nil {
		v.last = map[types.NamespacedName]string{}
	}
	v.last[client.ObjectKeyFromObject(obj)] = obj.GetResourceVersion()
}

// newerThan reports whether we wrote a newer version than obj, and forgets the
// write once it has been seen.
func (v *versions) newerThan(obj client.Object) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := client.ObjectKeyFromObject(obj)
	last, ok := v.last[key]
	if !ok {
		return false
	}
	if newer(last, obj.GetResourceVersion()) {
		return true
	}
	delete(v.last, key)
	return false
}

func (v *versions) forget(key types.NamespacedName) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.last, key)
}
