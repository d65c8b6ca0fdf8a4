package validate

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
)

// sparse checks the directories of a sparse checkout.
func (p *Problems) sparse(target string, dirs []string) {
	for i, d := range dirs {
		clean := path.Clean(d)
		if d == "" || path.IsAbs(d) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsAny(d, "\x00\n\r") {
			p.Add(fmt.Sprintf("%s[%d]", target, i), "%q is not a directory of the repository: name one such as deploy/production", d)
		}
	}
}

// objectIdentity checks a workload identity of one object.
func (p *Problems) objectIdentity(target string, i *resource.ObjectLevelIdentity) {
	if i == nil {
		return
	}
	if i.ClientID == "" {
		p.Add(target+".clientId", "is missing: it is the client id of the identity")
	}
	if n := text(i.ServiceAccountName); n != "" && (len(n) > 253 || !subdomain.MatchString(n)) {
		p.Add(target+".serviceAccountName", "%q is not the name of a service account", n)
	}
}

// kubeConfig checks the other cluster of a kustomization.
func (p *Problems) kubeConfig(target string, k resource.Kustomization) {
	if k.KubeConfig == nil {
		return
	}
	target += ".kubeConfig"
	id, err := arm.ParseID(k.KubeConfig.ClusterResourceID)
	if err != nil || !strings.EqualFold(id.Type(), resource.TypeManagedCluster) {
		p.Add(target+".clusterResourceId", "%q is not the id of a managed cluster of Azure. For any other cluster put a kubeconfig into a Secret and name it in "+
			`additionalConfigurations, {"kubeConfig":{"secretRef":{"name":"…"}}}, or connect the cluster to this hub and configure it there`, k.KubeConfig.ClusterResourceID)
	}
	if k.KubeConfig.ObjectLevelIdentity == nil {
		p.Add(target+".objectLevelIdentity", "is missing: without one the controllers' own identity would be used")
	}
	p.objectIdentity(target+".objectLevelIdentity", k.KubeConfig.ObjectLevelIdentity)
	var more map[string]any
	if json.Unmarshal(k.AdditionalConfigurations, &more) == nil && more["kubeConfig"] != nil {
		p.Add(target, "is given twice: here and in additionalConfigurations")
	}
}

// verify checks how the signature of an artifact is to be verified.
func (p *Problems) verify(target string, v *resource.Verify) {
	if v.Provider == "" {
		v.Provider = "cosign"
	}
	p.enum(target+".provider", &v.Provider, "cosign", "notation")
	for _, name := range sortedKeys(v.VerificationConfig) {
		value := strings.TrimSpace(v.VerificationConfig[name])
		switch {
		case name == "secretName" && len(v.VerificationConfig) > 1:
			p.Add(target+".verificationConfig", "has secretName, which names a Secret with keys, and keys beside it: give either")
		case name == "secretName", strings.HasPrefix(value, "-----BEGIN"), strings.HasPrefix(value, "{"):
		case value == "" || !isBase64(value):
			p.Add(target+".verificationConfig."+name, "is neither PEM nor base64 of it: give a public key, as it is or encoded with `base64 -w0`")
		}
	}
	for i, m := range v.MatchOIDCIdentity {
		if m.Issuer == "" || m.Subject == "" {
			p.Add(fmt.Sprintf("%s.matchOidcIdentity[%d]", target, i), "needs issuer and subject, both regular expressions")
		}
	}
}

// additional checks the additionalConfigurations of a source or kustomization
// whose properties begin with at. What they say beyond that is judged in the
// cluster, which knows the kinds of Flux.
func (p *Problems) additional(at, kind string, raw *json.RawMessage) {
	at += ".additionalConfigurations"
	if len(*raw) == 0 || string(*raw) == "null" {
		*raw = nil
		return
	}
	if len(*raw) > resource.MaxAdditional {
		p.Add(at, "has %d bytes; at most %d are possible", len(*raw), resource.MaxAdditional)
		return
	}
	var m map[string]any
	if err := json.Unmarshal(*raw, &m); err != nil || m == nil {
		p.Add(at, "must be a JSON object or null: its keys are those of the spec of the Flux object")
		return
	}
	decided := resource.DecidedBy(kind)
	for _, key := range sortedKeys(m) {
		if by, ok := decided[key]; ok {
			p.Add(at+"."+key, "cannot be set here: %s of the configuration decides it", by)
		}
	}
}
