package manifest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/kyaml/openapi"
)

// schema guards kustomize's OpenAPI schema. That schema is one per process and
// kept by kustomize itself, so its guard cannot be anything smaller. It is
// parsed once; a build that brings its own schema runs alone and puts the
// built-in one back, so that no build sees another's.
var schema = struct {
	guard *semaphore.Weighted // a build takes one share, one that runs alone all
	once  sync.Once
	err   error
	// left counts the builds whose caller did not wait for their end. Kustomize
	// cannot be interrupted: they go on, hold the guard, and must not become too many.
	left atomic.Int64
}{guard: semaphore.NewWeighted(everybody)}

// everybody is more than builds ever run at once.
const everybody = 1 << 30

func withSharedSchema(ctx context.Context, run func() error) error {
	if err := schema.guard.Acquire(ctx, 1); err != nil {
		return interrupted(err)
	}
	defer schema.guard.Release(1)
	schema.once.Do(prepare)
	if schema.err != nil {
		return schema.err
	}
	return run()
}

// maxCopied bytes by the copy operations of one patch, each of which can double
// an object. The library keeps the limit for the whole process.
const maxCopied = 1 << 20

func prepare() {
	schema.err = builtinSchema()
	jsonpatch.AccumulatedCopySizeLimit = maxCopied
}

// holdBack is how long a build that runs alone keeps others from beginning until
// those that run have ended; between two tries it lets them for lettingOn.
const holdBack, lettingOn = 50 * time.Millisecond, 200 * time.Millisecond

// alone waits, until ctx ends, for a moment in which no other build runs, and holds
// the guard then. Most builds take milliseconds; one that takes minutes is not
// waited for in a way that keeps everybody else from the guard.
func alone(ctx context.Context) error {
	for {
		try, cancel := context.WithTimeout(ctx, holdBack)
		err := schema.guard.Acquire(try, everybody)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return interrupted(ctx.Err())
		case <-time.After(lettingOn):
		}
	}
}

func withOwnSchema(ctx context.Context, run func() error) error {
	schema.once.Do(prepare)
	if err := alone(ctx); err != nil {
		return err
	}
	defer schema.guard.Release(everybody)
	defer func() {
		openapi.ResetOpenAPI()
		schema.err = builtinSchema()
	}()
	return run()
}

// manyObjects is from how many on a build by kustomize may take long: it
// compares each with all others, so twice as many take four times as long.
const manyObjects = 500

var errTooManyLeft = errors.New("builds that took longer than their timeout still run: this one has so many objects that it is not begun beside them; " +
	"split it, or let its kustomizations list resources only")

// interruptible renders until ctx ends. A build that is not over by then goes
// on unheeded until it looks at a file, or its end.
func interruptible(ctx context.Context, r Request) ([]*resource.Resource, *sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, interrupted(err)
	}
	type outcome struct {
		found []*resource.Resource
		box   *sandbox
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if p := recover(); p != nil { // here nobody else would
				o = outcome{err: fmt.Errorf("the build cannot handle this input: %v", p)}
			}
			done <- o
		}()
		o.found, o.box, o.err = render(ctx, r)
	}()
	select {
	case o := <-done:
		return o.found, o.box, o.err
	case <-ctx.Done():
		schema.left.Add(1)
		go func() {
			<-done
			schema.left.Add(-1)
		}()
		return nil, nil, interrupted(ctx.Err())
	}
}

func interrupted(err error) error { return fmt.Errorf("the build was not over in time: %w", err) }

// mayBegin reports whether a build of so many objects may go on, beside those
// that were left.
func mayBegin(objects, left int64) error {
	if objects > manyObjects && left >= int64(runtime.GOMAXPROCS(0)) {
		return errTooManyLeft
	}
	return nil
}
