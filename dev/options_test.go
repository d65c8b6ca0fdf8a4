package dev

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// programs makes a folder with files that are called as our programs are.
func programs(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOptions(t *testing.T) {
	all := programs(t, "hub", "headwater", "agent")
	kubeconfig := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(kubeconfig, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		why string
		in  Options
		err string // part of the message; empty: accepted
	}{
		"defaults":           {"everything has a default", Options{Bin: all}, ""},
		"foreign":            {"a cluster that was there before", Options{Bin: all, Kubeconfig: kubeconfig}, ""},
		"foreign, simulated": {"whose pods are not real", Options{Bin: all, Kubeconfig: kubeconfig, Simulate: true}, ""},
		"many":               {"a fleet", Options{Bin: all, Clusters: 20}, ""},
		"negative":           {"a number of clusters", Options{Bin: all, Clusters: -1}, "--clusters=-1"},
		"too many":           {"no machine carries that", Options{Bin: all, Clusters: 101}, "--clusters=101"},
		"two foreign":        {"a kubeconfig is one cluster", Options{Bin: all, Kubeconfig: kubeconfig, Clusters: 2}, "leave out --clusters"},
		"foreign node":       {"its nodes are not ours", Options{Bin: all, Kubeconfig: kubeconfig, Node: Real}, "leave it out with --kubeconfig"},
		"missing kubeconfig": {"the file must be there", Options{Bin: all, Kubeconfig: kubeconfig + "x"}, "--kubeconfig:"},
		"simulate alone":     {"it says nothing about our own", Options{Bin: all, Simulate: true}, "add --kubeconfig"},
		"unknown node":       {"the message lists the kinds", Options{Bin: all, Node: "vm"}, "use kwok, containerd or none"},
		"no programs":        {"the message says how to get them", Options{Bin: programs(t, "hub", "agent")}, "headwater is missing, run make build"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := c.in.complete()
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%s: error %v, want %q", c.why, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", c.why, err)
			}
			if got.Clusters < 1 || got.Node == "" || got.Listen == "" || !filepath.IsAbs(got.Dir) || !filepath.IsAbs(got.Bin) {
				t.Errorf("%s: not completed: %+v", c.why, got)
			}
		})
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"plain": "'plain'", "": "''", "it's": `'it'\''s'`, "$HOME `x`": "'$HOME `x`'"} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}
