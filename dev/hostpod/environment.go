package hostpod

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reference is $(NAME) in arguments and values of variables.
var reference = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_]*)\)`)

// commandLine returns the program and the arguments of a container. Without a
// command the program is called as the image is.
func commandLine(c corev1.Container) (program string, arguments []string) {
	if len(c.Command) > 0 {
		return path.Base(c.Command[0]), slices.Concat(c.Command[1:], c.Args)
	}
	name := path.Base(c.Image)
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = strings.Cut(name, ":")
	return name, slices.Clone(c.Args)
}

// expand replaces $(NAME) by the variable's value, as the kubelet does; an
// unknown reference stays as it is.
func expand(text string, variables map[string]string) string {
	return reference.ReplaceAllStringFunc(text, func(match string) string {
		if value, ok := variables[match[2:len(match)-1]]; ok {
			return value
		}
		return match
	})
}

// flatten returns the variables as NAME=value in the order of their names.
func flatten(variables map[string]string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		list = append(list, name+"="+variables[name])
	}
	return list
}

// environment returns the container's variables, and those that make the
// process fit on this machine: they take the place of the pod's network and
// volumes.
func (p *pod) environment(ctx context.Context, c corev1.Container) (map[string]string, error) {
	if len(c.EnvFrom) > 0 {
		return nil, fmt.Errorf("container %s uses envFrom, which host processes do not support: list the variables in env", c.Name)
	}
	variables := map[string]string{"PATH": os.Getenv("PATH"), "TMPDIR": os.TempDir()}
	for _, variable := range c.Env {
		value := expand(variable.Value, variables)
		if variable.ValueFrom != nil {
			var err error
			if value, err = p.resolve(ctx, c, variable.ValueFrom); err != nil {
				return nil, fmt.Errorf("variable %s of container %s: %w", variable.Name, c.Name, err)
			}
		}
		variables[variable.Name] = value
	}
	maps.Copy(variables, map[string]string{
		"HOME":             p.dir,
		"KUBECONFIG":       p.file("kubeconfig"),
		"POD_NAMESPACE":    p.deployment.Namespace,
		"POD_NAME":         p.deployment.Name + "-host",
		"STORAGE_PATH":     filepath.Join(p.dir, "storage"),
		"STORAGE_ADDR":     address(p.ports.storage),
		"STORAGE_ADV_ADDR": address(p.ports.storage),
		"METRICS_ADDR":     address(p.ports.metrics),
		"HEALTH_ADDR":      address(p.ports.health),
	})
	return variables, nil
}

func address(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// resolve returns the value that a variable takes from elsewhere.
func (p *pod) resolve(ctx context.Context, c corev1.Container, from *corev1.EnvVarSource) (string, error) {
	switch {
	case from.FieldRef != nil:
		return p.field(from.FieldRef.FieldPath)
	case from.ResourceFieldRef != nil:
		return resourceField(c, from.ResourceFieldRef)
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		object, err := p.client.CoreV1().ConfigMaps(p.deployment.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", missing(err, ref.Optional)
		}
		value, ok := object.Data[ref.Key]
		return value, absent(ok, "ConfigMap "+ref.Name, ref.Key, ref.Optional)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		object, err := p.client.CoreV1().Secrets(p.deployment.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", missing(err, ref.Optional)
		}
		value, ok := object.Data[ref.Key]
		return string(value), absent(ok, "Secret "+ref.Name, ref.Key, ref.Optional)
	default:
		return "", fmt.Errorf("host processes support fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef only")
	}
}

// missing drops the error when the object may be missing and is.
func missing(err error, optional *bool) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func absent(found bool, object, key string, optional *bool) error {
	if found || optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("%s has no key %q", object, key)
}

func (p *pod) field(path string) (string, error) {
	switch path {
	case "metadata.name":
		return p.deployment.Name + "-host", nil
	case "metadata.namespace":
		return p.deployment.Namespace, nil
	case "metadata.uid":
		return string(p.deployment.UID), nil
	case "spec.serviceAccountName":
		return p.serviceAccount(), nil
	case "spec.nodeName":
		return "host", nil
	case "status.podIP", "status.hostIP":
		return "127.0.0.1", nil
	default:
		return "", fmt.Errorf("host processes have no field %s", path)
	}
}

// resourceField returns a limit or request in units of the divisor, rounded up.
func resourceField(c corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list := map[string]corev1.ResourceList{"limits": c.Resources.Limits, "requests": c.Resources.Requests}[kind]
	quantity, ok := list[corev1.ResourceName(name)]
	if !ok {
		return "", fmt.Errorf("container %s has no %s", c.Name, ref.Resource)
	}
	divisor := ref.Divisor.AsApproximateFloat64()
	if divisor == 0 {
		divisor = 1
	}
	return strconv.FormatFloat(math.Ceil(quantity.AsApproximateFloat64()/divisor), 'f', 0, 64), nil
}

func (p *pod) file(name string) string { return filepath.Join(p.dir, name) }
