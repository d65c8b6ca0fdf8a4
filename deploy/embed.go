// Package deploy holds what is installed into clusters: the charts of the hub,
// the agent and the extension, and the CRDs. Everything is embedded, so that a
// program needs no files beside itself.
package deploy

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

//go:generate sh -c "cd .. && deploy/generate.sh"

//go:embed crds all:charts
var files embed.FS

// Charts.
const (
	// ChartAgent connects a cluster to its hub; namespace headwater-system.
	ChartAgent = "agent"
	// ChartExtension runs the controllers; namespace flux-system. Its CRDs are
	// not in it: see CRDs.
	ChartExtension = "extension"
	// ChartHub runs the hub itself, in any cluster and namespace.
	ChartHub = "hub"
)

// Chart returns the directory of a chart.
func Chart(name string) (fs.FS, error) {
	dir, err := fs.Sub(files, path.Join("charts", name))
	if err == nil {
		_, err = fs.Stat(dir, "Chart.yaml")
	}
	if err != nil {
		return nil, fmt.Errorf("there is no chart %q: %w", name, err)
	}
	return dir, nil
}

// Groups of CRDs.
const (
	// GroupFlux are the kinds of the Flux API.
	GroupFlux = "flux"
	// GroupFluxConfig is the kind of api/config.
	GroupFluxConfig = "fluxconfig"
)

// CRDs gives the YAML of the CustomResourceDefinitions of the groups, one
// document per element, in a stable order. Without groups it gives all.
func CRDs(groups ...string) ([][]byte, error) {
	if len(groups) == 0 {
		groups = []string{GroupFlux, GroupFluxConfig}
	}
	var docs [][]byte
	for _, group := range groups {
		names, err := fs.Glob(files, path.Join("crds", group, "*.yaml"))
		if err != nil || len(names) == 0 {
			return nil, fmt.Errorf("there are no CRDs in group %q", group)
		}
		slices.Sort(names)
		for _, name := range names {
			doc, err := files.ReadFile(name)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", name, err)
			}
			docs = append(docs, doc)
		}
	}
	return docs, nil
}
