package extension

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"headwater.dev/api/config"
)

// watch wakes the loop when something of the extension changes: its
// Deployment and pods, Helm's record, the kinds.
func (m *Manager) watch(ctx context.Context) {
	ours := func(selector string) func(*metav1.ListOptions) {
		return func(o *metav1.ListOptions) { o.LabelSelector = selector }
	}
	workloads := informers.NewSharedInformerFactoryWithOptions(m.kube, 0, informers.WithNamespace(Namespace),
		informers.WithTweakListOptions(ours("app.kubernetes.io/name=flux-extension")))
	m.follow(workloads.Apps().V1().Deployments().Informer())
	m.follow(workloads.Core().V1().Pods().Informer())
	workloads.Start(ctx.Done())

	secrets := metadatainformer.NewFilteredSharedInformerFactory(m.metadata, 0, Namespace, ours("owner=helm,name="+releaseName))
	m.follow(secrets.ForResource(corev1.SchemeGroupVersion.WithResource("secrets")).Informer())
	secrets.Start(ctx.Done())

	kinds := metadatainformer.NewFilteredSharedInformerFactory(m.metadata, 0, metav1.NamespaceAll, ours(partOf+"="+product))
	m.follow(kinds.ForResource(crdResource()).Informer())
	kinds.Start(ctx.Done())
	go m.watchConfigurations(ctx)
}

// watchConfigurations wakes the loop when a configuration goes while the
// extension waits for that. It is a poll of metadata that costs a request only
// while a removal is pending.
func (m *Manager) watchConfigurations(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, item := range m.snapshot().Items {
			if item.Extension != nil && item.Delete {
				m.poke()
			}
		}
	}
}

func (m *Manager) follow(informer cache.SharedIndexInformer) {
	_ = informer.SetTransform(func(o any) (any, error) {
		switch o := o.(type) {
		case *appsv1.Deployment:
			o.ManagedFields, o.Spec = nil, appsv1.DeploymentSpec{}
		case *corev1.Pod:
			o.ManagedFields, o.Spec = nil, corev1.PodSpec{}
		case *metav1.PartialObjectMetadata:
			o.ManagedFields = nil
		}
		return o, nil
	})
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { m.poke() },
		UpdateFunc: func(any, any) { m.poke() },
		DeleteFunc: func(any) { m.poke() },
	})
}

// fluxConfigs is the resource of configurations.
func fluxConfigs() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: config.Group, Version: config.Version, Resource: "fluxconfigs"}
}
