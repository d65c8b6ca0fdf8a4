package helm

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// ledger remembers when a release was last verified against storage, and for
// which inputs. It only saves requests: without it everything is verified.
type ledger struct {
	mu   sync.Mutex
	seen map[types.NamespacedName]verification
}

type verification struct {
	inputs string
	at     time.Time
}

func newLedger() *ledger { return &ledger{seen: map[types.NamespacedName]verification{}} }

// fresh returns for how much longer the last verification of the same inputs
// is good; 0 when it has to be repeated.
func (l *ledger) fresh(key types.NamespacedName, inputs string, now time.Time, interval time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.seen[key]
	if !ok || v.inputs != inputs {
		return 0
	}
	// The requeue interval is jittered by 5 %; what comes close to it is due.
	return max(0, v.at.Add(interval*9/10).Sub(now))
}

func (l *ledger) verified(key types.NamespacedName, inputs string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[key] = verification{inputs: inputs, at: now}
}

func (l *ledger) forget(key types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, key)
}
