package gateway

import (
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
	// longestQueue bounds the pause that an agent is asked for.
	longestQueue = time.Minute
)

// admission spreads the return of a fleet, as after the hub's restart: agents
// that find no place are told when to come again, one after the other.
type admission struct {
	clock func() time.Time
	// places holds a token for each beginning in progress.
	places chan struct{}

	mu      sync.Mutex
	limiter *rate.Limiter
	// queue is when the last one who was sent away may come again.
	queue time.Time
}

func newAdmission(clock func() time.Time) *admission {
	return &admission{clock: clock, places: make(chan struct{}, admitAtOnce), limiter: rate.NewLimiter(admitEvery, admitEvery)}
}

// enter takes a place, to be left soon, or refuses with the time to wait. It
// costs nothing, so it comes before the caller is known.
func (a *admission) enter() (leave func(), err error) {
	select {
	case a.places <- struct{}{}:
		return func() { <-a.places }, nil
	default:
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
