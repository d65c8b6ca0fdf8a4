package gateway

import (
	"crypto/rsa"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// strangersEvery is how many failures a second one address may have in the long
	// run, strangersBurst how many at once. Each costs a look into the store. Agents
	// that are let in never count, so those behind one address do not crowd each
	// other out.
	strangersEvery, strangersBurst = 5, 200
	// maxAddresses bounds how many addresses are remembered.
	maxAddresses = 20_000
	// ipv6Network is how many bits of an IPv6 address count: whoever has one address
	// has all with these.
	ipv6Network = 64
	// maxKnown bounds how many clusters' keys are remembered.
	maxKnown = 50_000
)

// strangers bounds, by address, how often somebody may fail to prove who he is.
type strangers struct {
	clock func() time.Time

	mu    sync.Mutex
	spent map[string]*rate.Limiter
}

func newStrangers(clock func() time.Time) *strangers {
	return &strangers{clock: clock, spent: map[string]*rate.Limiter{}}
}

// room refuses an address that has failed too often, with the time to wait.
func (s *strangers) room(address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.spent[network(address)]
	if !ok {
		return nil
	}
	left := b.TokensAt(s.clock())
	if left >= 1 {
		return nil
	}
	return &refusal{status: http.StatusTooManyRequests, code: "TooManyRequests", after: time.Duration((1 - left) / strangersEvery * float64(time.Second)),
		message: "too many from this address failed to prove which cluster they are: wait, then try again"}
}

// charge counts a failure.
func (s *strangers) charge(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, name := s.clock(), network(address)
	b, ok := s.spent[name]
	if !ok {
		if len(s.spent) >= maxAddresses {
			s.forget(now)
		}
		b = rate.NewLimiter(strangersEvery, strangersBurst)
		s.spent[name] = b
	}
	b.AllowN(now, 1)
}

// forget makes room: first those who have rested, then anybody.
func (s *strangers) forget(now time.Time) {
	for name, b := range s.spent {
		if b.TokensAt(now) >= strangersBurst {
			delete(s.spent, name)
		}
	}
	for name := range s.spent {
		if len(s.spent) < maxAddresses*3/4 {
			return
		}
		delete(s.spent, name)
	}
}

// network is what an address is counted as: itself, or its network of IPv6.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Unmap().Is4() {
		return address
	}
	n, err := ip.WithZone("").Prefix(ipv6Network)
	if err != nil {
		return address
	}
	return n.String()
}

// acquaintances are the keys of clusters that have proved themselves to this
// process. Whoever signs with one is let in before strangers, and without a look
// at how many of those there are; his right is checked all the same.
type acquaintances struct {
	mu   sync.Mutex
	keys map[string]*rsa.PublicKey
}

func newAcquaintances() *acquaintances { return &acquaintances{keys: map[string]*rsa.PublicKey{}} }

// knows reports whether an assertion is signed with a key that was good before.
func (k *acquaintances) knows(a assertion) bool {
	k.mu.Lock()
	key := k.keys[a.cluster]
	k.mu.Unlock()
	return key != nil && a.signedWith(key)
}

func (k *acquaintances) note(cluster string, key *rsa.PublicKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys) >= maxKnown {
		for name := range k.keys { // anybody
			if delete(k.keys, name); len(k.keys) < maxKnown*3/4 {
				break
			}
		}
	}
	k.keys[cluster] = key
}

// forget is for a key that is good no more.
func (k *acquaintances) forget(cluster string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, cluster)
}
