package resource

import (
	"bytes"
	"encoding/json"
)

// MaxAdditional bounds additionalConfigurations, in bytes of JSON.
const MaxAdditional = 64 << 10

// HasAdditional reports whether additionalConfigurations says anything.
func HasAdditional(raw json.RawMessage) bool {
	trimmed := bytes.TrimSpace(raw)
	return len(trimmed) > 0 && string(trimmed) != "null" && string(trimmed) != "{}"
}

// DecidedBy tells, for the spec of a generated Flux object, which keys a
// property of the configuration decides, and which property that is.
// additionalConfigurations cannot have those keys. kind is a source kind of a
// configuration or "Kustomization".
func DecidedBy(kind string) map[string]string {
	out := map[string]string{
		"interval": "syncIntervalInSeconds", "timeout": "timeoutInSeconds", "suspend": "suspend",
	}
	add := func(more map[string]string) map[string]string {
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	switch kind {
	case SourceGitRepository:
		return add(map[string]string{"url": "url", "sparseCheckout": "sparseCheckout"})
	case SourceBucket:
		return add(map[string]string{"endpoint": "url", "bucketName": "bucketName", "insecure": "insecure"})
	case SourceAzureBlob:
		return add(map[string]string{"endpoint": "url", "bucketName": "containerName", "provider": "sourceKind"})
	case SourceOCIRepository:
		return add(map[string]string{"url": "url", "insecure": "insecure"})
	default:
		return add(map[string]string{"path": "path", "prune": "prune", "force": "force", "wait": "wait",
			"retryInterval": "retryIntervalInSeconds", "sourceRef": "sourceKind"})
	}
}
