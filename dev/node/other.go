//go:build !linux

package node

import (
	"context"
	"fmt"
	"runtime"

	"headwater.dev/dev/cluster"
)

// Node is a running cluster with one real node. There are none on this system.
type Node struct{}

// Published are services that programs of this machine reach at Address. There are none on this system.
type Published struct{}

// Reexec does nothing on this system.
func Reexec() {}

// Check says that a real node needs Linux.
func Check() error {
	return fmt.Errorf("%w: it needs Linux, and this is %s; use simulated nodes", ErrUnsupported, runtime.GOOS)
}

// Start fails as Check does.
func Start(context.Context, Config) (*Node, error) { return nil, Check() }

// CleanUp does nothing.
func CleanUp(string) error { return nil }

// Unpublish does nothing.
func Unpublish() error { return nil }

// Publish fails as Check does.
func Publish(context.Context, ...int) (*Published, error) { return nil, Check() }

// Add fails as Check does.
func (*Published) Add(context.Context, int) error { return Check() }

// Close does nothing.
func (*Published) Close() error { return nil }

// Cluster is nil.
func (*Node) Cluster() *cluster.Cluster { return nil }

// Serve fails as Check does.
func (*Node) Serve(int) error { return Check() }

// Import fails as Check does.
func (*Node) Import(context.Context, string) error { return Check() }

// Command is empty.
func (*Node) Command() []string { return nil }

// Err fails as Check does.
func (*Node) Err() error { return Check() }

// Stop does nothing.
func (*Node) Stop() error { return nil }
