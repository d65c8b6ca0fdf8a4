package auth

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// failureBurst failed logins of one client at one address are free; then one
	// more is every failureEvery.
	failureBurst = 10
	failureEvery = 6 * time.Second
	// maxFailing bounds how many pairs are remembered.
	maxFailing = 10_000
)

// failures slows down those who guess. It counts by client and address, so that
// guessing from one address does not lock the client out at another.
type failures struct {
	clock func() time.Time

	mu   sync.Mutex
	seen map[string]*rate.Limiter
}

func newFailures(clock func() time.Time) *failures {
	return &failures{clock: clock, seen: map[string]*rate.Limiter{}}
}

// wait is how long to wait before the next attempt; 0 when it may be now.
func (f *failures) wait(who string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.seen[who]
	if !ok {
		return 0
	}
	missing := 1 - l.TokensAt(f.clock())
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing*float64(failureEvery)).Round(time.Second) + time.Second
}

// add counts a failed attempt.
func (f *failures) add(who string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock()
	l, ok := f.seen[who]
	if !ok {
		if len(f.seen) >= maxFailing {
			f.forget(now)
		}
		l = rate.NewLimiter(rate.Every(failureEvery), failureBurst)
		f.seen[who] = l
	}
	l.AllowN(now, 1)
}

// forget makes room: first those who have recovered, then anybody.
func (f *failures) forget(now time.Time) {
	for who, l := range f.seen {
		if l.TokensAt(now) >= failureBurst {
			delete(f.seen, who)
		}
	}
	for who := range f.seen {
		if len(f.seen) < maxFailing {
			return
		}
		delete(f.seen, who)
	}
}
