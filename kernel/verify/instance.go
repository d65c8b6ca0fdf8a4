package verify

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
)

// renewal is how long a fetched trusted root is used before it is looked for
// again.
const renewal = 24 * time.Hour

// retryPause is how long a failure to fetch the trusted root is remembered, so
// that many objects do not ask at once.
const retryPause = 10 * time.Second

// Instance is the trusted root of a Sigstore instance, fetched when it is first
// needed and renewed once a day through its TUF repository.
type Instance struct {
	// Mirror is the URL of the TUF repository and Root its first root; empty
	// means Sigstore's public instance.
	Mirror string
	Root   []byte
	// Dir keeps what was fetched.
	Dir string

	mu      sync.Mutex
	trusted root.TrustedMaterial
	next    time.Time
	failed  error
}

// Trusted gives the trusted root. When it cannot be renewed, the one that is
// known stays in use for as long as its signatures allow.
func (i *Instance) Trusted(ctx context.Context) (root.TrustedMaterial, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Now().Before(i.next) {
		return i.trusted, i.failed
	}
	o := tuf.DefaultOptions().WithContext(ctx).WithCachePath(i.Dir)
	if i.Mirror != "" {
		o = o.WithRepositoryBaseURL(i.Mirror).WithRoot(i.Root)
	}
	trusted, err := root.FetchTrustedRootWithOptions(o)
	switch {
	case err == nil:
		i.trusted, i.failed, i.next = trusted, nil, time.Now().Add(renewal)
	case i.trusted != nil:
		i.next = time.Now().Add(time.Hour)
	default:
		i.failed, i.next = fmt.Errorf("fetch the trusted root of Sigstore: %w", trimmed(err)), time.Now().Add(retryPause)
	}
	return i.trusted, i.failed
}
