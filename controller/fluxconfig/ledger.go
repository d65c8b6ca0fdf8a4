package fluxconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ledger remembers what was applied last, so that an object that is as it was
// left costs no request. Forgetting costs one request an object.
type ledger struct {
	mu      sync.Mutex
	entries map[string]entry
}

type entry struct {
	digest string
	uid    string
	// generation for kinds that count it, else the resource version.
	version string
}

// current reports whether the wanted object was applied and nobody changed it
// since.
func (l *ledger) current(wanted *unstructured.Unstructured, live *metav1.PartialObjectMetadata) bool {
	if live == nil || live.DeletionTimestamp != nil {
		return false
	}
	l.mu.Lock()
	e, ok := l.entries[keyOf(wanted)]
	l.mu.Unlock()
	return ok && e.digest == digest(wanted) && e.uid == string(live.UID) && e.version == version(live)
}

// set records an object as the API server answered it.
func (l *ledger) set(answered *unstructured.Unstructured, wanted string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries == nil {
		l.entries = map[string]entry{}
	}
	l.entries[keyOf(answered)] = entry{digest: wanted, uid: string(answered.GetUID()), version: version(answered)}
}

// forget drops what is known of an object that was deleted.
func (l *ledger) forget(u *unstructured.Unstructured) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.entries, keyOf(u))
}

func keyOf(u *unstructured.Unstructured) string {
	return u.GetKind() + "/" + u.GetNamespace() + "/" + u.GetName()
}

func version(o metav1.Object) string {
	if g := o.GetGeneration(); g > 0 {
		labels, _ := json.Marshal([]any{g, o.GetLabels(), o.GetAnnotations()})
		return string(labels)
	}
	return o.GetResourceVersion()
}

func digest(u *unstructured.Unstructured) string {
	body, err := json.Marshal(u.Object)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}
