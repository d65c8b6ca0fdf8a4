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
	// short of time more would only make all of them late, and then try again. Half
	// of them, and half of those who wait, may be strangers.
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
	// known is for those who have proved before who they are, strangers for all
	// others: they cannot take the places of the known.
	known, strangers lane

	mu      sync.Mutex
	limiter *rate.Limiter
	// queue is when the last one who was sent away may come again.
	queue time.Time
}

// lane has places for beginnings at the same time.
type lane struct {
	// places holds a token for each beginning in progress.
	places chan struct{}
	// waiting holds one for each that waits for a place.
	waiting chan struct{}
}

func newLane() lane {
	return lane{places: make(chan struct{}, admitAtOnce/2), waiting: make(chan struct{}, admitWaiting/2)}
}

func newAdmission(clock func() time.Time) *admission {
	return &admission{clock: clock, known: newLane(), strangers: newLane(), limiter: rate.NewLimiter(admitEvery, admitEvery)}
}

// enter takes a place, to be left soon, or refuses with the time to wait. It
// costs next to nothing, so it comes before the caller's right is looked at.
func (a *admission) enter(ctx context.Context, known bool) (leave func(), err error) {
	l := a.strangers
	if known {
		l = a.known
	}
	leave = func() { <-l.places }
	select {
	case l.places <- struct{}{}:
		return leave, nil
	default:
	}
	select {
	case l.waiting <- struct{}{}:
		defer func() { <-l.waiting }()
	default:
		return nil, a.later()
	}
	ctx, cancel := context.WithTimeout(ctx, admitPatience)
	defer cancel()
	select {
	case l.places <- struct{}{}:
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
