package extension

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// reader turns one setting into values, or says why it cannot.
type reader func(v *values, controller, text string) error

// values collects what settings ask of the one process that runs all loops.
type values struct {
	enabled    map[string]any
	enforce    bool
	logLevel   string
	concurrent int64
	requeue    time.Duration
	// resources by kind (limits, requests) and name; asked counts who asked.
	resources   map[string]map[string]resource.Quantity
	asked       map[string]int
	node, taint any
}

// controllers that settings may name. The value says whether this version
// brings it.
func controllers() map[string]bool {
	return map[string]bool{
		"source-controller": true, "kustomize-controller": true, "helm-controller": true,
		"fluxconfig-controller": true, "fluxconfig-agent": true,
		"notification-controller": false, "image-automation-controller": false, "image-reflector-controller": false,
	}
}

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
			if !strings.HasPrefix(controller, "fluxconfig-") {
				v.asked[kind+"."+name]++
			}
			return nil
		}
	}
	return map[string]reader{
		"enabled":                   readEnabled,
		"log-level":                 readLogLevel,
		"concurrent":                readConcurrent,
		"requeue-dependency":        readRequeue,
		"resources.limits.memory":   quantity("limits", "memory"),
		"resources.limits.cpu":      quantity("limits", "cpu"),
		"resources.requests.memory": quantity("requests", "memory"),
		"resources.requests.cpu":    quantity("requests", "cpu"),
	}
}

// Values turns configuration settings into the values of the chart. A setting
// with an impossible value is an error that names it; one that has no effect
// in this version is a warning.
//
// All controllers run in one process. It gets the largest amount of a resource
// and the most workers that any of them asks for, the shortest requeue, and
// the most detailed log. An amount below the usual one counts only when the
// source, the kustomize and the helm controller all ask for less: what one of
// them can do without, another may need. Usual are the resources of the chart.
func Values(settings map[string]string, usual map[string]any) (chart map[string]any, warnings []string, err error) {
	v := &values{
		enabled: map[string]any{}, enforce: true,
		resources: map[string]map[string]resource.Quantity{"limits": {}, "requests": {}},
		asked:     map[string]int{},
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		warning, err := v.set(key, strings.TrimSpace(settings[key]))
		if err != nil {
			return nil, nil, fmt.Errorf("configuration setting %s: %w", key, err)
		}
		if warning != "" {
			warnings = append(warnings, fmt.Sprintf("configuration setting %s %s", key, warning))
		}
	}
	v.keepUsual(usual)
	return v.chart(), warnings, nil
}

// keepUsual drops amounts below the usual that not all controllers agree on.
func (v *values) keepUsual(usual map[string]any) {
	for kind, amounts := range v.resources {
		of, _ := usual[kind].(map[string]any)
		for name, q := range amounts {
			text, _ := of[name].(string)
			least, err := resource.ParseQuantity(text)
			if err == nil && q.Cmp(least) < 0 && v.asked[kind+"."+name] < 3 {
				delete(amounts, name)
			}
		}
	}
}

func (v *values) set(key, text string) (warning string, err error) {
	switch key {
	case "multiTenancy.enforce":
		v.enforce, err = boolean(text)
		return "", err
	case "nodeSelector":
		return "", object(text, &v.node, map[string]string{})
	case "tolerations":
		return "", object(text, &v.taint, []map[string]any{})
	}
	controller, rest, _ := strings.Cut(key, ".")
	brought, known := controllers()[controller]
	read := readers()[rest]
	switch {
	case text == "" || text == "false" && rest != "enabled":
		return "", nil // As it is without the setting.
	case known && !brought && rest == "enabled" && text == "false":
		return "", nil
	case known && !brought:
		return "has no effect: this version does not bring the " + controller, nil
	case !known || read == nil:
		return "has no effect: this version does not know it", nil
	}
	return "", read(v, controller, text)
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

// object reads a value that is YAML or JSON of the shape of example.
func object[T any](text string, into *any, example T) error {
	if text == "" {
		return nil
	}
	if err := yaml.UnmarshalStrict([]byte(text), &example); err != nil {
		raw, _ := json.Marshal(example)
		return fmt.Errorf("it is not JSON or YAML of the form %s: %w", raw, err)
	}
	raw, err := json.Marshal(example)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// chart gives the values that differ from the chart's own.
func (v *values) chart() map[string]any {
	c := maps.Clone(v.enabled)
	c["multiTenancy"] = map[string]any{"enforce": v.enforce}
	if v.logLevel != "" {
		c["logLevel"] = v.logLevel
	}
	if v.concurrent > 0 {
		c["concurrent"] = float64(v.concurrent)
	}
	if v.requeue > 0 {
		c["requeueDependency"] = v.requeue.String()
	}
	resources := map[string]any{}
	for kind, amounts := range v.resources {
		if len(amounts) == 0 {
			continue
		}
		of := map[string]any{}
		for name, q := range amounts {
			of[name] = q.String()
		}
		resources[kind] = of
	}
	if len(resources) > 0 {
		c["resources"] = resources
	}
	if v.node != nil {
		c["nodeSelector"] = v.node
	}
	if v.taint != nil {
		c["tolerations"] = v.taint
	}
	return c
}
