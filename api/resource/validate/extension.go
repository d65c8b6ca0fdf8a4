package validate

import (
	"regexp"
	"strings"

	"headwater.dev/api/resource"
)

// FluxNamespace is where the microsoft.flux extension is installed.
const FluxNamespace = "flux-system"

var (
	extensionName = regexp.MustCompile(`^[a-zA-Z0-9]([-.a-zA-Z0-9]{0,251}[a-zA-Z0-9])?$`)
	versionText   = regexp.MustCompile(`^v?\d+\.\d+\.\d+([-+.][0-9A-Za-z.+-]+)?$`)
)

// Extension reads the properties of the extension name.
func Extension(p *Problems, name string, properties map[string]any) resource.ExtensionProperties {
	e := resource.ExtensionProperties{AutoUpgradeMinorVersion: true, ReleaseTrain: "Stable"}
	known := map[string]any{}
	for _, k := range []string{"extensionType", "autoUpgradeMinorVersion", "autoUpgradeMode", "releaseTrain", "version", "scope"} {
		known[k] = properties[k]
	}
	p.decode("properties", known, &e)
	p.settings(&e, properties)
	if !extensionName.MatchString(name) {
		p.Add("name", "%q is not the name of an extension: use letters, digits, hyphens and dots", name)
	}
	switch {
	case e.ExtensionType == "":
		p.Add("properties.extensionType", "is missing; this hub offers %s", resource.ExtensionFlux)
	case !strings.EqualFold(e.ExtensionType, resource.ExtensionFlux):
		p.Add("properties.extensionType", "%q is not offered by this hub; it offers %s", e.ExtensionType, resource.ExtensionFlux)
	}
	if !strings.EqualFold(e.ReleaseTrain, "Stable") && !strings.EqualFold(e.ReleaseTrain, "Preview") {
		p.Add("properties.releaseTrain", "is %q; it must be Stable or Preview", e.ReleaseTrain)
	}
	p.enum("properties.autoUpgradeMode", &e.AutoUpgradeMode, "compatible", "patch", "none")
	if set(e.Version) {
		if !versionText.MatchString(*e.Version) {
			p.Add("properties.version", "%q is not a version such as 1.23.0", *e.Version)
		}
		if e.AutoUpgradeMinorVersion {
			p.Add("properties.version", "can be pinned only with autoUpgradeMinorVersion false")
		}
	}
	p.scope(&e)
	return e
}

func (p *Problems) settings(e *resource.ExtensionProperties, properties map[string]any) {
	m := p.object("properties", properties, "configurationSettings")
	if m == nil {
		return
	}
	e.ConfigurationSettings = map[string]string{}
	for _, k := range sortedKeys(m) {
		switch v := m[k].(type) {
		case string:
			e.ConfigurationSettings[k] = v
		case nil:
		default:
			p.Add("properties.configurationSettings."+k, "must be a string: write \"true\", not true")
		}
	}
}

func (p *Problems) scope(e *resource.ExtensionProperties) {
	const at = "properties.scope"
	if e.Scope == nil {
		e.Scope = &resource.ExtensionScope{}
	}
	if e.Scope.Namespace != nil {
		p.Add(at+".namespace", "%s is installed once for the whole cluster: leave scope out or use scope.cluster", resource.ExtensionFlux)
		return
	}
	if e.Scope.Cluster == nil {
		e.Scope.Cluster = &resource.ExtensionScopeCluster{}
	}
	if e.Scope.Cluster.ReleaseNamespace == "" {
		e.Scope.Cluster.ReleaseNamespace = FluxNamespace
	}
	if e.Scope.Cluster.ReleaseNamespace != FluxNamespace {
		p.Add(at+".cluster.releaseNamespace", "%s is installed into %s only, not into %q",
			resource.ExtensionFlux, FluxNamespace, e.Scope.Cluster.ReleaseNamespace)
	}
}
