package mirror

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"headwater.dev/api/config"
)

// plural names the kind in paths.
const plural = "fluxconfigs"

// lookForKind is the time between looks for the kind before it exists.
const lookForKind = time.Second

// api reads and writes FluxConfigs without discovery.
type api struct{ rest rest.Interface }

func newAPI(c *rest.Config) (*api, error) {
	scheme := runtime.NewScheme()
	if err := config.AddToScheme(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, metav1.Unversioned)
	gv := config.GroupVersion()
	c = rest.CopyConfig(c)
	c.GroupVersion = &gv
	c.APIPath = "/apis"
	c.ContentType = runtime.ContentTypeJSON
	c.AcceptContentTypes = runtime.ContentTypeJSON
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make client of FluxConfigs: %w", err)
	}
	return &api{client}, nil
}

func (a *api) listWatch() cache.ListerWatcher {
	return cache.NewListWatchFromClient(a.rest, plural, metav1.NamespaceAll, fields.Everything())
}

// waitForKind returns when FluxConfigs are served, or with ctx's error.
func (a *api) waitForKind(ctx context.Context) error {
	return wait.PollUntilContextCancel(ctx, lookForKind, true, func(ctx context.Context) (bool, error) {
		err := a.rest.Get().Resource(plural).Param("limit", "1").Do(ctx).Error()
		return err == nil, nil
	})
}

// get returns nil when the object, or its kind, does not exist.
func (a *api) get(ctx context.Context, namespace, name string) (*config.FluxConfig, error) {
	fc := &config.FluxConfig{}
	err := a.rest.Get().Namespace(namespace).Resource(plural).Name(name).Do(ctx).Into(fc)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read FluxConfig %s/%s: %w", namespace, name, err)
	}
	return fc, nil
}

func (a *api) create(ctx context.Context, fc *config.FluxConfig) (*config.FluxConfig, error) {
	created := &config.FluxConfig{}
	err := a.rest.Post().Namespace(fc.Namespace).Resource(plural).Body(fc).Do(ctx).Into(created)
	if err != nil {
		return nil, fmt.Errorf("create FluxConfig %s/%s: %w", fc.Namespace, fc.Name, err)
	}
	return created, nil
}

func (a *api) update(ctx context.Context, fc *config.FluxConfig) (*config.FluxConfig, error) {
	updated := &config.FluxConfig{}
	err := a.rest.Put().Namespace(fc.Namespace).Resource(plural).Name(fc.Name).Body(fc).Do(ctx).Into(updated)
	if err != nil {
		return nil, fmt.Errorf("update FluxConfig %s/%s: %w", fc.Namespace, fc.Name, err)
	}
	return updated, nil
}

// delete deletes exactly the object with the uid.
func (a *api) delete(ctx context.Context, namespace, name string, uid types.UID) error {
	only := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	err := a.rest.Delete().Namespace(namespace).Resource(plural).Name(name).Body(only).Do(ctx).Error()
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete FluxConfig %s/%s: %w", namespace, name, err)
	}
	return nil
}
