package extension

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
)

func usual() map[string]any {
	return map[string]any{"limits": map[string]any{"memory": "1Gi"}, "requests": map[string]any{"memory": "64Mi", "cpu": "100m"}}
}

func TestValues(t *testing.T) {
	enforced := map[string]any{"enforce": true}
	cases := map[string]struct {
		why      string
		in       map[string]string
		want     map[string]any
		warnings int
	}{
		"none": {why: "lockdown is on by default", want: map[string]any{"multiTenancy": enforced}},
		"all": {
			why: "all loops are one process: the largest amount, the most workers and the most detailed log win",
			in: map[string]string{
				"multiTenancy.enforce": "False", "helm-controller.enabled": "false", "source-controller.enabled": "true",
				"source-controller.resources.limits.memory": "2Gi", "helm-controller.resources.limits.memory": "512Mi", "kustomize-controller.resources.requests.cpu": "200m",
				"kustomize-controller.concurrent": "12", "helm-controller.concurrent": "4", "kustomize-controller.requeue-dependency": "5s",
				"source-controller.log-level": "debug", "fluxconfig-agent.log-level": "error",
				"nodeSelector": `{"pool":"system"}`, "tolerations": `[{"operator":"Exists"}]`,
			},
			want: map[string]any{
				"multiTenancy": map[string]any{"enforce": false}, "helm-controller": map[string]any{"enabled": false}, "source-controller": map[string]any{"enabled": true},
				"resources":  map[string]any{"limits": map[string]any{"memory": "2Gi"}, "requests": map[string]any{"cpu": "200m"}},
				"concurrent": float64(12), "requeueDependency": "5s", "logLevel": "debug",
				"nodeSelector": map[string]any{"pool": "system"}, "tolerations": []any{map[string]any{"operator": "Exists"}},
			},
		},
		"one asks for less": {
			why:  "what one of them can do without, another may need",
			in:   map[string]string{"helm-controller.resources.limits.memory": "512Mi", "fluxconfig-controller.resources.limits.memory": "150Mi", "source-controller.resources.limits.cpu": "1"},
			want: map[string]any{"multiTenancy": enforced, "resources": map[string]any{"limits": map[string]any{"cpu": "1"}}},
		},
		"all ask for less": {
			why:  "a small machine",
			in:   map[string]string{"helm-controller.resources.limits.memory": "256Mi", "source-controller.resources.limits.memory": "300Mi", "kustomize-controller.resources.limits.memory": "200Mi"},
			want: map[string]any{"multiTenancy": enforced, "resources": map[string]any{"limits": map[string]any{"memory": "300Mi"}}},
		},
		"not brought": {
			why:      "what is off anyway may be turned off; turning on what is not there, and unknown keys, are warnings",
			in:       map[string]string{"image-reflector-controller.enabled": "false", "notification-controller.enabled": "true", "useKubeletIdentity": "false", "source-controller.detectDrift": "true", "what.ever": "1"},
			want:     map[string]any{"multiTenancy": enforced},
			warnings: 3,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, warnings, err := Values(c.in, usual())
			if err != nil || len(warnings) != c.warnings {
				t.Fatalf("%s: warnings %q, error %v", c.why, warnings, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

func TestValuesRefuseImpossibleSettings(t *testing.T) {
	for key, text := range map[string]string{
		"multiTenancy.enforce": "perhaps", "helm-controller.enabled": "2", "fluxconfig-controller.enabled": "false",
		"source-controller.log-level": "loud", "kustomize-controller.concurrent": "0", "helm-controller.requeue-dependency": "soon",
		"source-controller.resources.limits.memory": "-1Gi", "tolerations": "{", "nodeSelector": "[1]",
	} {
		t.Run(key, func(t *testing.T) {
			if _, _, err := Values(map[string]string{key: text}, nil); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("Values(%s=%s): %v", key, text, err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	version := "1.2.3"
	m := &Manager{config: Config{Version: version}}
	cases := map[string]struct {
		in   resource.ExtensionProperties
		id   string
		want string
	}{
		"flux":             {in: resource.ExtensionProperties{ExtensionType: "Microsoft.Flux", Version: &version}},
		"cluster scope":    {in: resource.ExtensionProperties{ExtensionType: "microsoft.flux", Scope: &resource.ExtensionScope{Cluster: &resource.ExtensionScopeCluster{ReleaseNamespace: "flux-system"}}}},
		"namespace scope":  {in: resource.ExtensionProperties{ExtensionType: "microsoft.flux", Scope: &resource.ExtensionScope{Namespace: &resource.ExtensionScopeNamespace{}}}, want: "ScopeNotSupported"},
		"other namespace":  {in: resource.ExtensionProperties{ExtensionType: "microsoft.flux", Scope: &resource.ExtensionScope{Cluster: &resource.ExtensionScopeCluster{ReleaseNamespace: "x"}}}, want: "ScopeNotSupported"},
		"other type":       {in: resource.ExtensionProperties{ExtensionType: "microsoft.dapr"}, want: "ExtensionTypeNotSupported"},
		"a second of them": {in: resource.ExtensionProperties{ExtensionType: "microsoft.flux"}, id: "second", want: "ExtensionAlreadyInstalled"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := m.check(link.Item{ID: c.id, Extension: &c.in}, "")
			got := ""
			if err != nil {
				got = phase.Classify(err).Reason
			}
			if got != c.want {
				t.Errorf("check: %v, want %q", err, c.want)
			}
		})
	}
}

func TestObserved(t *testing.T) {
	pods := []resource.ExtensionStatus{{Code: "ImagePullBackOff", Level: levelError, Message: "Pod flux-system/x: ImagePullBackOff"}}
	cases := map[string]struct {
		why      string
		in       observation
		late     bool
		accepted int64
		code     string
		statuses []string
	}{
		"available":        {"done", observation{rolled: true, available: true}, false, 4, "", []string{"InstallationSucceeded"}},
		"starting":         {"still open, with the pods' troubles", observation{pods: pods}, false, 0, "", []string{"ImagePullBackOff"}},
		"too late":         {"failed, with the pods' troubles", observation{pods: pods}, true, 4, "ExtensionOperationFailed", []string{"ImagePullBackOff"}},
		"refused":          {"the user's mistake answers at once", observation{failure: phase.Stalled("ValidationFailed", errNotAvailable)}, false, 4, "ValidationFailed", []string{"ValidationFailed"}},
		"Helm failed":      {"tried again, and shown", observation{failure: errNotAvailable}, false, 0, "", []string{"ExtensionOperationFailed"}},
		"Helm failed long": {"given up", observation{failure: errNotAvailable}, true, 4, "ExtensionOperationFailed", []string{"ExtensionOperationFailed"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.in.item.Generation = 4
			e := c.in.observed("1", c.late).Extension
			code := ""
			if e.Error != nil {
				code = e.Error.Code
			}
			var statuses []string
			for _, s := range e.Statuses {
				statuses = append(statuses, s.Code)
			}
			if diff := cmp.Diff([]any{c.accepted, c.code, c.statuses}, []any{e.AcceptedGeneration, code, statuses}); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
	if stamp(time.Unix(0, 0)) != "1970-01-01T00:00:00Z" {
		t.Error("times are RFC 3339 in UTC")
	}
}

func TestPermitted(t *testing.T) {
	forbidden := fmt.Errorf("read Secret: %w", apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "s", errNotAvailable))
	if err := permitted(forbidden); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "connectedk8s connect") {
		t.Errorf("lost rights have no way out: %v", err)
	}
	if err := permitted(errNotAvailable); err != errNotAvailable {
		t.Errorf("another error is changed: %v", err)
	}
}
