package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/resource"
	"headwater.dev/client"
	"headwater.dev/dev/gitserver"
)

const (
	// far is an interval, in seconds, that never comes up in a scenario.
	far = 3600
	// hubEvery is how often the hub is asked.
	hubEvery = 20 * time.Millisecond

	requestedAt = "reconcile.fluxcd.io/requestedAt"
	configMap   = "measured"
)

// subject is a configuration with one Kustomization that applies one ConfigMap.
// Its repository, namespace and itself have the same name.
type subject struct {
	bed  *bed
	name string
	id   string // in the hub
}

// subject makes one and returns when the ConfigMap is applied and the hub
// knows it. interval is the source's, in seconds.
func (b *bed) subject(ctx context.Context, name string, interval int) (*subject, error) {
	s := &subject{bed: b, name: name, id: client.ConfigurationID(b.cluster, name)}
	if err := b.system.Git.CreateRepository(name, false); err != nil {
		return nil, err
	}
	if err := s.push("first"); err != nil {
		return nil, err
	}
	body := map[string]any{"properties": map[string]any{
		"scope": "cluster", "namespace": name, "sourceKind": "GitRepository",
		"gitRepository": map[string]any{"url": b.system.Git.URL(name), "syncIntervalInSeconds": interval,
			"repositoryRef": map[string]any{"branch": "main"}},
		"kustomizations": map[string]any{"app": map[string]any{"path": "./app", "prune": true, "syncIntervalInSeconds": far}},
	}}
	if _, err := client.Put[client.Resource[client.Configuration]](ctx, b.hub, s.id, hubVersion, body); err != nil {
		return nil, fmt.Errorf("create configuration %s: %w", name, err)
	}
	_, err := s.hubSays(ctx, resource.Compliant)
	return s, err
}

// remove deletes the configuration and returns when it is gone, so that the
// next scenario does not see it.
func (s *subject) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	p, err := client.Delete(ctx, s.bed.hub, s.id, hubVersion, false)
	if err == nil {
		_, err = p.Wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("delete configuration %s: %w", s.name, err)
	}
	return nil
}

// push commits a ConfigMap with that value.
func (s *subject) push(value string) error {
	return s.commit(value, map[string]string{
		"app/kustomization.yaml": "resources: [configmap.yaml]\n",
		"app/configmap.yaml":     fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {value: %q}\n", configMap, s.name, value),
	})
}

// pushBroken commits a Kustomization that names a file that is not there.
func (s *subject) pushBroken(message string) error {
	return s.commit(message, map[string]string{"app/kustomization.yaml": "resources: [missing.yaml]\n"})
}

func (s *subject) commit(message string, files map[string]string) error {
	_, err := s.bed.system.Git.CommitChange(s.name, "main", gitserver.Change{Message: message, Write: files, Replace: true})
	return err
}

// notify asks for the source to be fetched now.
func (s *subject) notify(ctx context.Context) error {
	source := &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: s.name}}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, requestedAt, time.Now().Format(time.RFC3339Nano))
	if err := s.bed.kube.Patch(ctx, source, kube.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		return fmt.Errorf("notify source %s: %w", s.name, err)
	}
	return nil
}

// hubSays returns when the hub first shows that compliance.
func (s *subject) hubSays(ctx context.Context, compliance string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(hubEvery)
	defer tick.Stop()
	var last client.Configuration
	for {
		got, err := client.Get[client.Resource[client.Configuration]](ctx, s.bed.hub, s.id, hubVersion)
		if last = got.Properties; err == nil && last.ComplianceState == compliance {
			return time.Now(), nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("the hub does not show %s as %s but as %s (%s): %w", s.name, compliance, last.ComplianceState, last.ErrorMessage, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// watch watches the subject's objects of a kind.
func (s *subject) watch(ctx context.Context, list kube.ObjectList) (watch.Interface, error) {
	w, err := s.bed.kube.Watch(ctx, list, kube.InNamespace(s.name))
	if err != nil {
		return nil, fmt.Errorf("watch %T: %w", list, err)
	}
	return w, nil
}

// hasValue recognises the subject's ConfigMap with a value.
func hasValue(value string) func(runtime.Object) bool {
	return func(o runtime.Object) bool {
		c, ok := o.(*corev1.ConfigMap)
		return ok && c.Name == configMap && c.Data["value"] == value
	}
}

// sees returns when an object of that kind was seen.
func sees(ctx context.Context, w watch.Interface, wanted func(runtime.Object) bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for the change in the cluster: %w", ctx.Err())
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return time.Time{}, fmt.Errorf("the watch ended: %v", e.Object)
			}
			if wanted(e.Object) {
				return time.Now(), nil
			}
		}
	}
}
