package verify

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"golang.org/x/sync/singleflight"
)

const (
	// renewal is how long a trusted root is used before it is looked for again.
	renewal = 24 * time.Hour
	// stale is when to look again if that failed and there is an older one.
	stale = time.Hour
	// retryPause is how long a failure is remembered when there is none, so
	// that many objects do not ask at once.
	retryPause = 10 * time.Second
)

// Instance is the trusted root of a Sigstore instance, fetched when it is first
// needed and renewed once a day.
type Instance struct {
	// File is a trusted_root.json to use instead of any repository.
	File string
	// Mirror is the URL of a TUF repository and Root its first root; empty
	// means Sigstore's public instance.
	Mirror string
	Root   []byte
	// Dir keeps what was fetched.
	Dir string

	fetching singleflight.Group
	mu       sync.Mutex
	trusted  root.TrustedMaterial
	next     time.Time
	failed   error
}

// Trusted gives the trusted root. It waits for a fetch no longer than ctx
// lives; when the root cannot be renewed, the one that is known stays in use.
func (i *Instance) Trusted(ctx context.Context) (root.TrustedMaterial, error) {
	if trusted, err, known := i.known(time.Now()); known {
		return trusted, err
	}
	select {
	case <-i.fetching.DoChan("", func() (any, error) { i.renew(); return nil, nil }):
	case <-ctx.Done():
		return nil, fmt.Errorf("fetch the trusted root of Sigstore: %w", ctx.Err())
	}
	trusted, err, _ := i.known(time.Now())
	return trusted, err
}

// known gives what is known, and whether that will do at a time.
func (i *Instance) known(now time.Time) (root.TrustedMaterial, error, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.trusted, i.failed, now.Before(i.next)
}

func (i *Instance) renew() {
	trusted, err := i.fetch()
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case err == nil:
		i.trusted, i.failed, i.next = trusted, nil, time.Now().Add(renewal)
	case i.trusted != nil:
		i.next = time.Now().Add(stale)
	default:
		i.failed, i.next = fmt.Errorf("fetch the trusted root of Sigstore: %w", trimmed(err)), time.Now().Add(retryPause)
	}
}

func (i *Instance) fetch() (root.TrustedMaterial, error) {
	if i.File != "" {
		data, err := os.ReadFile(i.File)
		if err != nil {
			return nil, err
		}
		return ParseTrustedRoot(data)
	}
	o := tuf.DefaultOptions().WithCachePath(i.Dir)
	if i.Mirror != "" {
		o = o.WithRepositoryBaseURL(i.Mirror).WithRoot(i.Root)
	}
	return root.FetchTrustedRootWithOptions(o)
}
