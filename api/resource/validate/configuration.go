package validate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"headwater.dev/api/resource"
)

const (
	defaultSeconds = 600
	maxSeconds     = 35791394
	// maxJoined bounds the names of a configuration and a kustomization
	// together: with a hyphen between them they name one object.
	maxJoined = 62
)

var (
	subdomain = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`)
	label     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	variable  = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	duration  = regexp.MustCompile(`^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?$`)
)

// Configuration reads the properties of the fluxConfiguration name. keys are the
// names of its protected settings, those kept and those new.
func Configuration(p *Problems, name string, properties map[string]any, keys []string) resource.FluxConfigurationProperties {
	c := resource.FluxConfigurationProperties{
		Scope: resource.ScopeCluster, Namespace: "default", SourceKind: resource.SourceGitRepository,
	}
	scalars := map[string]any{}
	for _, k := range []string{"scope", "namespace", "sourceKind", "suspend", "waitForReconciliation", "reconciliationWaitDuration"} {
		scalars[k] = properties[k]
	}
	p.decode("properties", scalars, &c)
	p.enum("properties.scope", &c.Scope, resource.ScopeCluster, resource.ScopeNamespace)
	p.enum("properties.sourceKind", &c.SourceKind, resource.SourceGitRepository, resource.SourceBucket,
		resource.SourceAzureBlob, resource.SourceOCIRepository)
	if len(c.Namespace) > 63 || !label.MatchString(c.Namespace) {
		p.Add("properties.namespace", "%q is not a namespace: use at most 63 lower-case letters, digits and hyphens", c.Namespace)
	}
	if len(name) > 63 || !subdomain.MatchString(name) {
		p.Add("name", "%q cannot name an object in a cluster: use at most 63 lower-case letters, digits, hyphens and dots, "+
			"with a letter or digit at both ends", name)
	}
	if d := text(c.ReconciliationWaitDuration); d != "" {
		if _, err := Duration(d); err != nil {
			p.Add("properties.reconciliationWaitDuration", "%v", err)
		}
	}
	p.sources(&c, properties, keys)
	p.kustomizations(name, &c, properties)
	return c
}

// Duration reads an ISO 8601 duration of days, hours, minutes and seconds, such
// as PT5M.
func Duration(s string) (time.Duration, error) {
	m := duration.FindStringSubmatch(strings.ToUpper(s))
	if m == nil || strings.Join(m[1:], "") == "" || strings.HasSuffix(strings.ToUpper(s), "T") {
		return 0, fmt.Errorf("%q is not an ISO 8601 duration such as PT5M, PT1H or P1D", s)
	}
	var total time.Duration
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		var n int64
		if m[i+1] == "" {
			continue
		}
		if _, err := fmt.Sscan(m[i+1], &n); err != nil || n > maxSeconds {
			return 0, fmt.Errorf("%q is too long a duration", s)
		}
		total += time.Duration(n) * unit
	}
	return total, nil
}

// kustomizations reads the map of kustomizations and checks how they depend on
// each other.
func (p *Problems) kustomizations(config string, c *resource.FluxConfigurationProperties, properties map[string]any) {
	m := p.object("properties", properties, "kustomizations")
	c.Kustomizations = map[string]resource.Kustomization{}
	for _, name := range sortedKeys(m) {
		target := "properties.kustomizations." + name
		k := resource.Kustomization{TimeoutInSeconds: defaultSeconds, SyncIntervalInSeconds: defaultSeconds, Wait: true}
		p.decode(target, m[name], &k)
		if len(name) > 63 || !label.MatchString(name) {
			p.Add(target, "%q is not a name for a kustomization: use lower-case letters, digits and hyphens", name)
		}
		if len(config)+len(name) > maxJoined {
			p.Add(target, "the names %q and %q have %d characters together, at most %d are possible because they name one object: shorten one",
				config, name, len(config)+len(name), maxJoined)
		}
		p.kustomization(target, k)
		p.additional(target, "Kustomization", &k.AdditionalConfigurations)
		p.kubeConfig(target, k)
		c.Kustomizations[name] = k
	}
	p.dependencies(config, c.Kustomizations)
}

func (p *Problems) kustomization(target string, k resource.Kustomization) {
	p.seconds(target+".timeoutInSeconds", k.TimeoutInSeconds)
	p.seconds(target+".syncIntervalInSeconds", k.SyncIntervalInSeconds)
	if k.RetryIntervalInSeconds != nil {
		p.seconds(target+".retryIntervalInSeconds", *k.RetryIntervalInSeconds)
	}
	if strings.ContainsAny(k.Path, "\x00\n\r") {
		p.Add(target+".path", "contains a line break")
	}
	if k.PostBuild == nil {
		return
	}
	for _, name := range sortedKeys(k.PostBuild.Substitute) {
		if !variable.MatchString(name) {
			p.Add(target+".postBuild.substitute."+name, "is not the name of a variable: use letters, digits and underscores")
		}
	}
	for i := range k.PostBuild.SubstituteFrom {
		from := &k.PostBuild.SubstituteFrom[i]
		at := fmt.Sprintf("%s.postBuild.substituteFrom[%d]", target, i)
		if from.Kind == "" {
			p.Add(at+".kind", "is missing: use ConfigMap or Secret")
		} else {
			p.enum(at+".kind", &from.Kind, "ConfigMap", "Secret")
		}
		if len(from.Name) > 253 || !subdomain.MatchString(from.Name) {
			p.Add(at+".name", "%q is not the name of a ConfigMap or Secret", from.Name)
		}
	}
}

func (p *Problems) seconds(target string, n int64) {
	if n < 1 || n > maxSeconds {
		p.Add(target, "is %d; it must be between 1 and %d seconds", n, maxSeconds)
	}
}

// dependencies checks that every dependsOn names a sibling, plain or with the
// configuration's name before it, and that nothing waits for itself.
func (p *Problems) dependencies(config string, all map[string]resource.Kustomization) {
	edges := map[string][]string{}
	for _, name := range sortedKeys(all) {
		for i, dep := range all[name].DependsOn {
			sibling := Sibling(config, dep, all)
			target := fmt.Sprintf("properties.kustomizations.%s.dependsOn[%d]", name, i)
			switch {
			case sibling == "":
				p.Add(target, "there is no kustomization %q in this configuration; there are %s", dep, strings.Join(sortedKeys(all), ", "))
			case sibling == name:
				p.Add(target, "%q depends on itself", name)
			default:
				edges[name] = append(edges[name], sibling)
			}
		}
	}
	if cycle := findCycle(edges); cycle != nil {
		p.Add("properties.kustomizations."+cycle[0]+".dependsOn", "depend on each other in a circle: %s", strings.Join(cycle, " → "))
	}
}

// Sibling resolves what dependsOn says, "infra" or "<config>-infra", to the name
// of a kustomization; "" when there is none.
func Sibling(config, dep string, all map[string]resource.Kustomization) string {
	if _, ok := all[dep]; ok {
		return dep
	}
	if plain, ok := strings.CutPrefix(dep, config+"-"); ok {
		if _, ok := all[plain]; ok {
			return plain
		}
	}
	return ""
}

func findCycle(edges map[string][]string) []string {
	done := map[string]bool{}
	var path []string
	var visit func(string) []string
	visit = func(n string) []string {
		if i := slices.Index(path, n); i >= 0 {
			return append(slices.Clone(path[i:]), n)
		}
		if done[n] {
			return nil
		}
		path = append(path, n)
		for _, next := range edges[n] {
			if cycle := visit(next); cycle != nil {
				return cycle
			}
		}
		path = path[:len(path)-1]
		done[n] = true
		return nil
	}
	for _, n := range sortedKeys(edges) {
		if cycle := visit(n); cycle != nil {
			return cycle
		}
	}
	return nil
}
