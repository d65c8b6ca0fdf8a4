package hostpod

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestCommandLine(t *testing.T) {
	cases := map[string]struct {
		why     string
		in      corev1.Container
		program string
		args    []string
	}{
		"command":   {"the command names the program", corev1.Container{Image: "x/y:1", Command: []string{"/usr/bin/agent", "connect"}, Args: []string{"--a"}}, "agent", []string{"connect", "--a"}},
		"image":     {"without a command the image does", corev1.Container{Image: "headwater.dev/agent:0.1.0", Args: []string{"connect"}}, "agent", []string{"connect"}},
		"digest":    {"a digest is no part of the name", corev1.Container{Image: "headwater.dev/agent@sha256:00"}, "agent", nil},
		"registry":  {"nor is a port", corev1.Container{Image: "127.0.0.1:5000/agent"}, "agent", nil},
		"empty tag": {"an image without tag", corev1.Container{Image: "agent"}, "agent", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			program, args := commandLine(c.in)
			if program != c.program || !slices.Equal(args, c.args) {
				t.Errorf("%s: got %s %q, want %s %q", c.why, program, args, c.program, c.args)
			}
		})
	}
}

func TestExpand(t *testing.T) {
	variables := map[string]string{"NAME": "value"}
	for in, want := range map[string]string{
		"--a=$(NAME)": "--a=value", "$(OTHER)": "$(OTHER)", "$NAME": "$NAME", "$(NAME)/$(NAME)": "value/value", "": "",
	} {
		if got := expand(in, variables); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestResourceField(t *testing.T) {
	c := corev1.Container{Name: "manager", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{
		"memory": resource.MustParse("1Gi"), "cpu": resource.MustParse("1500m"),
	}}}
	cases := map[string]struct {
		why  string
		in   corev1.ResourceFieldSelector
		want string
		fail bool
	}{
		"memory":  {"bytes by default", corev1.ResourceFieldSelector{Resource: "limits.memory"}, "1073741824", false},
		"divisor": {"in the unit asked for", corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}, "1024", false},
		"cpu":     {"rounded up", corev1.ResourceFieldSelector{Resource: "limits.cpu"}, "2", false},
		"missing": {"what is not set has no value", corev1.ResourceFieldSelector{Resource: "requests.cpu"}, "", true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := resourceField(c, &tc.in)
			if got != tc.want || (err != nil) != tc.fail {
				t.Errorf("%s: got %q, %v; want %q", tc.why, got, err, tc.want)
			}
		})
	}
}

func TestLastLines(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		n    int
		want string
	}{
		"all":              {"a\nb\n", 5, "a\nb\n"},
		"one":              {"a\nb\n", 1, "b\n"},
		"two of three":     {"a\nb\nc\n", 2, "b\nc\n"},
		"unfinished line":  {"a\nb", 1, "b"},
		"nothing asked":    {"a\nb\n", 0, ""},
		"empty":            {"", 3, ""},
		"empty lines":      {"a\n\n\n", 2, "\n\n"},
		"exactly so many":  {"a\nb\n", 2, "a\nb\n"},
		"a single newline": {"\n", 1, "\n"},
	} {
		if got := string(lastLines([]byte(c.in), c.n)); got != c.want {
			t.Errorf("%s: lastLines(%q, %d) = %q, want %q", name, c.in, c.n, got, c.want)
		}
	}
}
