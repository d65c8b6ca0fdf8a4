//go:build !linux

package process

// fixedProgram names nothing, and dropProgramPages does nothing, where the
// kernel decides alone.
func fixedProgram() (string, error) { return "", nil }

func dropProgramPages(string) error { return nil }

// mappedBytes is nothing where nothing is known of it.
func mappedBytes() (int64, error) { return 0, nil }
