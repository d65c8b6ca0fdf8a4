package generator

import (
	"errors"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/controller/generator/compose"
	"headwater.dev/kernel/phase"
)

// generator is one that is fine, changed.
func generator(change func(*swapi.ArtifactGenerator)) *swapi.ArtifactGenerator {
	g := &swapi.ArtifactGenerator{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "g", UID: "1"}}
	g.Spec.Sources = []swapi.SourceReference{{Alias: "git", Kind: sourcev1.GitRepositoryKind, Name: "repo"}}
	g.Spec.OutputArtifacts = []swapi.OutputArtifact{{Name: "out", Copy: []swapi.CopyOperation{{From: "@git/**", To: "@artifact/"}}}}
	change(g)
	return g
}

func TestCheckSpec(t *testing.T) {
	source := func(alias, kind, namespace, name string) func(*swapi.ArtifactGenerator) {
		return func(g *swapi.ArtifactGenerator) {
			g.Spec.Sources = append(g.Spec.Sources, swapi.SourceReference{Alias: alias, Kind: kind, Namespace: namespace, Name: name})
		}
	}
	output := func(change func(*swapi.OutputArtifact)) func(*swapi.ArtifactGenerator) {
		return func(g *swapi.ArtifactGenerator) { change(&g.Spec.OutputArtifacts[0]) }
	}
	cases := map[string]struct {
		why      string
		change   func(*swapi.ArtifactGenerator)
		lockdown bool
		reason   string
		text     string
	}{
		"fine":             {"", func(*swapi.ArtifactGenerator) {}, true, "", ""},
		"own namespace":    {"it may be said", source("b", "Bucket", "a", "x"), true, "", ""},
		"other namespace":  {"tenants stay apart", source("b", "Bucket", "b", "x"), true, swapi.AccessDeniedReason, "spec.sources[1]: can't access 'Bucket/b/x'"},
		"without lockdown": {"an administrator may allow it", source("b", "Bucket", "b", "x"), false, "", ""},
		"alias twice":      {"", source("git", "Bucket", "", "x"), true, swapi.ValidationFailedReason, `spec.sources[1].alias: "git" is taken`},
		"artifact alias":   {"@artifact is the target", source("artifact", "Bucket", "", "x"), true, swapi.ValidationFailedReason, "is taken"},
		"unknown kind":     {"", source("x", "Pod", "", "x"), true, swapi.ValidationFailedReason, `"Pod" is not one of`},
		"own product":      {"it would grow for ever", source("x", "ExternalArtifact", "", "out"), true, swapi.ValidationFailedReason, "made by this generator"},
		"output twice": {"", func(g *swapi.ArtifactGenerator) {
			g.Spec.OutputArtifacts = append(g.Spec.OutputArtifacts, g.Spec.OutputArtifacts[0])
		}, true, swapi.ValidationFailedReason, `spec.artifacts[1].name: "out" is there twice`},
		"revision":   {"", output(func(a *swapi.OutputArtifact) { a.Revision = "@x" }), true, swapi.ValidationFailedReason, `spec.artifacts[0].revision: no source has the alias "x"`},
		"origin":     {"", output(func(a *swapi.OutputArtifact) { a.OriginRevision = "@x" }), true, swapi.ValidationFailedReason, "spec.artifacts[0].originRevision"},
		"copy from":  {"", output(func(a *swapi.OutputArtifact) { a.Copy[0].From = "@x/**" }), true, swapi.ValidationFailedReason, "spec.artifacts[0].copy[0].from"},
		"copy to":    {"", output(func(a *swapi.OutputArtifact) { a.Copy[0].To = "@artifact/../x" }), true, swapi.ValidationFailedReason, "spec.artifacts[0].copy[0].to"},
		"exclude":    {"", output(func(a *swapi.OutputArtifact) { a.Copy[0].Exclude = []string{"["} }), true, swapi.ValidationFailedReason, "spec.artifacts[0].copy[0].exclude[0]"},
		"path alias": {"", func(g *swapi.ArtifactGenerator) { g.Spec.PathPattern = "@x/{y}" }, true, swapi.ValidationFailedReason, "spec.pathPattern"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := checkSpec(generator(c.change), c.lockdown)
			if c.reason == "" {
				if err != nil {
					t.Errorf("%s: %v", c.why, err)
				}
				return
			}
			var e *phase.Error
			if !errors.As(err, &e) || e.Class != phase.ClassStalled || e.Reason != c.reason || !strings.Contains(e.Error(), c.text) {
				t.Errorf("%s: got %v, want %s %q", c.why, err, c.reason, c.text)
			}
		})
	}
}

func TestRevision(t *testing.T) {
	s := &scope{sources: map[string]input{
		"git": {artifact: meta.Artifact{Revision: "main@sha1:a"}, origin: "main@sha1:a"}, "bucket": {artifact: meta.Artifact{Revision: "sha256:b"}},
	}}
	cases := map[string]struct {
		revision, origin, want string
		metadata               map[string]string
	}{
		"content":         {"", "", "latest@sha256:c", nil},
		"of a source":     {"@git", "", "main@sha1:a", nil},
		"origin":          {"", "@git", "latest@sha256:c", map[string]string{"org.opencontainers.image.revision": "main@sha1:a"}},
		"unknown origin":  {"", "@bucket", "latest@sha256:c", nil},
		"one of each one": {"@bucket", "@git", "sha256:b", map[string]string{"org.opencontainers.image.revision": "main@sha1:a"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, metadata := s.revision(compose.Output{OutputArtifact: swapi.OutputArtifact{Revision: c.revision, OriginRevision: c.origin}}, "sha256:c")
			if got != c.want || !cmp.Equal(metadata, c.metadata) {
				t.Errorf("got %s %v, want %s %v", got, metadata, c.want, c.metadata)
			}
		})
	}
}

func TestMine(t *testing.T) {
	g := generator(func(*swapi.ArtifactGenerator) {})
	made := wanted(g, compose.Output{OutputArtifact: g.Spec.OutputArtifacts[0]})
	restored := made.DeepCopy()
	restored.Labels[swapi.ArtifactGeneratorLabel] = "0"
	other := restored.DeepCopy()
	other.Spec.SourceRef.Name = "h"
	foreign := &sourcev1.ExternalArtifact{}
	for name, c := range map[string]struct {
		x    *sourcev1.ExternalArtifact
		want bool
	}{"made": {made, true}, "restored from a backup": {restored, true}, "of another generator": {other, false}, "of another maker": {foreign, false}} {
		if got := mine(c.x, g); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if !upToDate(made, made) || upToDate(restored, made) {
		t.Error("an object is up to date when it has all labels")
	}
	loose := made.DeepCopy()
	loose.OwnerReferences = nil
	if upToDate(loose, made) {
		t.Error("an object without its owner is not up to date")
	}
}
