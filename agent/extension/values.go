package extension

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
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
	resources map[string]map[string]resource.Quantity
	asked     map[string]int
	// plain are values of the chart that one setting gives each.
	plain map[string]any
	// watchMemory is the share of the memory limit, in percent, from which the
	// process collects garbage harder; 0 for never.
	watchMemory bool
	threshold   int64
}

// controllers that settings may name. The value says whether this version
// brings it.
func controllers() map[string]bool {
	return map[string]bool{
		"source-controller": true, "kustomize-controller": true, "helm-controller": true, "source-watcher": true,
		"fluxconfig-controller": true, "fluxconfig-agent": true,
		"notification-controller": false, "image-automation-controller": false, "image-reflector-controller": false,
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
		asked:     map[string]int{}, plain: map[string]any{}, threshold: 95,
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		warning, err := v.set(key, strings.TrimSpace(settings[key]))
		if err != nil {
			return nil, nil, &settingError{key, err}
		}
		if warning != "" {
			warnings = append(warnings, fmt.Sprintf("configuration setting %s %s", key, warning))
		}
	}
	v.keepUsual(usual)
	if err := v.watch(usual); err != nil {
		return nil, nil, err
	}
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

// watch sets how much memory the process may use before it collects garbage
// harder.
func (v *values) watch(usual map[string]any) error {
	if !v.watchMemory {
		return nil
	}
	limit, ok := v.resources["limits"]["memory"]
	if !ok {
		of, _ := usual["limits"].(map[string]any)
		text, _ := of["memory"].(string)
		var err error
		if limit, err = resource.ParseQuantity(text); err != nil {
			return fmt.Errorf("configuration setting helm-controller.outOfMemoryWatch.enabled: there is no memory limit to watch: set helm-controller.resources.limits.memory")
		}
	}
	v.plain["goMemLimit"] = strconv.FormatInt(limit.Value()*v.threshold/100, 10)
	return nil
}

func (v *values) set(key, text string) (warning string, err error) {
	if read, ok := whole()[key]; ok {
		if text == "" {
			return "", nil // As it is without the setting.
		}
		return "", read(v, text)
	}
	controller, rest, _ := strings.Cut(key, ".")
	brought, known := controllers()[controller]
	read := readers()[rest]
	switch {
	case text == "" || text == "false" && rest != "enabled":
		return "", nil
	case known && !brought && rest == "enabled" && text == "false":
		return "", nil
	case known && !brought:
		return "has no effect: this version does not bring the " + controller, nil
	case !known || read == nil:
		return without(key), nil
	}
	if err := read(v, controller, text); !errors.Is(err, errNotIts) {
		return "", err
	}
	return without(key), nil
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
	maps.Copy(c, v.plain)
	return c
}
