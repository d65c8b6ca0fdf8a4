//go:build !linux

package process

// dropProgramPages does nothing where the kernel decides alone.
func dropProgramPages() error { return nil }

// mappedBytes is nothing where nothing is known of it.
func mappedBytes() (int64, error) { return 0, nil }
