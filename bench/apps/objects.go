package apps

import (
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

type object = map[string]any

const (
	groupKustomize = "kustomize.toolkit.fluxcd.io"
	groupSource    = "source.toolkit.fluxcd.io"
)

func list(group, kind string) *unstructured.UnstructuredList {
	l := &unstructured.UnstructuredList{}
	l.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind + "List"})
	return l
}

func kustomizations() *unstructured.UnstructuredList { return list(groupKustomize, "Kustomization") }
func repositories() *unstructured.UnstructuredList   { return list(groupSource, "GitRepository") }

func appName(i int) string { return fmt.Sprintf("app-%04d", i) }

// manifests are the five objects of an application, by file.
func manifests(name, version string) map[string]string {
	labels := fmt.Sprintf("{app: %s}", name)
	return map[string]string{
		"account.yaml": fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s}\n", name),
		"config.yaml":  fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {version: %q, motd: \"welcome to %s\"}\n", name, version, name),
		"deployment.yaml": fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, labels: %[2]s}
spec:
  replicas: 0 # there are no nodes
  selector: {matchLabels: %[2]s}
  template:
    metadata: {labels: %[2]s}
    spec:
      serviceAccountName: %[1]s
      containers:
      - name: main
        image: registry.example/%[1]s:1.0.0
        ports: [{name: http, containerPort: 8080}]
        envFrom: [{configMapRef: {name: %[1]s}}]
        resources: {requests: {cpu: 10m, memory: 16Mi}}
`, name, labels),
		"service.yaml": fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec:\n  selector: %s\n  ports: [{name: http, port: 80, targetPort: http}]\n", name, labels),
		"ingress.yaml": fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: %[1]s}\nspec:\n  rules:\n  - host: %[1]s.example\n    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: %[1]s, port: {name: http}}}}]}\n", name),
	}
}

// tree is a repository of n applications; those in changed have another version.
func tree(n int, changed map[int]string) map[string]string {
	files := map[string]string{}
	for i := range n {
		version := "1"
		if v, ok := changed[i]; ok {
			version = v
		}
		dir := "apps/" + appName(i) + "/"
		for file, text := range manifests(appName(i), version) {
			files[dir+file] = text
		}
		files[dir+"kustomization.yaml"] = "resources: [account.yaml, config.yaml, deployment.yaml, service.yaml, ingress.yaml]\n"
	}
	return files
}

func resource(group, kind, namespace, name string, spec object) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: object{"apiVersion": group + "/v1", "kind": kind,
		"metadata": object{"namespace": namespace, "name": name}, "spec": spec}}
}

// repository is a source that fetches when it is asked to.
func repository(namespace, url string) *unstructured.Unstructured {
	return resource(groupSource, "GitRepository", namespace, "source", object{"url": url, "interval": "60m", "ref": object{"branch": "main"}})
}

// kustomization applies a path of the namespace's source there; more is laid over its spec.
func kustomization(namespace, name, path string, more object) *unstructured.Unstructured {
	spec := object{"path": path, "sourceRef": object{"kind": "GitRepository", "name": "source"}, "targetNamespace": namespace,
		"interval": "1m", "retryInterval": "2m", "timeout": "1m", "prune": true, "wait": true}
	maps.Copy(spec, more)
	return resource(groupKustomize, "Kustomization", namespace, name, spec)
}

// readyAt recognises a Kustomization that is ready at a revision.
func readyAt(revision string) func(*unstructured.Unstructured) bool {
	return func(u *unstructured.Unstructured) bool {
		applied, _, _ := unstructured.NestedString(u.Object, "status", "lastAppliedRevision")
		observed, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
		return applied == revision && observed == u.GetGeneration() && condition(u, "Ready") == "True"
	}
}

// condition is the status of one, "" when the object has none of that type.
func condition(u *unstructured.Unstructured, kind string) string {
	all, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range all {
		if c, ok := c.(object); ok && c["type"] == kind {
			status, _ := c["status"].(string)
			return status
		}
	}
	return ""
}
