// Package limit bounds how much one principal, and one address, may ask of the
// users' door, so that nobody crowds the others out. The counts are those of
// one process: with several replicas behind one address each allows its own.
package limit

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
)

// Rate is a bucket: it holds Burst requests and gets PerSecond new ones. Without
// PerSecond there is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Config says how much is allowed. The zero Config allows everything.
type Config struct {
	// Reads, Writes and Deletes are of one principal.
	Reads, Writes, Deletes Rate
	// Address is of one peer, before anything is known of it. A request that is
	// not let in counts as much as RefusedCosts others.
	Address Rate
	// Clock is time.Now when nil.
	Clock func() time.Time
}

// Defaults are generous: they stop a loop that runs wild, not a fleet.
func Defaults() Config {
	return Config{Reads: Rate{500, 10_000}, Writes: Rate{250, 20_000}, Deletes: Rate{250, 20_000}, Address: Rate{1000, 40_000}}
}

const (
	// RefusedCosts is what a request costs its address that ends with 401.
	RefusedCosts = 50
	// maxBuckets bounds how many principals, and how many addresses, are
	// remembered.
	maxBuckets = 20_000
	// network is how many bits of an IPv6 address count: whoever has one address
	// has all with these.
	network = 64
)

// Limiter counts. Use it from any number of goroutines.
type Limiter struct {
	config Config
	clock  func() time.Time

	mu sync.Mutex
	// buckets are those of principals, addresses those of peers: strangers, who
	// may have many addresses, push no principal out.
	buckets, addresses pool
}

// pool are buckets by name.
type pool map[string]*rate.Limiter

// New makes a Limiter whose buckets are full.
func New(c Config) *Limiter {
	l := &Limiter{config: c, clock: c.Clock, buckets: pool{}, addresses: pool{}}
	if l.clock == nil {
		l.clock = time.Now
	}
	return l
}

// take takes n from a bucket and answers what is left; below zero nothing was
// taken, and wait is when there will be enough.
func (l *Limiter) take(from pool, name string, r Rate, n int) (left int, wait time.Duration) {
	if r.PerSecond <= 0 {
		return math.MaxInt32, 0
	}
	burst := max(r.Burst, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	b, ok := from[name]
	if !ok {
		if len(from) >= maxBuckets {
			from.forget(now)
		}
		b = rate.NewLimiter(rate.Limit(r.PerSecond), burst)
		from[name] = b
	}
	if !b.AllowN(now, min(n, burst)) {
		missing := float64(min(n, burst)) - b.TokensAt(now)
		return -1, time.Duration(missing / r.PerSecond * float64(time.Second))
	}
	return int(b.TokensAt(now)), 0
}

// forget makes room: first those who have rested, then anybody.
func (p pool) forget(now time.Time) {
	for name, b := range p {
		if b.TokensAt(now) >= float64(b.Burst()) {
			delete(p, name)
		}
	}
	for name := range p {
		if len(p) < maxBuckets*3/4 {
			return
		}
		delete(p, name)
	}
}

// Gate counts by principal, tells what remains, and refuses what is too much
// with 429 and when to come back.
func (l *Limiter) Gate(_ context.Context, a *auth.Attempt, next func() error) error {
	class, r := "writes", l.config.Writes
	switch {
	case !a.Write():
		class, r = "reads", l.config.Reads
	case a.Method == http.MethodDelete:
		class, r = "deletes", l.config.Deletes
	}
	left, wait := l.take(l.buckets, class+" "+a.Who.ObjectID, r, 1)
	if left < 0 {
		a.Header.Set("Retry-After", seconds(wait))
		a.Header.Set("x-ms-ratelimit-remaining-subscription-"+class, "0")
		return arm.Errorf(arm.CodeTooManyRequests, "The client '%s' sends too many requests: its limit of %s is %g a second. Come back in %s seconds.",
			a.Who.ID, class, r.PerSecond, seconds(wait))
	}
	if r.PerSecond > 0 {
		a.Header.Set("x-ms-ratelimit-remaining-subscription-"+class, strconv.Itoa(left))
	}
	return next()
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d/time.Second) + 1) }

// Addresses counts by peer before anything else is done for a request, and
// makes those pay more who are not let in.
func (l *Limiter) Addresses(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := peer(auth.Address(r))
		if left, wait := l.take(l.addresses, name, l.config.Address, 1); left < 0 {
			tooMany(w, wait)
			return
		}
		sw := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(sw, r)
		if sw.status == http.StatusUnauthorized {
			l.charge(name)
		}
	})
}

// peer is what an address is counted as: itself, or its network of IPv6.
func peer(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Unmap().Is4() {
		return address
	}
	n, err := ip.WithZone("").Prefix(network)
	if err != nil {
		return address
	}
	return n.String()
}

// charge takes what a refused request costs, or as much as there is.
func (l *Limiter) charge(name string) {
	if left, _ := l.take(l.addresses, name, l.config.Address, RefusedCosts-1); left >= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.addresses[name]; ok {
		now := l.clock()
		b.AllowN(now, int(max(b.TokensAt(now), 0)))
	}
}

func tooMany(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", seconds(wait))
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusTooManyRequests)
	_ = json.NewEncoder(w).Encode(arm.ErrorBody{Error: arm.Error{Code: arm.CodeTooManyRequests, // the client is gone: nobody to tell
		Message: "Too many requests come from this address. Come back in " + seconds(wait) + " seconds."}})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader is that of http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets deadlines be set through the wrapper.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
