package uplink

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"

	"headwater.dev/api/link"
)

// outbox holds the newest observation of every item until the hub accepted it,
// and after that for the day that the hub forgets it.
type outbox struct {
	mu      sync.Mutex
	stamp   int64
	pending map[string]parcel
	sent    map[string]link.Observed
	ready   chan struct{}
}

// parcel is an observation with the order of its arrival.
type parcel struct {
	stamp    int64
	observed link.Observed
}

func newOutbox() *outbox {
	return &outbox{pending: map[string]parcel{}, sent: map[string]link.Observed{}, ready: make(chan struct{}, 1)}
}

// put takes an observation, within the bounds that the hub checks.
func (o *outbox) put(observed link.Observed) {
	observed = observed.Fit()
	o.mu.Lock()
	o.stamp++
	if observed.TraceParent == "" {
		observed.TraceParent = o.pending[fold(observed.ID)].observed.TraceParent
	}
	o.pending[fold(observed.ID)] = parcel{o.stamp, observed}
	o.mu.Unlock()
	o.wake()
}

func (o *outbox) wake() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// peek returns the oldest observations that fit, without removing them. One is
// returned even when it alone is larger than maxBytes.
func (o *outbox) peek(maxItems, maxBytes int) []parcel {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := slices.SortedFunc(maps.Values(o.pending), func(a, b parcel) int { return int(a.stamp - b.stamp) })
	size := 0
	for i, p := range all {
		raw, err := json.Marshal(p.observed)
		if err != nil {
			continue
		}
		size += len(raw) + 1
		if i == maxItems || i > 0 && size > maxBytes {
			return all[:i]
		}
	}
	return all
}

// accepted removes what was sent, unless something newer has arrived since.
func (o *outbox) accepted(parcels []parcel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range parcels {
		key := fold(p.observed.ID)
		if o.pending[key].stamp == p.stamp {
			delete(o.pending, key)
		}
		if p.observed.Deleted {
			delete(o.sent, key)
			continue
		}
		p.observed.TraceParent = "" // reported once
		o.sent[key] = p.observed
	}
}

// setAside moves a parcel that the hub does not take out of the way of the
// others. It is tried again with the next connection.
func (o *outbox) setAside(p parcel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := fold(p.observed.ID)
	if o.pending[key].stamp == p.stamp {
		delete(o.pending, key)
	}
	o.sent[key] = p.observed
}

// renew makes everything pending that was accepted before and is still
// desired: a hub that was restored from a backup may have forgotten it. What
// is no longer desired, or by another operation, is forgotten here too: the
// generation alone does not tell it from that of a resource that was made anew.
func (o *outbox) renew(desired []link.Item) {
	o.mu.Lock()
	wanted := map[string]link.Item{}
	for _, item := range desired {
		wanted[fold(item.ID)] = item
	}
	for _, key := range slices.Sorted(maps.Keys(o.sent)) {
		if item, ok := wanted[key]; !ok || item.OperationID != o.sent[key].OperationID {
			delete(o.sent, key)
			continue
		}
		if _, newer := o.pending[key]; !newer {
			o.stamp++
			o.pending[key] = parcel{o.stamp, o.sent[key]}
		}
	}
	o.mu.Unlock()
	o.wake()
}

// fold makes ARM ids comparable.
func fold(id string) string { return strings.ToLower(id) }
