package release

import (
	"fmt"
	"sync"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"k8s.io/client-go/discovery"
)

// capabilitiesAge is how long capabilities are believed. It bounds how late a
// chart sees an API that somebody else installed.
const capabilitiesAge = 10 * time.Second

// Cache keeps what a cluster is capable of (versions and kinds), which every
// render needs and no identity changes. Share one per cluster.
type Cache struct {
	mu   sync.Mutex
	caps *common.Capabilities
	read time.Time
}

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{} }

// Invalidate forgets everything; call it after kinds have been added.
func (c *Cache) Invalidate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caps = nil
}

// capabilities returns a copy that the caller may keep.
func (c *Cache) capabilities(d discovery.DiscoveryInterface) (*common.Capabilities, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.caps != nil && time.Since(c.read) < capabilitiesAge {
		return c.caps.Copy(), nil
	}
	version, err := d.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("read the cluster's version: %w", err)
	}
	kinds, err := action.GetVersionSet(d)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("read the cluster's kinds: %w", err)
	}
	c.caps = &common.Capabilities{
		APIVersions: kinds,
		KubeVersion: common.KubeVersion{
			Version: version.GitVersion,
			Major:   version.Major,
			Minor:   version.Minor,
		},
		HelmVersion: common.DefaultCapabilities.HelmVersion,
	}
	c.read = time.Now()
	return c.caps.Copy(), nil
}
