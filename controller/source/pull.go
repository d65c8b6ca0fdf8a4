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
	"headwater.dev/kernel/secret"
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
	v, err := l.findInIndex(ctx, repo, name, want)
	if err != nil {
		return remoteChart{}, err
	}
	return remoteChart{version: v.Version, pull: func(ctx context.Context) ([]byte, error) {
		w, err := l.helmWeb(ctx, repo)
		if err != nil {
			return nil, err
		}
		defer w.Close()
		ctx, cancel := context.WithTimeout(ctx, timeout(repo.GetTimeout()))
		defer cancel()
		return pullFromWeb(ctx, w, v)
	}}, nil
}

// findInIndex finds a chart in the index that a repository has published.
func (l *loops) findInIndex(ctx context.Context, repo *sourcev1.HelmRepository, name, want string) (charts.Version, error) {
	if repo.Status.Artifact == nil {
		return charts.Version{}, phase.Waiting(noSourceArtifact, l.host.Options.RequeueDependency, fmt.Errorf("no artifact available for HelmRepository source '%s'", repo.Name))
	}
	f, err := l.reader.File(ctx, *repo.Status.Artifact)
	if err != nil {
		return charts.Version{}, phase.Transient(noSourceArtifact, err)
	}
	defer f.Release()
	in, err := os.Open(f.Path)
	if err != nil {
		return charts.Version{}, phase.Transient(noSourceArtifact, err)
	}
	defer in.Close()
	return findVersion(in, name, want)
}

func findVersion(in io.ReadSeeker, name, want string) (charts.Version, error) {
	v, err := charts.Find(in, name, want)
	switch {
	case errors.Is(err, charts.ErrIndex):
		return v, phase.Transient(sourcev1.IndexationFailedReason, err)
	case err != nil:
		return v, phase.Stalled(invalidChartReference, fmt.Errorf("failed to get chart version for remote reference: %w", err)) // until there is another index
	}
	return v, nil
}

// pullFromWeb gets the archive that an index names.
func pullFromWeb(ctx context.Context, w *charts.Web, v charts.Version) ([]byte, error) {
	failed := func(err error) error {
		return pullFailed(fmt.Errorf("failed to download chart for remote reference: %w", err))
	}
	if len(v.URLs) == 0 {
		return nil, failed(errors.New("the index names no URL for it"))
	}
	u, err := w.Resolve(v.URLs[0])
	if err != nil {
		return nil, failed(err)
	}
	data, err := w.Get(ctx, u, charts.MaxArchive)
	if err != nil {
		return nil, failed(err)
	}
	if want := strings.TrimPrefix(v.Digest, "sha256:"); want != "" {
		if got := sha256.Sum256(data); !strings.EqualFold(hex.EncodeToString(got[:]), want) {
			return nil, failed(errors.New("the archive does not have the digest that the index names"))
		}
	}
	return data, nil
}

// findInRegistry finds a chart's version among the tags of a registry, which
// write "_" for the "+" of a version. A version that is no range is asked for by
// its tag.
func (l *loops) findInRegistry(ctx context.Context, repo *sourcev1.HelmRepository, name, want string) (remoteChart, error) {
	r, err := l.helmRegistry(ctx, repo, name)
	if err != nil {
		return remoteChart{}, err
	}
	defer r.Close()
	tag := func(version string) string { return strings.ReplaceAll(version, "+", "_") }
	found := func(version string) remoteChart {
		return remoteChart{version: version, pull: func(ctx context.Context) ([]byte, error) {
			return l.pullFromRegistry(ctx, repo, name, tag(version))
		}}
	}
	if charts.Exact(want) {
		// Some registries list no tags, and others very many.
		_, err := r.Resolve(ctx, tag(want))
		if err == nil {
			return found(want), nil
		}
		if !errors.Is(err, oci.ErrNotFound) {
			return remoteChart{}, pullFailed(fmt.Errorf("failed to get chart version for remote reference: %w", err))
		}
	}
	tags, err := r.Tags(ctx)
	if err != nil {
		return remoteChart{}, pullFailed(fmt.Errorf("failed to get chart version for remote reference: %w", err))
	}
	for i := range tags {
		tags[i] = strings.ReplaceAll(tags[i], "_", "+")
	}
	version, err := charts.Pick(tags, want)
	if err != nil {
		// No watch tells of a new tag: it is looked for again.
		return remoteChart{}, phase.Transient(invalidChartReference, fmt.Errorf("failed to get chart version for remote reference: chart %q: %w", name, err))
	}
	return found(version), nil
}

// verifyChart checks the signature of what a version's tag leads to now, and
// makes that the chart that is pulled, wherever the tag leads later.
func (l *loops) verifyChart(ctx context.Context, o *sourcev1.HelmChart, repo *sourcev1.HelmRepository, found *remoteChart) (verdict, error) {
	r, err := l.helmRegistry(ctx, repo, o.Spec.Chart)
	if err != nil {
		return unchecked, err
	}
	defer r.Close()
	digest, err := r.Resolve(ctx, strings.ReplaceAll(found.version, "+", "_"))
	if err != nil {
		return unchecked, pullFailed(err)
	}
	found.pull = func(ctx context.Context) ([]byte, error) { return l.pullFromRegistry(ctx, repo, o.Spec.Chart, digest) }
	return l.checkSignature(ctx, o, r, digest, chartTrust(o.Spec.Verify))
}

// pullFromRegistry pulls a chart by its tag or digest.
func (l *loops) pullFromRegistry(ctx context.Context, repo *sourcev1.HelmRepository, name, reference string) ([]byte, error) {
	r, err := l.helmRegistry(ctx, repo, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := pullChart(ctx, r, reference)
	if err != nil {
		return nil, pullFailed(fmt.Errorf("failed to download chart for remote reference: %w", err))
	}
	return data, nil
}

func pullFailed(err error) error {
	var rate *oci.RateError
	switch {
	case errors.Is(err, oci.ErrAuth), errors.Is(err, charts.ErrUnauthorized):
		return phase.Transient(sourcev1.AuthenticationFailedReason, err)
	case errors.As(err, &rate) && rate.After > 0:
		return phase.RetryAfter(chartPullError, rate.After, err)
	}
	return phase.Transient(chartPullError, err)
}

func (l *loops) helmRegistry(ctx context.Context, repo *sourcev1.HelmRepository, name string) (*oci.Repository, error) {
	o, err := l.registryOptions(ctx, repo, door{
		url: repo.Spec.URL, insecure: repo.Spec.Insecure, provider: repo.Spec.Provider, secret: repo.Spec.SecretRef, cert: repo.Spec.CertSecretRef,
	})
	if err != nil {
		return nil, err
	}
	o.Public = repo.Name == "" // only a chart vouches for it
	r, err := oci.Open(strings.TrimSuffix(repo.Spec.URL, "/")+"/"+name, o)
	if err != nil {
		return nil, phase.Stalled(sourcev1.URLInvalidReason, err)
	}
	return r, nil
}

// pullChart gets the archive of a chart from a registry, pinned by digest from
// the tag on, if it is a tag.
func pullChart(ctx context.Context, r *oci.Repository, reference string) ([]byte, error) {
	digest := reference
	if !strings.HasPrefix(reference, "sha256:") {
		var err error
		if digest, err = r.Resolve(ctx, reference); err != nil {
			return nil, err
		}
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
	data, err := l.pullDependency(ctx, namespace, d)
	if err != nil {
		return nil, err
	}
	return charts.OpenArchive(data)
}

// pullDependency gets a chart from the repository that a chart names: as the
// HelmRepository of the namespace with that URL says, or without credentials.
func (l *loops) pullDependency(ctx context.Context, namespace string, d *chart.Dependency) ([]byte, error) {
	switch {
	case d.Repository == "":
		return nil, errors.New("it is not in charts/ and names no repository")
	case strings.HasPrefix(d.Repository, "@"), strings.HasPrefix(d.Repository, "alias:"):
		return nil, fmt.Errorf("its repository %q is an alias of somebody's machine: name the URL", d.Repository)
	}
	repo, err := l.repositoryOf(ctx, namespace, d.Repository)
	if err != nil {
		return nil, err
	}
	if repo == nil && !strings.HasPrefix(d.Repository, sourcev1.OCIRepositoryPrefix) {
		return l.pullFromStranger(ctx, d)
	}
	if repo == nil {
		repo = &sourcev1.HelmRepository{Spec: sourcev1.HelmRepositorySpec{URL: d.Repository, Type: sourcev1.HelmRepositoryTypeOCI}}
	}
	found, err := l.findChart(ctx, repo, d.Name, d.Version)
	if err != nil {
		return nil, err
	}
	return found.pull(ctx)
}

// pullFromStranger gets a chart from a repository that only a chart vouches
// for. It must have a public address.
func (l *loops) pullFromStranger(ctx context.Context, d *chart.Dependency) ([]byte, error) {
	w, err := charts.NewWeb(d.Repository, secret.Basic{}, nil, charts.Rules{Private: l.host.Options.PrivateChartHosts, Stranger: true})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	x, err := l.download(ctx, w, defaultTimeout, "")
	if err != nil {
		if errors.Is(err, charts.ErrPrivate) {
			return nil, fmt.Errorf("its repository is not known in the namespace: create a HelmRepository with spec.url %q: %w", d.Repository, err)
		}
		return nil, err
	}
	defer x.remove()
	v, err := findVersion(x.file, d.Name, d.Version)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	return pullFromWeb(ctx, w, v)
}

// repositoryOf finds the HelmRepository of a namespace that has a URL; nil when
// there is none.
func (l *loops) repositoryOf(ctx context.Context, namespace, url string) (*sourcev1.HelmRepository, error) {
	var list sourcev1.HelmRepositoryList
	if err := l.client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if strings.TrimSuffix(list.Items[i].Spec.URL, "/") == strings.TrimSuffix(url, "/") {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}
