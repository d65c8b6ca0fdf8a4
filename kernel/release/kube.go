package release

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/cli-runtime/pkg/resource"
)

// kubeClient is Helm's own client with four differences: it asks nobody
// whether the cluster is reachable (the first request tells), it follows
// Options.DisableOpenAPIValidation on writes, removals pass over kinds that no
// longer exist, and it remembers why deletions failed, which Helm only logs.
type kubeClient struct {
	*kube.Client
	fields kube.FieldValidationDirective
	// force takes over fields of others when creating by server-side apply.
	force bool
	// lenient leaves out objects whose kind is gone.
	lenient   bool
	deletions []error
}

func newKubeClient(g *getter, req Request) *kubeClient {
	c := &kube.Client{Factory: g, Namespace: req.Namespace}
	c.SetLogger(g.conn.Log)
	k := &kubeClient{Client: c, fields: kube.FieldValidationDirectiveStrict}
	if req.DisableOpenAPIValidation {
		k.fields = kube.FieldValidationDirectiveIgnore
	}
	return k
}

func (k *kubeClient) IsReachable() error { return nil }

func (k *kubeClient) Create(rs kube.ResourceList, opts ...kube.ClientCreateOption) (*kube.Result, error) {
	opts = append(slices.Clone(opts), kube.ClientCreateOptionFieldValidationDirective(k.fields))
	if k.force {
		opts = append(opts, kube.ClientCreateOptionServerSideApply(true, true))
	}
	return k.Client.Create(rs, opts...)
}

func (k *kubeClient) Update(old, target kube.ResourceList, opts ...kube.ClientUpdateOption) (*kube.Result, error) {
	opts = append(slices.Clone(opts), kube.ClientUpdateOptionFieldValidationDirective(k.fields))
	return k.Client.Update(old, target, opts...)
}

// Delete deletes one by one, so that each failure names its object.
func (k *kubeClient) Delete(rs kube.ResourceList, policy metav1.DeletionPropagation) (*kube.Result, []error) {
	var errs []error
	done := &kube.Result{}
	for _, r := range rs {
		res, failed := k.Client.Delete(kube.ResourceList{r}, policy)
		for _, err := range failed {
			errs = append(errs, fmt.Errorf("delete %s: %w", describe(r), err))
		}
		if res != nil {
			done.Deleted = append(done.Deleted, res.Deleted...)
		}
	}
	k.deletions = append(k.deletions, errs...)
	if len(errs) > 0 {
		return nil, errs
	}
	return done, nil
}

// Build reads manifests. A removal must not fail because a kind has gone before
// its objects, which are gone with it.
func (k *kubeClient) Build(r io.Reader, validate bool) (kube.ResourceList, error) {
	rs, err := k.Client.Build(r, validate)
	if err != nil && k.lenient && onlyNoMatch(err) {
		return rs, nil
	}
	return rs, err
}

// onlyNoMatch reports whether all that went wrong is that kinds are missing.
func onlyNoMatch(err error) bool {
	var all utilerrors.Aggregate
	if !errors.As(err, &all) {
		return meta.IsNoMatchError(err)
	}
	for _, e := range all.Errors() {
		if !meta.IsNoMatchError(e) {
			return false
		}
	}
	return true
}

func describe(r *resource.Info) string {
	if r.Namespace == "" {
		return fmt.Sprintf("%s/%s", r.Mapping.GroupVersionKind.Kind, r.Name)
	}
	return fmt.Sprintf("%s/%s/%s", r.Mapping.GroupVersionKind.Kind, r.Namespace, r.Name)
}
