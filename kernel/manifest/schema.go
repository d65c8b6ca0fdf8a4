package manifest

import (
	"sync"

	"sigs.k8s.io/kustomize/kyaml/openapi"
)

// schema guards kustomize's OpenAPI schema. That schema is one per process and
// kept by kustomize itself, so its guard cannot be anything smaller. It is
// parsed once; a build that brings its own schema runs alone and puts the
// built-in one back, so that no build sees another's.
var schema struct {
	sync.RWMutex
	once sync.Once
}

func withSharedSchema(run func() error) error {
	schema.RLock()
	defer schema.RUnlock()
	schema.once.Do(func() { openapi.Schema() })
	return run()
}

func withOwnSchema(run func() error) error {
	schema.Lock()
	defer schema.Unlock()
	defer func() {
		openapi.ResetOpenAPI()
		openapi.Schema()
	}()
	return run()
}
