package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/source/charts"
	"headwater.dev/kernel/oci"
	"headwater.dev/kernel/phase"
)

// chartLayers are the media types of the layer that holds a chart.
var chartLayers = [...]string{"application/vnd.cncf.helm.chart.content.v1.tar+gzip", "application/tar+gzip"}

// remoteChart is a version of a chart that a repository offers.
type remoteChart struct {
	version string
	pull    func(context.Context) ([]byte, error)
}

// findChart finds the version of a chart that a version or range selects.
func (l *loops) findChart(ctx context.Context, repo *sourcev1.HelmRepository, name, want string) (remoteChart, error) {
	if isOCI(repo) {
		return l.findInRegistry(ctx, repo, name, want)
	}
	x, err := l.readIndex(ctx, repo)
	if err != nil {
		return remoteChart{}, err
	}
	v, err := x.Find(name, want)
	if err != nil {
		return remoteChart{}, phase.Transient(invalidChartReference, fmt.Errorf("failed to get chart version for remote reference: %w", err))
	}
	return remoteChart{version: v.Version, pull: func(ctx context.Context) ([]byte, error) {
		data, err := l.pullFromIndex(ctx, repo, v)
		if err != nil && phase.Classify(err).Reason == "Failed" {
			err = phase.Transient(chartPullError, fmt.Errorf("failed to download chart for remote reference: %w", err))
		}
		return data, err
	}}, nil
}

// readIndex reads the index that a repository has published.
func (l *loops) readIndex(ctx context.Context, repo *sourcev1.HelmRepository) (*charts.Index, error) {
	if repo.Status.Artifact == nil {
		return nil, phase.Waiting(noSourceArtifact, l.host.Options.RequeueDependency, fmt.Errorf("no artifact available for HelmRepository source '%s'", repo.Name))
	}
	f, err := l.reader.File(ctx, *repo.Status.Artifact)
	if err != nil {
		return nil, phase.Transient(noSourceArtifact, err)
	}
	defer f.Release()
	data, err := os.ReadFile(f.Path)
	if err != nil {
		return nil, phase.Transient(noSourceArtifact, err)
	}
	x, err := charts.ParseIndex(data)
	if err != nil {
		return nil, phase.Transient(sourcev1.IndexationFailedReason, err)
	}
	return x, nil
}

func (l *loops) pullFromIndex(ctx context.Context, repo *sourcev1.HelmRepository, v charts.Version) ([]byte, error) {
	if len(v.URLs) == 0 {
		return nil, errors.New("the index names no URL for it")
	}
	w, err := l.helmWeb(ctx, repo)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	u, err := w.Resolve(v.URLs[0])
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout(repo.GetTimeout()))
	defer cancel()
	f, err := w.Get(ctx, u, "", charts.MaxArchive)
	if err != nil {
		return nil, err
	}
	if want := strings.TrimPrefix(v.Digest, "sha256:"); want != "" {
		if got := sha256.Sum256(f.Data); hex.EncodeToString(got[:]) != want {
			return nil, errors.New("the archive does not have the digest that the index names")
		}
	}
	return f.Data, nil
}

// findInRegistry finds a chart's version among the tags of a registry, which
// write "_" for the "+" of a version.
func (l *loops) findInRegistry(ctx context.Context, repo *sourcev1.HelmRepository, name, want string) (remoteChart, error) {
	r, err := l.helmRegistry(ctx, repo, name)
	if err != nil {
		return remoteChart{}, err
	}
	defer r.Close()
	tags, err := r.Tags(ctx)
	if err != nil {
		return remoteChart{}, phase.Transient(pullReason(err), fmt.Errorf("failed to get chart version for remote reference: %w", err))
	}
	for i := range tags {
		tags[i] = strings.ReplaceAll(tags[i], "_", "+")
	}
	version, err := charts.Pick(tags, want)
	if err != nil {
		return remoteChart{}, phase.Transient(invalidChartReference, fmt.Errorf("failed to get chart version for remote reference: chart %q: %w", name, err))
	}
	return remoteChart{version: version, pull: func(ctx context.Context) ([]byte, error) {
		r, err := l.helmRegistry(ctx, repo, name)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		data, err := pullChart(ctx, r, strings.ReplaceAll(version, "+", "_"))
		if err != nil {
			return nil, phase.Transient(pullReason(err), fmt.Errorf("failed to download chart for remote reference: %w", err))
		}
		return data, nil
	}}, nil
}

func pullReason(err error) string {
	if errors.Is(err, oci.ErrAuth) {
		return sourcev1.AuthenticationFailedReason
	}
	return chartPullError
}

func (l *loops) helmRegistry(ctx context.Context, repo *sourcev1.HelmRepository, name string) (*oci.Repository, error) {
	o := oci.Options{Insecure: repo.Spec.Insecure}
	var err error
	if repo.Spec.SecretRef != nil {
		if o.Registries, err = l.registries(ctx, repo, repo.Spec.SecretRef.Name, hostOf(repo.Spec.URL)); err != nil {
			return nil, err
		}
	}
	if repo.Spec.CertSecretRef != nil {
		if o.TLS, err = l.certificates(ctx, repo, repo.Spec.CertSecretRef.Name); err != nil {
			return nil, err
		}
	}
	r, err := oci.Open(strings.TrimSuffix(repo.Spec.URL, "/")+"/"+name, o)
	if err != nil {
		return nil, phase.Stalled(sourcev1.URLInvalidReason, err)
	}
	return r, nil
}

// pullChart gets the archive of a chart from a registry, pinned by digest from
// the tag on.
func pullChart(ctx context.Context, r *oci.Repository, tag string) ([]byte, error) {
	digest, err := r.Resolve(ctx, tag)
	if err != nil {
		return nil, err
	}
	img, err := r.Image(ctx, digest)
	if err != nil {
		return nil, err
	}
	var layer v1.Descriptor
	for _, t := range chartLayers {
		if layer, err = img.Layer(t); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	rc, err := img.Open(layer, charts.MaxArchive)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// maxNesting bounds how deeply charts of a source may depend on each other.
const maxNesting = 8

// place is where a chart is in a source.
type place struct {
	root, dir string
	depth     int
}

// addDependencies completes a chart from a source: by charts beside it, and by
// charts of repositories.
func (l *loops) addDependencies(ctx context.Context, namespace string, b *charts.Bundle, at place) error {
	if len(b.Missing) > 0 && at.depth > maxNesting {
		return phase.Transient(dependencyBuildError, fmt.Errorf("charts depend on each other more than %d deep", maxNesting))
	}
	for _, d := range b.Missing {
		dep, err := l.dependency(ctx, namespace, d, at)
		if err != nil {
			if e := phase.Classify(err); e.Class == phase.ClassWaiting {
				return phase.Waiting(dependencyBuildError, e.After, fmt.Errorf("dependency %q: %s", d.Name, err))
			}
			return phase.Transient(dependencyBuildError, fmt.Errorf("dependency %q: %s", d.Name, err))
		}
		b.Add(dep)
	}
	return nil
}

func (l *loops) dependency(ctx context.Context, namespace string, d *chart.Dependency, at place) (*charts.Bundle, error) {
	if local, ok := strings.CutPrefix(d.Repository, "file://"); ok {
		dir := path.Join(at.dir, local)
		dep, err := charts.OpenDir(at.root, dir)
		if err != nil {
			return nil, err
		}
		if _, err := charts.Pick([]string{dep.Meta.Version}, d.Version); err != nil {
			return nil, fmt.Errorf("version %s of %s: %w", dep.Meta.Version, d.Repository, err)
		}
		return dep, l.addDependencies(ctx, namespace, dep, place{at.root, dir, at.depth + 1})
	}
	repo, err := l.repositoryOf(ctx, namespace, d.Repository)
	if err != nil {
		return nil, err
	}
	found, err := l.findChart(ctx, repo, d.Name, d.Version)
	if err != nil {
		return nil, err
	}
	data, err := found.pull(ctx)
	if err != nil {
		return nil, err
	}
	return charts.OpenArchive(data)
}

// repositoryOf finds the HelmRepository of a namespace that has a URL.
func (l *loops) repositoryOf(ctx context.Context, namespace, url string) (*sourcev1.HelmRepository, error) {
	if url == "" {
		return nil, errors.New("it is not in charts/ and names no repository")
	}
	var list sourcev1.HelmRepositoryList
	if err := l.client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if strings.TrimSuffix(list.Items[i].Spec.URL, "/") == strings.TrimSuffix(url, "/") {
			return &list.Items[i], nil
		}
	}
	return nil, fmt.Errorf("its repository is not known in the namespace: create a HelmRepository with spec.url %q, or put the chart into charts/", url)
}
