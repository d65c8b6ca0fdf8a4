package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// establishTimeout bounds how long new kinds may take to be served.
const establishTimeout = 30 * time.Second

var (
	errNoChart = errors.New("no chart to release")
	errNotACRD = errors.New("a chart's crds directory may only hold CustomResourceDefinitions")
)

func (c *Client) prepare(ctx context.Context, req Request) error {
	if req.Chart == nil {
		return errNoChart
	}
	if req.CreateNamespace {
		for _, ns := range uniq(req.Namespace, req.storageNamespace()) {
			if err := c.createNamespace(ctx, ns); err != nil {
				return err
			}
		}
	}
	if req.CRDs == CRDsSkip {
		return nil
	}
	crds, err := chartCRDs(req.Chart)
	if err != nil {
		return err
	}
	return c.applyCRDs(ctx, crds, req.CRDs)
}

func uniq(a, b string) []string {
	if a == b {
		return []string{a}
	}
	return []string{a, b}
}

func (c *Client) createNamespace(ctx context.Context, name string) error {
	api := c.conn.Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	if _, err := api.Get(ctx, name, metav1.GetOptions{}); err == nil {
		return nil
	}
	ns := &unstructured.Unstructured{}
	ns.SetAPIVersion("v1")
	ns.SetKind("Namespace")
	ns.SetName(name)
	ns.SetLabels(map[string]string{"name": name})
	_, err := api.Create(ctx, ns, metav1.CreateOptions{FieldManager: FieldManager})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// chartCRDs returns the CRDs of a chart and its subcharts, in their order.
func chartCRDs(chart *Chart) ([]*unstructured.Unstructured, error) {
	var crds []*unstructured.Unstructured
	for _, f := range chart.CRDObjects() {
		objs, err := decode(bytes.NewReader(f.File.Data))
		if err != nil {
			return nil, fmt.Errorf("read %s of the chart: %w", f.Filename, err)
		}
		for _, o := range objs {
			if o.GroupVersionKind().GroupKind() != crdKind {
				return nil, fmt.Errorf("%s of the chart holds %s %q: %w", f.Filename, o.GetKind(), o.GetName(), errNotACRD)
			}
			crds = append(crds, o)
		}
	}
	return crds, nil
}

// decode reads a stream of YAML documents; lists are flattened.
func decode(r io.Reader) ([]*unstructured.Unstructured, error) {
	var objs []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(r, 4096)
	for {
		o := &unstructured.Unstructured{}
		err := d.Decode(o)
		if errors.Is(err, io.EOF) {
			return objs, nil
		}
		if err != nil {
			return nil, err
		}
		if len(o.Object) == 0 {
			continue
		}
		if !o.IsList() {
			objs = append(objs, o)
			continue
		}
		list, err := o.ToList()
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			objs = append(objs, &list.Items[i])
		}
	}
}

func (c *Client) applyCRDs(ctx context.Context, crds []*unstructured.Unstructured, policy CRDPolicy) error {
	var changed []*unstructured.Unstructured
	for _, crd := range crds {
		wrote, err := c.applyCRD(ctx, crd, policy)
		if err != nil {
			return fmt.Errorf("apply CustomResourceDefinition %s: %w", crd.GetName(), err)
		}
		if wrote {
			changed = append(changed, crd)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	for _, crd := range changed {
		if err := c.waitServed(ctx, crd); err != nil {
			return fmt.Errorf("CustomResourceDefinition %s is not served: %w", crd.GetName(), err)
		}
	}
	c.conn.Cache.Invalidate()
	meta.MaybeResetRESTMapper(c.conn.Mapper)
	return nil
}

func (c *Client) applyCRD(ctx context.Context, crd *unstructured.Unstructured, policy CRDPolicy) (bool, error) {
	m, err := c.conn.Mapper.RESTMapping(crdKind, crd.GroupVersionKind().Version)
	if err != nil {
		return false, err
	}
	api := c.conn.Dynamic.Resource(m.Resource)
	_, err = api.Create(ctx, crd, metav1.CreateOptions{FieldManager: FieldManager})
	if err == nil || !apierrors.IsAlreadyExists(err) || policy != CRDsCreateReplace {
		return err == nil, ignoreExists(err)
	}
	live, err := api.Get(ctx, crd.GetName(), metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	next := crd.DeepCopy()
	next.SetResourceVersion(live.GetResourceVersion())
	next.SetLabels(merge(live.GetLabels(), crd.GetLabels()))
	next.SetAnnotations(merge(live.GetAnnotations(), crd.GetAnnotations()))
	stored, err := api.Update(ctx, next, metav1.UpdateOptions{FieldManager: FieldManager})
	if err != nil {
		return false, err
	}
	return stored.GetResourceVersion() != live.GetResourceVersion(), nil
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func merge(old, over map[string]string) map[string]string {
	out := make(map[string]string, len(old)+len(over))
	for k, v := range old {
		out[k] = v
	}
	for k, v := range over {
		out[k] = v
	}
	return out
}

// waitServed returns when discovery lists the kind. A new definition takes
// milliseconds; nothing in the same chart can be built before.
func (c *Client) waitServed(ctx context.Context, crd *unstructured.Unstructured) error {
	typed := &apiextensionsv1.CustomResourceDefinition{}
	if err := convert(crd, typed); err != nil {
		return err
	}
	var last error
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, establishTimeout, true, func(context.Context) (bool, error) {
		for _, v := range typed.Spec.Versions {
			if !v.Served {
				continue
			}
			gv := schema.GroupVersion{Group: typed.Spec.Group, Version: v.Name}.String()
			rs, err := c.discovery.ServerResourcesForGroupVersion(gv)
			if err != nil {
				last = err
				return false, nil
			}
			if !lists(rs, typed.Spec.Names.Kind) {
				last = fmt.Errorf("kind %s is missing in %s", typed.Spec.Names.Kind, gv)
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil && last != nil {
		return last
	}
	return err
}

func lists(rs *metav1.APIResourceList, kind string) bool {
	for _, r := range rs.APIResources {
		if r.Kind == kind {
			return true
		}
	}
	return false
}
