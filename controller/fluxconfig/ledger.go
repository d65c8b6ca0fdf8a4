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
	// generation as it was answered; 0 for kinds that do not count it.
	generation int64
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
	l.entries[keyOf(answered)] = entry{digest: wanted, uid: string(answered.GetUID()), version: version(answered), generation: answered.GetGeneration()}
}

// behind reports whether an object, read from a cache, is older than what was
// applied: then its status says nothing of what is wanted now.
func (l *ledger) behind(kind string, cached metav1.Object) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.entries[kind+"/"+cached.GetNamespace()+"/"+cached.GetName()]
	return ok && e.uid == string(cached.GetUID()) && cached.GetGeneration() < e.generation
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
