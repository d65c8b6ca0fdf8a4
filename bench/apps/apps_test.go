package apps

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestRow(t *testing.T) {
	cases := map[string]struct {
		why  string
		in   Figure
		want string
	}{
		"met":    {"a value at its target is within it", Figure{"a", "b", 3, 3, "s"}, "| a: b | ≤ 3 s | 3 s | met |\n"},
		"missed": {"a missed target is said aloud", Figure{"a", "b", 3.456, 3, "s"}, "| a: b | ≤ 3 s | 3.46 s | **missed** |\n"},
		"free":   {"without a target there is no verdict", Figure{"a", "b", 151.4, 0, "MiB"}, "| a: b |  | 151 MiB |  |\n"},
		"small":  {"small values keep three digits", Figure{"a", "b", 0.0021, 0.02, "cores"}, "| a: b | ≤ 0.020 cores | 0.002 cores | met |\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.in.Row()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

func TestParseSizes(t *testing.T) {
	got, err := ParseSizes("100, 300,500")
	if diff := cmp.Diff([]int{100, 300, 500}, got); err != nil || diff != "" {
		t.Errorf("three sizes: %v, %s", err, diff)
	}
	for _, bad := range []string{"", "0", "-1", "10000", "many", "1,,2"} {
		if got, err := ParseSizes(bad); err == nil || !strings.Contains(err.Error(), "-n=") {
			t.Errorf("ParseSizes(%q) = %v, %v; want an error that names the flag", bad, got, err)
		}
	}
}

func TestComputed(t *testing.T) {
	line := "7 (a (name) x) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 0 0"
	got, err := computed(line)
	if err != nil || got != 3*time.Second {
		t.Errorf("computed = %s, %v; 250 and 50 ticks are three seconds", got, err)
	}
	if _, err := computed("7 (x) S 1"); err == nil {
		t.Error("a line without CPU times gives no error")
	}
}

func TestSum(t *testing.T) {
	text := "# HELP rest_client_requests_total x\nrest_client_requests_total{code=\"200\"} 40\nrest_client_requests_total{code=\"409\"} 2\nother{a=\"b\"} 7\n"
	got, err := sum(strings.Lines(text), "rest_client_requests_total{")
	if err != nil || got != 42 {
		t.Errorf("sum = %v, %v; want 42", got, err)
	}
	if _, err := sum(strings.Lines("m{} x\n"), "m{"); err == nil {
		t.Error("a value that is no number gives no error")
	}
}

// An application is five objects, each with a name, and a kustomization that lists them all.
func TestTree(t *testing.T) {
	files := tree(3, map[int]string{1: "next"})
	if len(files) != 3*6 {
		t.Fatalf("three applications have %d files, want 18", len(files))
	}
	for file, text := range files {
		u := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(text), &u.Object); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if strings.HasSuffix(file, "/kustomization.yaml") {
			if listed, _, _ := unstructured.NestedStringSlice(u.Object, "resources"); len(listed) != 5 {
				t.Errorf("%s lists %v, want five", file, listed)
			}
			continue
		}
		if name := strings.Split(file, "/")[1]; u.GetName() != name || u.GetKind() == "" {
			t.Errorf("%s holds %s %q, want the name %s", file, u.GetKind(), u.GetName(), name)
		}
	}
	if !strings.Contains(files["apps/app-0001/config.yaml"], "next") || strings.Contains(files["apps/app-0002/config.yaml"], "next") {
		t.Error("only the application that changed has the new version")
	}
}

func TestReadyAt(t *testing.T) {
	made := func(observed int64, revision, ready string) *unstructured.Unstructured {
		u := kustomization("a", "b", "./", nil)
		u.SetGeneration(2)
		u.Object["status"] = object{"observedGeneration": observed, "lastAppliedRevision": revision,
			"conditions": []any{object{"type": "Ready", "status": ready}}}
		return u
	}
	cases := map[string]struct {
		why  string
		in   *unstructured.Unstructured
		want bool
	}{
		"ready":            {"everything agrees", made(2, "r", "True"), true},
		"older generation": {"the condition is about a former spec", made(1, "r", "True"), false},
		"older revision":   {"the condition is about a former commit", made(2, "q", "True"), false},
		"failed":           {"it is not ready", made(2, "r", "False"), false},
		"new":              {"it has no status yet", kustomization("a", "b", "./", nil), false},
	}
	for name, c := range cases {
		if got := readyAt("r")(c.in); got != c.want {
			t.Errorf("%s: %v, %s", name, got, c.why)
		}
	}
}

// Of those that never become ready, half wait and half fail again and again.
func TestNeverSpec(t *testing.T) {
	retries := map[any]int{}
	for i := range 50 {
		retries[neverSpec(i)["retryInterval"]]++
	}
	if diff := cmp.Diff(map[any]int{nil: 25, "3s": 25}, retries); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if strings.Contains(neverManifest(0), "other") || !strings.Contains(neverManifest(1), "labels: {app: other}") {
		t.Error("those that wait are what the API server takes, and the others are not")
	}
}
