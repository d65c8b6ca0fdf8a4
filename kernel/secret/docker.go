package secret

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Registries are the credentials of a Docker configuration, by registry.
type Registries struct {
	auths map[string]Registry
}

// Registry is how to log in to one registry.
type Registry struct {
	Username, Password string
	// Token is an identity token, sent instead of a password.
	Token string
}

// dockerAuth is an entry of a Docker configuration.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// Docker reads a Secret of type kubernetes.io/dockerconfigjson or
// kubernetes.io/dockercfg.
func (s Secret) Docker() (Registries, error) {
	var config struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	var err error
	switch {
	case len(s.Data[corev1.DockerConfigJsonKey]) > 0:
		err = json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &config)
	case len(s.Data[corev1.DockerConfigKey]) > 0:
		err = json.Unmarshal(s.Data[corev1.DockerConfigKey], &config.Auths)
	default:
		return Registries{}, s.incomplete("%s must be set", corev1.DockerConfigJsonKey)
	}
	if err != nil {
		return Registries{}, s.incomplete("%s is no Docker configuration", corev1.DockerConfigJsonKey)
	}
	r := Registries{auths: map[string]Registry{}}
	for host, a := range config.Auths {
		reg := Registry{a.Username, a.Password, a.IdentityToken}
		if reg.Username == "" && a.Auth != "" {
			raw, err := base64.StdEncoding.DecodeString(a.Auth)
			user, pass, ok := strings.Cut(string(raw), ":")
			if err != nil || !ok {
				return Registries{}, s.incomplete("the entry of %s is not base64 of user:password", host)
			}
			reg.Username, reg.Password = user, strings.TrimRight(pass, "\x00")
		}
		r.auths[registryHost(host)] = reg
	}
	return r, nil
}

// For gives the credentials of exactly this registry host with its port.
func (r Registries) For(host string) (Registry, bool) {
	reg, ok := r.auths[registryHost(host)]
	return reg, ok
}

// registryHost reduces a key of a Docker configuration to its host. Docker Hub
// has several names.
func registryHost(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, _, _ := strings.Cut(key, "/")
	switch host = strings.ToLower(host); host {
	case "docker.io", "registry-1.docker.io", "index.docker.io":
		return "index.docker.io"
	}
	return host
}

// ForHost gives the credentials of one registry host.
func ForHost(host string, b Basic) Registries {
	return Registries{auths: map[string]Registry{registryHost(host): {Username: b.Username, Password: b.Password}}}
}
