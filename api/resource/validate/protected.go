package validate

import (
	"encoding/base64"
	"slices"
	"strings"

	"headwater.dev/api/resource"
)

// settings is the property that carries protected settings.
const settings = "configurationProtectedSettings"

// TakeSecrets removes every secret from the properties of a fluxConfiguration
// and returns them. given is false when the request says nothing of secrets,
// which means that those that are kept stay; given without values clears them.
func TakeSecrets(p *Problems, properties map[string]any) (values map[string]string, given bool) {
	values, given = TakeSettings(p, properties)
	known := []string{resource.ProtectedSSHPrivateKey, resource.ProtectedHTTPSKey, resource.ProtectedBucketSecretKey}
	for _, key := range sortedKeys(values) {
		target := "properties." + settings + "." + key
		if !slices.Contains(known, key) {
			p.Add(target, "is not a protected setting of a fluxConfiguration; use %s", strings.Join(known, ", "))
			continue
		}
		if !isBase64(values[key]) {
			p.Add(target, "is not base64: encode the value with `base64 -w0`")
		}
	}
	for _, lifted := range []string{
		resource.ProtectedAzureBlobAccountKey, resource.ProtectedAzureBlobSASToken, resource.ProtectedAzureBlobClientSecret,
		resource.ProtectedAzureBlobCertificate, resource.ProtectedAzureBlobCertificatePassword,
		resource.ProtectedOCIClientCertificate, resource.ProtectedOCIPrivateKey, resource.ProtectedOCICACertificate,
	} {
		v, ok := lift(properties, strings.Split(lifted, "."))
		if !ok {
			continue
		}
		s, ok := v.(string)
		if !ok {
			p.Add("properties."+lifted, "must be a string or null")
			continue
		}
		if s == "" {
			continue
		}
		if values == nil {
			values = map[string]string{}
		}
		values[lifted], given = s, true
	}
	if oci, ok := properties["ociRepository"].(map[string]any); ok {
		delete(oci, "tlsConfig")
	}
	return values, given
}

// TakeSettings removes configurationProtectedSettings from properties and
// returns it. given is false when it is absent or null.
func TakeSettings(p *Problems, properties map[string]any) (values map[string]string, given bool) {
	v, ok := properties[settings]
	delete(properties, settings)
	if !ok || v == nil {
		return nil, false
	}
	m, ok := v.(map[string]any)
	if !ok {
		p.Add("properties."+settings, "must be an object of strings or null")
		return nil, false
	}
	for _, key := range sortedKeys(m) {
		switch s := m[key].(type) {
		case string:
			if values == nil {
				values = map[string]string{}
			}
			values[key] = s
		case nil:
		default:
			p.Add("properties."+settings+"."+key, "must be a string")
		}
	}
	return values, true
}

// lift removes the value at path; ok is false when it is absent or null.
func lift(m map[string]any, path []string) (v any, ok bool) {
	for _, step := range path[:len(path)-1] {
		if m, ok = m[step].(map[string]any); !ok {
			return nil, false
		}
	}
	last := path[len(path)-1]
	v = m[last]
	delete(m, last)
	return v, v != nil
}

func isBase64(s string) bool {
	_, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\n", "", "\r", "", " ", "").Replace(s))
	return err == nil
}
