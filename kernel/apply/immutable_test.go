package apply

import (
	"fmt"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// TestForceOfEveryKind: whatever words the API server has for a field that may
// not change, the object is recreated with consent, and refused without.
func TestForceOfEveryKind(t *testing.T) {
	b := newBed(t, rbacv1.PolicyRule{APIGroups: []string{"", "apps", "batch", "rbac.authorization.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"*"}})
	pod := "template: {metadata: {labels: {app: x}}, spec: {restartPolicy: %s, containers: [{name: c, image: example.invalid/c:%s}]}}"
	always, never := fmt.Sprintf(pod, "Always", "1"), func(tag string) string { return fmt.Sprintf(pod, "Never", tag) }
	cases := map[string]struct{ head, one, two string }{
		"job":         {"apiVersion: batch/v1\nkind: Job\n", "spec: {" + never("1") + "}", "spec: {" + never("2") + "}"},
		"statefulset": {"apiVersion: apps/v1\nkind: StatefulSet\n", "spec: {serviceName: one, selector: {matchLabels: {app: x}}, " + always + "}", "spec: {serviceName: two, selector: {matchLabels: {app: x}}, " + always + "}"},
		"deployment":  {"apiVersion: apps/v1\nkind: Deployment\n", "spec: {selector: {matchLabels: {app: x}}, " + always + "}", "spec: {selector: {matchLabels: {app: z}}, " + strings.Replace(always, "app: x", "app: z", 1) + "}"},
		"rolebinding": {"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n", "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: t}", "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: u}"},
		"service":     {"apiVersion: v1\nkind: Service\n", "spec: {type: NodePort, ports: [{port: 1, nodePort: 30123}]}", "spec: {type: ClusterIP, clusterIP: None, ports: [{port: 1}]}"},
		"secret":      {"apiVersion: v1\nkind: Secret\n", "type: Opaque\nstringData: {a: hunter22}", "type: example.com/x\nstringData: {a: hunter22}"},
		"fixed":       {"apiVersion: v1\nkind: Secret\n", "immutable: true\nstringData: {a: hunter22}", "immutable: true\nstringData: {a: hunter23}"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			object := func(body string) *unstructured.Unstructured {
				u := &unstructured.Unstructured{}
				if err := yaml.Unmarshal([]byte(c.head+"metadata: {name: "+name+", namespace: "+b.ns+"}\n"+body), &u.Object); err != nil {
					t.Fatal(err)
				}
				return u
			}
			b.apply(object(c.one))
			_, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(object(c.two))})
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("without consent: %v", err)
			}
			out, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(object(c.two)), Force: true})
			if err != nil || out.Changes[0].Action != Recreated {
				t.Errorf("with consent: %+v, %v", out, err)
			}
		})
	}
}

// TestForceKeepsWhatCouldNotComeBack: an object that is wrong in itself does not
// cost the one that is there.
func TestForceKeepsWhatCouldNotComeBack(t *testing.T) {
	b := newBed(t, rbacv1.PolicyRule{APIGroups: []string{"", "batch"}, Resources: []string{"*"}, Verbs: []string{"*"}})
	service := func(port int64) *unstructured.Unstructured {
		u := newObject("Service", "s")
		u.SetNamespace(b.ns)
		u.Object["spec"] = map[string]any{"type": "NodePort", "ports": []any{map[string]any{"port": port, "nodePort": int64(30124)}}}
		return u
	}
	bad := b.job(nil)
	unstructured.RemoveNestedField(bad.Object, "spec", "template", "spec", "restartPolicy")
	b.apply(service(80), b.job(nil))
	_, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(service(0), bad), Force: true})
	if err == nil || !strings.Contains(err.Error(), "spec.ports[0].port") || !strings.Contains(err.Error(), "Job/"+b.ns+"/j apply failed (Invalid)") {
		t.Errorf("error = %v", err)
	}
	for _, u := range unstructuredOf(service(80), b.job(nil)) {
		if err := b.admin.Get(t.Context(), client.ObjectKeyFromObject(u), u); err != nil || u.GetDeletionTimestamp() != nil {
			t.Errorf("%s is gone: %v", u.GetKind(), err)
		}
	}
}
