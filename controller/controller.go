// Package controller is the table of contents of the loops.
package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"headwater.dev/controller/fluxconfig"
	"headwater.dev/controller/generator"
	"headwater.dev/controller/helm"
	"headwater.dev/controller/kustomize"
	"headwater.dev/controller/source"
	"headwater.dev/kernel/host"
)

// loop is a set of kinds with their reconcilers.
type loop struct {
	name  string
	setup func(context.Context, *host.Host) error
}

// loops in the order of the data flow.
func loops() []loop {
	return []loop{
		{"fluxconfig", fluxconfig.Setup},    // FluxConfig → a source, Kustomizations, Secrets, rights
		{"source", source.Setup},            // GitRepository, OCIRepository, HelmRepository, HelmChart, Bucket → artifact
		{"source-watcher", generator.Setup}, // ArtifactGenerator: artifacts → ExternalArtifact
		{"kustomize", kustomize.Setup},      // Kustomization: artifact → build → apply → prune → health
		{"helm", helm.Setup},                // HelmRelease: chart → release
	}
}

// Names of all loops.
func Names() []string {
	var names []string
	for _, l := range loops() {
		names = append(names, l.name)
	}
	return names
}

// Setup adds the named loops to the host.
func Setup(ctx context.Context, h *host.Host, names []string) error {
	for _, n := range names {
		if !slices.Contains(Names(), n) {
			return fmt.Errorf("--enable: there is no loop %q; there are %s", n, strings.Join(Names(), ", "))
		}
	}
	for _, l := range loops() {
		if !slices.Contains(names, l.name) {
			continue
		}
		if err := l.setup(ctx, h); err != nil {
			return fmt.Errorf("set up %s: %w", l.name, err)
		}
	}
	return nil
}
