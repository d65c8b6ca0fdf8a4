package gateway

import (
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// quota names something that one cluster's agents may do only so often.
type quota string

const (
	tokenQuota   quota = "token requests"
	desiredQuota quota = "questions for what is desired"
	reportQuota  quota = "reports"
	bytesQuota   quota = "bytes of reports"
)

// limits are how much a second, and at once, one cluster may have of it at each
// replica. An agent that works never comes near.
func (q quota) limits() (rate.Limit, int) {
	switch q {
	case tokenQuota:
		return 0.5, 20
	case desiredQuota:
		return 2, 40
	case reportQuota:
		return 20, 200
	default:
		return 1 << 20, 32 << 20
	}
}

// forgetQuotas is how long a silent cluster's quotas are remembered; all of them
// are full again by then.
const forgetQuotas = 10 * time.Minute

// quotas are all of this process, by cluster.
type quotas struct {
	clock func() time.Time

	mu    sync.Mutex
	spent map[string]*spending
	swept time.Time
}

type spending struct {
	last    time.Time
	buckets map[quota]*rate.Limiter
}

func newQuotas(clock func() time.Time) *quotas {
	return &quotas{clock: clock, spent: map[string]*spending{}}
}

// allow takes n of a cluster's quota, or refuses with the time to wait.
func (q *quotas) allow(cluster string, of quota, n int) error {
	now := q.clock()
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Sub(q.swept) > forgetQuotas {
		q.swept = now
		for key, s := range q.spent {
			if now.Sub(s.last) > forgetQuotas {
				delete(q.spent, key)
			}
		}
	}
	s := q.spent[cluster]
	if s == nil {
		s = &spending{buckets: map[quota]*rate.Limiter{}}
		q.spent[cluster] = s
	}
	s.last = now
	b := s.buckets[of]
	if b == nil {
		b = rate.NewLimiter(of.limits())
		s.buckets[of] = b
	}
	r := b.ReserveN(now, min(n, b.Burst()))
	delay := r.DelayFrom(now)
	if delay == 0 {
		return nil
	}
	r.CancelAt(now)
	return &refusal{status: http.StatusTooManyRequests, code: "TooManyRequests", after: delay,
		message: "this cluster's agents send too many " + string(of) + ": wait, then go on"}
}
