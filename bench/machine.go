package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// machine is what a number depends on besides the scenario.
type machine struct {
	describe string // cores, model and memory
	commit   string // short, with -dirty when files differ from it
	load     string // the average over a minute, before anything started
}

func thisMachine(ctx context.Context) (machine, error) {
	cpu, err := field("/proc/cpuinfo", `(?m)^model name\s*:\s*(.+)$`)
	if err != nil {
		return machine{}, err
	}
	kib, err := number("/proc/meminfo", `(?m)^MemTotal:\s*(\d+) kB$`)
	if err != nil {
		return machine{}, err
	}
	load, err := field("/proc/loadavg", `^(\S+)`)
	if err != nil {
		return machine{}, err
	}
	commit, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return machine{}, fmt.Errorf("ask git for the commit: %w", err)
	}
	return machine{
		describe: fmt.Sprintf("%d × %s, %.0f GiB, %s", runtime.NumCPU(), cpu, float64(kib)/(1<<20), runtime.GOOS+"/"+runtime.GOARCH),
		commit:   strings.TrimSpace(string(commit)), load: load,
	}, nil
}

// field returns what a pattern's group matches in a file.
func field(file, pattern string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read what the machine is doing (Linux only): %w", err)
	}
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("%s has nothing like %s", file, pattern)
	}
	return strings.TrimSpace(string(found[1])), nil
}

func number(file, pattern string) (int64, error) {
	text, err := field(file, pattern)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	return n, nil
}
