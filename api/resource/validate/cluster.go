package validate

import (
	"crypto/x509"
	"encoding/base64"
	"regexp"
	"strings"

	"headwater.dev/api/resource"
)

const (
	minKeyBits = 2048
	maxKeyBits = 8192
	maxTags    = 50
)

var (
	clusterName  = regexp.MustCompile(`^[a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$`)
	groupName    = regexp.MustCompile(`^[-\w.()]{0,89}[-\w()]$`)
	locationName = regexp.MustCompile(`^[a-zA-Z0-9][-a-zA-Z0-9 ]{0,62}$`)
)

// Cluster reads the properties of a cluster. A connected cluster (needsKey) must
// name the public key of its agent; a managed cluster may.
func Cluster(p *Problems, name string, properties map[string]any, needsKey bool) resource.ClusterProperties {
	var c resource.ClusterProperties
	profiles(p, properties)
	p.decode("properties", properties, &c)
	if !clusterName.MatchString(name) {
		p.Add("name", "%q is not the name of a cluster: use at most 63 letters, digits, hyphens, underscores and dots", name)
	}
	const at = "properties.agentPublicKeyCertificate"
	if c.AgentPublicKeyCertificate == "" {
		if needsKey {
			p.Add(at, "is missing: it is the base64 of the RSA public key (PKCS#1 DER) of the cluster's agent; "+
				"`headwater connectedk8s connect` makes one in the cluster")
		}
		return c
	}
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(c.AgentPublicKeyCertificate))
	if err != nil {
		p.Add(at, "is not base64")
		return c
	}
	key, err := x509.ParsePKCS1PublicKey(der)
	if err != nil {
		p.Add(at, "is not the PKCS#1 DER form of an RSA public key")
		return c
	}
	if bits := key.N.BitLen(); bits < minKeyBits || bits > maxKeyBits {
		p.Add(at, "is a key of %d bits; it must have between %d and %d", bits, minKeyBits, maxKeyBits)
	}
	return c
}

// profiles checks the free parts of a cluster and removes what only the server
// sets.
func profiles(p *Problems, properties map[string]any) {
	for key, readOnly := range map[string][]string{
		"aadProfile": nil, "arcAgentProfile": {"agentErrors", "agentState"}, "securityProfile": nil,
		"oidcIssuerProfile": {"issuerUrl"}, "gateway": nil,
	} {
		v, ok := properties[key]
		if !ok || v == nil {
			delete(properties, key)
			continue
		}
		m, ok := v.(map[string]any)
		if !ok {
			p.Add("properties."+key, "must be a JSON object or null")
			delete(properties, key)
			continue
		}
		for _, k := range readOnly {
			delete(m, k)
		}
	}
}

// Group checks the name of a resource group.
func Group(p *Problems, name string) {
	if !groupName.MatchString(name) {
		p.Add("name", "%q is not the name of a resource group: use at most 90 letters, digits, hyphens, underscores, dots and "+
			"parentheses, with no dot at the end", name)
	}
}

// Location checks where a resource is to live.
func Location(p *Problems, location string) {
	switch {
	case location == "":
		p.Add("location", "is missing: GET /subscriptions/{subscription}/locations lists the locations")
	case !locationName.MatchString(location):
		p.Add("location", "%q is not the name of a location", location)
	}
}

// Tags reads tags as they are sent with PUT.
func Tags(p *Problems, v any) map[string]string {
	if v == nil {
		return nil
	}
	tags := MergeTags(p, nil, v)
	if len(tags) > maxTags {
		p.Add("tags", "there are %d; at most %d are possible", len(tags), maxTags)
	}
	for k, v := range tags {
		if len(k) > 512 || len(v) > 256 || k == "" {
			p.Add("tags", "a name has 1 to 512 characters and a value at most 256")
			break
		}
	}
	return tags
}

// Identity folds the type of a managed identity.
func Identity(p *Problems, i *resource.Identity) {
	p.enum("identity.type", &i.Type, "SystemAssigned", "None", "UserAssigned")
}
