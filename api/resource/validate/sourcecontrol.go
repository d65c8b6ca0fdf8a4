package validate

import "headwater.dev/api/resource"

// SourceControl reads the properties of the sourceControlConfiguration name.
// Protected settings are dropped.
func SourceControl(p *Problems, name string, properties map[string]any) resource.SourceControlProperties {
	TakeSettings(p, properties)
	s := resource.SourceControlProperties{OperatorNamespace: "default", OperatorType: "Flux", OperatorScope: resource.ScopeCluster}
	p.decode("properties", properties, &s)
	if len(name) > 63 || !label.MatchString(name) {
		p.Add("name", "%q is not a name: use at most 63 lower-case letters, digits and hyphens", name)
	}
	if !gitURL.MatchString(s.RepositoryURL) {
		p.Add("properties.repositoryUrl", "%q is not the URL of a Git repository", redact(s.RepositoryURL))
	} else if hasPassword(s.RepositoryURL) {
		p.Add("properties.repositoryUrl", "holds a password: leave it out")
	}
	p.enum("properties.operatorType", &s.OperatorType, "Flux")
	p.enum("properties.operatorScope", &s.OperatorScope, resource.ScopeCluster, resource.ScopeNamespace)
	if s.OperatorInstanceName == "" {
		s.OperatorInstanceName = name
	}
	return s
}
