//go:build !linux

package process

// dropProgramPages does nothing where the kernel decides alone.
func dropProgramPages() error { return nil }
