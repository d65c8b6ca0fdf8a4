package extension

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// readers by the part of a key after the controller.
func readers() map[string]reader {
	quantity := func(kind, name string) reader {
		return func(v *values, controller, text string) error {
			q, err := resource.ParseQuantity(text)
			if err != nil || q.Sign() <= 0 {
				return fmt.Errorf("%q is not an amount such as 512Mi or 500m", text)
			}
			if old, ok := v.resources[kind][name]; !ok || q.Cmp(old) > 0 {
				v.resources[kind][name] = q
			}
			if strings.HasSuffix(controller, "-controller") && controller != "fluxconfig-controller" {
				v.asked[kind+"."+name]++
			}
			return nil
		}
	}
	return map[string]reader{
		"enabled":                          readEnabled,
		"log-level":                        readLogLevel,
		"concurrent":                       readConcurrent,
		"requeue-dependency":               readRequeue,
		"detectDrift":                      only("helm-controller", func(v *values, text string) error { return v.flag("detectDrift", text) }),
		"strict-substitution-mode":         only("kustomize-controller", func(v *values, text string) error { return v.flag("strictSubstitution", text) }),
		"outOfMemoryWatch.enabled":         only("helm-controller", readWatch),
		"outOfMemoryWatch.memoryThreshold": only("helm-controller", readThreshold),
		"resources.limits.memory":          quantity("limits", "memory"),
		"resources.limits.cpu":             quantity("limits", "cpu"),
		"resources.requests.memory":        quantity("requests", "memory"),
		"resources.requests.cpu":           quantity("requests", "cpu"),
	}
}

// only is a reader of a setting that one controller alone has.
func only(controller string, read func(v *values, text string) error) reader {
	return func(v *values, of, text string) error {
		if of != controller {
			return errNotIts
		}
		return read(v, text)
	}
}

// errNotIts says that a controller does not have a setting of this name.
var errNotIts = errors.New("the controller does not have this setting")

// whole are the settings that belong to no controller.
func whole() map[string]func(v *values, text string) error {
	list := func(name string) func(*values, string) error {
		return func(v *values, text string) error { return shaped(v, name, text, []map[string]any{}) }
	}
	words := func(name string) func(*values, string) error {
		return func(v *values, text string) error { return shaped(v, name, text, map[string]string{}) }
	}
	return map[string]func(v *values, text string) error{
		"multiTenancy.enforce": func(v *values, text string) (err error) {
			v.enforce, err = boolean(text)
			return err
		},
		"nodeSelector": words("nodeSelector"), "podLabels": words("podLabels"), "podAnnotations": words("podAnnotations"), "env": words("env"),
		"tolerations": list("tolerations"),
		"affinity":    func(v *values, text string) error { return shaped(v, "affinity", text, map[string]any{}) },
		"extraArgs":   func(v *values, text string) error { return shaped(v, "extraArgs", text, []string{}) },
		"priorityClassName": func(v *values, text string) error {
			v.plain["priorityClassName"] = text
			return nil
		},
		"workloadIdentity.enable":        func(v *values, text string) error { return v.identity("enable", text) },
		"workloadIdentity.azureClientId": func(v *values, text string) error { return v.identity("clientId", text) },
		"workloadIdentity.azureTenantId": func(v *values, text string) error { return v.identity("tenantId", text) },
		"setKubeServiceHostFqdn":         func(v *values, text string) error { return v.flag("setKubeServiceHostFqdn", text) },
	}
}

// without says why a setting that Azure's extension has does nothing here.
func without(key string) string {
	switch {
	case key == "useKubeletIdentity":
		return "has no effect: configurations of sourceKind AzureBlob with managedIdentity, or provider Azure, use the identity of the node where the cloud offers it"
	case strings.HasSuffix(key, ".ssh-host-key-args"):
		return "has no effect: the kinds of host keys that are asked for are those that known_hosts has"
	case strings.HasSuffix(key, ".enable-in-memory-build"):
		return "has no effect: small artifacts are built in memory and large ones from files, without being asked"
	case strings.HasSuffix(key, ".outOfMemoryWatch.interval"):
		return "has no effect: the memory is watched all the time, not at intervals"
	}
	return "has no effect: this version does not know it"
}

func (v *values) flag(name, text string) error {
	on, err := boolean(text)
	if err == nil {
		v.plain[name] = on
	}
	return err
}

// identity notes one value of the workload identity of the controllers.
func (v *values) identity(name, text string) error {
	of, _ := v.plain["workloadIdentity"].(map[string]any)
	if of == nil {
		of = map[string]any{}
		v.plain["workloadIdentity"] = of
	}
	of[name] = text
	if name != "enable" {
		return nil
	}
	on, err := boolean(text)
	of[name] = on
	return err
}

func readWatch(v *values, text string) (err error) {
	v.watchMemory, err = boolean(text)
	return err
}

func readThreshold(v *values, text string) error {
	n, err := strconv.ParseInt(strings.TrimSuffix(text, "%"), 10, 32)
	if err != nil || n < 1 || n > 100 {
		return fmt.Errorf("%q is not a number of percent between 1 and 100", text)
	}
	v.threshold = n
	return nil
}

func readEnabled(v *values, controller, text string) error {
	on, err := boolean(text)
	if err != nil {
		return err
	}
	if strings.HasPrefix(controller, "fluxconfig-") {
		if !on {
			return fmt.Errorf("%s cannot be turned off: it is what applies configurations", controller)
		}
		return nil
	}
	v.enabled[controller] = map[string]any{"enabled": on}
	return nil
}

func readLogLevel(v *values, _, text string) error {
	levels := []string{"", "error", "info", "debug"}
	at := slices.Index(levels, text)
	if at < 1 {
		return fmt.Errorf("%q is not a log level: use debug, info or error", text)
	}
	v.logLevel = levels[max(at, slices.Index(levels, v.logLevel))]
	return nil
}

func readConcurrent(v *values, _, text string) error {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number of at least 1", text)
	}
	v.concurrent = max(v.concurrent, n)
	return nil
}

func readRequeue(v *values, _, text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is not a duration such as 30s", text)
	}
	if v.requeue == 0 || d < v.requeue {
		v.requeue = d
	}
	return nil
}

func boolean(text string) (bool, error) {
	b, err := strconv.ParseBool(strings.ToLower(text))
	if err != nil {
		return false, fmt.Errorf("%q is not true or false", text)
	}
	return b, nil
}

// shaped reads a value that is YAML or JSON of the shape of example.
func shaped[T any](v *values, name, text string, example T) error {
	if err := yaml.UnmarshalStrict([]byte(text), &example); err != nil {
		raw, _ := json.Marshal(example)
		return fmt.Errorf("it is not JSON or YAML of the form %s: %w", raw, err)
	}
	raw, err := json.Marshal(example)
	if err != nil {
		return err
	}
	var plain any
	if err := json.Unmarshal(raw, &plain); err != nil {
		return err
	}
	v.plain[name] = plain
	return nil
}
