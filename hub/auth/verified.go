package auth

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// mostVerified bounds the tokens that are remembered; more are verified each time.
	mostVerified = 100_000
	// forgetVerified is how often those that have ended are forgotten.
	forgetVerified = time.Minute
)

// verified remembers agents' tokens whose signature, issuer and audience are
// good: an agent uses one for a quarter of an hour, and looking at a signature
// is most of what a heartbeat would cost. Tokens are kept as digests.
type verified struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]claims
	swept time.Time
}

// get answers the claims of a token that was good before; whether it still is in
// its time is for the caller to see.
func (v *verified) get(token string) (claims, bool) {
	sum := sha256.Sum256([]byte(token))
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.known[sum]
	return c, ok
}

// put remembers a token that is good now.
func (v *verified) put(token string, c claims, now time.Time) {
	sum := sha256.Sum256([]byte(token))
	v.mu.Lock()
	defer v.mu.Unlock()
	if now.Sub(v.swept) > forgetVerified {
		v.swept = now
		for key, old := range v.known {
			if now.After(old.Expiry.Time().Add(Skew)) {
				delete(v.known, key)
			}
		}
	}
	if len(v.known) >= mostVerified {
		return
	}
	if v.known == nil {
		v.known = map[[sha256.Size]byte]claims{}
	}
	v.known[sum] = c
}
