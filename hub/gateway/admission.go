package gateway

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// admitEvery is how many agents a replica lets begin a connection per second,
	// about half of what two cores can do: ten thousand are back within a minute.
	admitEvery = 400
	// admitAtOnce is how many may be at it at the same time. On a machine that is
	// short of time more would only make all of them late, and then try again.
	admitAtOnce = 64
	// admitWaiting is how many may wait for a place, and admitPatience how long: a
	// short rush passes without anybody being sent away.
	admitWaiting, admitPatience = 1024, 3 * time.Second
	// longestQueue bounds the pause that an agent is asked for.
	longestQueue = time.Minute
)

// admission spreads the return of a fleet, as after the hub's restart: agents
// that find no place are told when to come again, one after the other.
type admission struct {
	clock func() time.Time
	// places holds a token for each beginning in progress.
	places chan struct{}
	// waiting holds one for each that waits for a place.
	waiting chan struct{}

	mu      sync.Mutex
	limiter *rate.Limiter
	// queue is when the last one who was sent away may come again.
	queue time.Time
}

func newAdmission(clock func() time.Time) *admission {
	return &admission{clock: clock, places: make(chan struct{}, admitAtOnce), waiting: make(chan struct{}, admitWaiting),
		limiter: rate.NewLimiter(admitEvery, admitEvery)}
}

// enter takes a place, to be left soon, or refuses with the time to wait. It
// costs next to nothing, so it comes before the caller is known.
func (a *admission) enter(ctx context.Context) (leave func(), err error) {
	leave = func() { <-a.places }
	select {
	case a.places <- struct{}{}:
		return leave, nil
	default:
	}
	select {
	case a.waiting <- struct{}{}:
		defer func() { <-a.waiting }()
	default:
		return nil, a.later()
	}
	ctx, cancel := context.WithTimeout(ctx, admitPatience)
	defer cancel()
	select {
	case a.places <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, a.later()
	}
}

// begin counts one connection of an agent that has proved who it is, or refuses
// it: strangers cannot use up what is the agents'.
func (a *admission) begin() error {
	a.mu.Lock()
	ok := a.limiter.AllowN(a.clock(), 1)
	a.mu.Unlock()
	if ok {
		return nil
	}
	return a.later()
}

// later sends one away, to the end of the queue.
func (a *admission) later() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock()
	if a.queue.Before(now) {
		a.queue = now
	}
	if a.queue = a.queue.Add(time.Second / admitEvery); a.queue.Sub(now) > longestQueue {
		a.queue = now.Add(longestQueue)
	}
	return &refusal{status: http.StatusServiceUnavailable, code: "TooManyConnections", after: max(a.queue.Sub(now), time.Second),
		message: "many agents are connecting at this moment: wait, then try again"}
}
