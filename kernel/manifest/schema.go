package manifest

import (
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/kustomize/kyaml/openapi"
)

// schema guards kustomize's OpenAPI schema. That schema is one per process and
// kept by kustomize itself, so its guard cannot be anything smaller. It is
// parsed once; a build that brings its own schema runs alone and puts the
// built-in one back, so that no build sees another's.
var schema struct {
	sync.RWMutex
	once sync.Once
	err  error
}

func withSharedSchema(run func() error) error {
	schema.RLock()
	defer schema.RUnlock()
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

func withOwnSchema(run func() error) error {
	schema.once.Do(prepare)
	schema.Lock()
	defer schema.Unlock()
	defer func() {
		openapi.ResetOpenAPI()
		schema.err = builtinSchema()
	}()
	return run()
}
