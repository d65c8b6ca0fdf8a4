package rest

import (
	"net/http"
	"slices"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/validate"
)

// extensionType is the one entry of the catalogue.
func extensionType(base string) map[string]any {
	return map[string]any{
		"id": base + "/" + resource.ExtensionFlux, "name": resource.ExtensionFlux, "type": typeCatalogue,
		"properties": map[string]any{
			"isSystemExtension": false, "isManagedIdentityRequired": false, "publisher": "Headwater", "planInfo": nil,
			"description":           "GitOps with Flux: sources, Kustomizations and Helm releases from Git, buckets and registries.",
			"supportedClusterTypes": clusterTypes(),
			"supportedScopes": map[string]any{"defaultScope": "cluster", "clusterScopeSettings": map[string]any{
				"properties": map[string]any{"allowMultipleInstances": false, "defaultReleaseNamespace": validate.FluxNamespace}}},
		},
	}
}

func clusterTypes() []string { return []string{"connectedClusters", "managedClusters"} }

// extensionVersion is one supported version of the extension.
func extensionVersion(base, version string) map[string]any {
	nothing := map[string]any{}
	for _, of := range []string{"connectedCluster", "appliances", "provisionedCluster", "managedCluster"} {
		nothing[of] = []any{}
	}
	return map[string]any{
		"id": base + "/" + resource.ExtensionFlux + "/versions/" + version, "name": version, "type": typeCatalogue + "/versions",
		"properties": map[string]any{"version": version, "supportedClusterTypes": clusterTypes(), "unsupportedKubernetesVersions": nothing},
	}
}

// catalogue is the id of the collection of types, of a cluster or a location.
func (c *call) catalogue() (string, error) {
	if location := c.r.PathValue("location"); location != "" {
		return c.id.String() + "/providers/Microsoft.KubernetesConfiguration/locations/" + location + "/extensionTypes", nil
	}
	cluster, err := c.loadCluster()
	return cluster.ID + "/providers/" + typeCatalogue, err
}

// query reads a parameter in any casing.
func (c *call) query(name string) string {
	for key, values := range c.r.URL.Query() {
		if strings.EqualFold(key, name) && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

func (s *Server) listExtensionTypes(c *call) error {
	base, err := c.catalogue()
	if err != nil {
		return err
	}
	value := []map[string]any{extensionType(base)}
	of := c.query("clusterType")
	if of != "" && !slices.ContainsFunc(clusterTypes(), func(t string) bool { return strings.EqualFold(t, of) }) ||
		c.query("publisherId") != "" || c.query("offerId") != "" || c.query("planId") != "" {
		value = []map[string]any{} // the type is for no other cluster and belongs to no plan
	}
	return c.reply(http.StatusOK, arm.Page[map[string]any]{Value: value})
}

// knownType is an error unless the path names the one type.
func (c *call) knownType() error {
	if name := c.r.PathValue("type"); !strings.EqualFold(name, resource.ExtensionFlux) {
		return arm.Errorf(arm.CodeNotFound, "The extension type '%s' was not found; this hub offers %s.", name, resource.ExtensionFlux)
	}
	return nil
}

func (s *Server) getExtensionType(c *call) error {
	base, err := c.catalogue()
	if err == nil {
		err = c.knownType()
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, extensionType(base))
}

func (s *Server) listExtensionVersions(c *call) error {
	base, err := c.catalogue()
	if err == nil {
		err = c.knownType()
	}
	if err != nil {
		return err
	}
	latest := strings.EqualFold(c.query("showLatest"), "true")
	value := []map[string]any{}
	for _, v := range s.releases.Offer(c.query("releaseTrain"), c.query("majorVersion"), latest) {
		value = append(value, extensionVersion(base, v))
	}
	return c.reply(http.StatusOK, arm.Page[map[string]any]{Value: value})
}

func (s *Server) getExtensionVersion(c *call) error {
	base, err := c.catalogue()
	if err == nil {
		err = c.knownType()
	}
	if err != nil {
		return err
	}
	offered, version := s.releases.Offer("any", "", false), c.r.PathValue("version")
	if !slices.Contains(offered, version) {
		return arm.Errorf(arm.CodeNotFound, "The version '%s' of %s was not found; this hub offers %s: the newest minor version and the two before it.",
			clip(version), resource.ExtensionFlux, strings.Join(offered, ", "))
	}
	return c.reply(http.StatusOK, extensionVersion(base, version))
}

// supported refuses to pin a version that is no longer supported, unless it is
// the one that is pinned already.
func (s *Server) supported(p *validate.Problems, was, is extensionProperties) {
	if is.Version == nil || was.Version != nil && *was.Version == *is.Version {
		return
	}
	if ok, oldest := s.releases.Supported(*is.Version); !ok {
		p.Add("properties.version", "%s is no longer supported: the newest minor version and the two before it are, from %s on; this hub offers %s",
			*is.Version, oldest, strings.Join(s.releases.Offer("any", "", false), ", "))
		return
	}
	if slices.Contains(s.releases.Offer("any", "", false), *is.Version) && !slices.Contains(s.releases.Offer(is.ReleaseTrain, "", false), *is.Version) {
		p.Add("properties.version", "%s is a pre-release: it comes with releaseTrain Preview", *is.Version)
	}
}
