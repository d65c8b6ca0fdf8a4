package apply

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestMessagesOfSecrets: what is wrong where is said, in whatever form the API
// server quotes the value, which is hunter2 here.
func TestMessagesOfSecrets(t *testing.T) {
	const typed = "failed to create typed patch object (n/s; /v1, Kind=Secret): "
	const got = `expected string, got &value.valueUnstructured{Value:`
	bad := func(message string) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusBadRequest, Reason: metav1.StatusReasonBadRequest, Message: message}}
	}
	secrets := schema.GroupResource{Resource: "secrets"}
	cases := map[string]struct {
		err  error
		want string
	}{
		"map":          {bad(typed + `.stringData.config: ` + got + `map[string]interface {}{"password":"hunter2"}}`), ".stringData.config: expected string"},
		"nested":       {bad(typed + `.stringData.config: ` + got + `map[string]interface {}{"a":map[string]interface {}{"b":"}hunter2"}}}`), ".stringData.config: expected string"},
		"list":         {bad(typed + `.stringData.config: ` + got + `[]interface {}{"hunter2", "}"}}`), ".stringData.config: expected string"},
		"number":       {bad(typed + `.stringData.a-b.c: ` + got + `20022002}`), ".stringData.a-b.c: expected string"},
		"several":      {bad(typed + "errors:\n  .stringData.a: " + got + "true}\n  .data: expected map, got &{hunter2}"), ".stringData.a: expected string; .data: expected map"},
		"keyed":        {bad(typed + `.spec.users[name="hunter2"].id: expected numeric (int or float), got string`), ".spec.users[…].id: expected numeric"},
		"item":         {bad(typed + `.spec.words[="hunter2"]: expected map, got hunter2`), ".spec.words[…]: expected map"},
		"undeclared":   {bad(typed + `.stringDate: field not declared in schema`), ".stringDate: field not declared in schema"},
		"decoded":      {bad(`Secret in version "v1" cannot be handled as a Secret: json: cannot unmarshal object into Go struct field Secret.data of type []uint8`), "cannot unmarshal object into Go struct field Secret.data of type []uint8"},
		"encoded":      {bad(`Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 6`), "illegal base64 data at input byte 6"},
		"invalid":      {apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, "s", field.ErrorList{field.Invalid(field.NewPath("data").Key("k"), "hunter2", "hunter2 is no word")}), "data[k]: FieldValueInvalid"},
		"forbidden":    {apierrors.NewForbidden(secrets, "s", errors.New(`User "system:serviceaccount:n:t" cannot patch resource "secrets" in API group "" in the namespace "n"`)), `cannot patch resource "secrets" in API group "" in the namespace "n"`},
		"webhook":      {apierrors.NewForbidden(secrets, "s", errors.New(`admission webhook "w.example.com" denied the request: hunter2 is weak`)), `admission webhook "w.example.com" denied the request`},
		"policy":       {apierrors.NewForbidden(secrets, "s", errors.New(`ValidatingAdmissionPolicy 'p' with binding 'b' denied request: hunter2`)), `ValidatingAdmissionPolicy 'p' with binding 'b' denied request`},
		"recreated":    {fmt.Errorf("recreate because of an immutable field: %w", bad("hunter2")), "recreate because of an immutable field: " + unsaid},
		"anything":     {bad("what is hunter2?"), unsaid},
		"not a status": {errors.New(`Object 'Kind' is missing in '{"a":"hunter2"}'`), unsaid},
		"of ours":      {fmt.Errorf("%w n/other of another namespace", errBelongs), "it belongs to n/other of another namespace"},
		"network":      {&netError{}, "connect: no route"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, e := range []*ObjectError{
				{Ref: RefOf(newObject("Secret", "s")), Verb: "apply", Err: c.err},
				{Ref: RefOf(newObject("ConfigMap", "s")), Verb: "apply", Err: c.err, Sealed: true},
			} {
				message := e.Error()
				if strings.Contains(message, "hunter2") || strings.Contains(message, "20022002") || !strings.Contains(message, c.want) {
					t.Errorf("message %q, want %q", message, c.want)
				}
			}
			if open := (&ObjectError{Ref: RefOf(newObject("ConfigMap", "s")), Verb: "apply", Err: c.err}).Error(); !strings.Contains(open, c.err.Error()) {
				t.Errorf("of an object without secrets: %q", open)
			}
		})
	}
}

type netError struct{}

func (*netError) Error() string   { return "connect: no route" }
func (*netError) Timeout() bool   { return false }
func (*netError) Temporary() bool { return false }

// TestTheServersWordsAboutSecrets are those of the real API server, for a Secret
// and for another object that was encrypted.
func TestTheServersWordsAboutSecrets(t *testing.T) {
	b := newBed(t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets", "configmaps"}, Verbs: []string{"*"}})
	for name, value := range map[string]any{
		"map": map[string]any{"password": "hunter2"}, "list": []any{"hunter2", map[string]any{"a": "hunter2"}}, "number": int64(20022002),
		"nested": map[string]any{"a": map[string]any{"b": []any{"hunter2", "}"}}},
	} {
		for kind, entries := range map[string]string{"Secret": "stringData", "ConfigMap": "data"} {
			t.Run(name+" in "+kind, func(t *testing.T) {
				u := newObject(kind, "s")
				u.SetNamespace(b.ns)
				u.Object[entries] = map[string]any{"config": value}
				r := Request{Tenant: b.who, Objects: unstructuredOf(u), Sealed: []ID{{Name: "s", GroupKind: schema.GroupKind{Kind: "ConfigMap"}}}}
				_, err := b.e.Apply(t.Context(), r)
				if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "20022002") || !strings.Contains(err.Error(), "."+entries+".config: expected string") {
					t.Errorf("error = %v", err)
				}
			})
		}
	}
}
