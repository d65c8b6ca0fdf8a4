package extension

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
)

// TestProtectedSettingsAreNotQuoted gives protected settings that are impossible,
// of each kind of value: the error names the setting and not what it is.
func TestProtectedSettingsAreNotQuoted(t *testing.T) {
	const canary = "canary-71f3"
	m := &Manager{config: Config{Image: Image{Reference: "i:1"}}}
	chart, digest, err := loadChart(testVersion)
	if err != nil {
		t.Fatal(err)
	}
	brought := edition{chart: chart, digest: digest}
	for key, value := range map[string]string{
		"kustomize-controller.concurrent": canary, "multiTenancy.enforce": canary, "source-controller.resources.limits.memory": canary,
		"helm-controller.requeue-dependency": canary, "source-controller.log-level": canary, "env": `{"A": [` + canary, "tolerations": canary, "workloadIdentity.enable": canary,
	} {
		i := item(1)
		_, _, err := m.values(i, map[string]string{key: value}, brought)
		if e := phase.Classify(err); err == nil || e.Reason != "ValidationFailed" || !strings.Contains(err.Error(), key) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", key, err)
		}
		i.Extension.ConfigurationSettings = map[string]string{key: value}
		if _, _, err := m.values(i, nil, brought); err == nil || key != "env" && key != "tolerations" && !strings.Contains(err.Error(), canary) {
			t.Errorf("%s, not protected: %v, want the value named", key, err)
		}
	}
}

func TestWithhold(t *testing.T) {
	secrets := secretsOf(map[string]string{"env": `{"TOKEN": "s3cr\"et", "DEBUG": "yes"}`, "a": "long-secret", "b": "long-secret-and-more", "flag": "true"})
	cases := map[string]struct{ why, in, want string }{
		"nothing":      {"it stays as it is", "pod is not ready", "pod is not ready"},
		"whole":        {"as it was given", "bad value long-secret here", "bad value (withheld) here"},
		"longer first": {"no part of another is left", "long-secret-and-more", "(withheld)"},
		"part":         {"one value of a structure", `Invalid value: s3cr"et`, "Invalid value: (withheld)"},
		"quoted":       {"as Go quotes it", fmt.Sprintf("Invalid value: %q", `s3cr"et`), `Invalid value: "(withheld)"`},
		"short":        {"too short to be one", "is it true or yes", "is it true or yes"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := withheld(c.in, secrets); got != c.want {
				t.Errorf("%s: %q, want %q", c.why, got, c.want)
			}
		})
	}
	err := withhold(phase.Stalled("Refused", errors.New("not long-secret")), secrets)
	if e := phase.Classify(err); strings.Contains(err.Error(), "long-secret") || e.Reason != "Refused" || e.Class != phase.ClassStalled {
		t.Errorf("%v, classified as %+v", err, e)
	}
	o := link.Observed{Extension: &resource.ExtensionObserved{Error: &resource.ErrorDetail{Message: "long-secret"}, Statuses: []resource.ExtensionStatus{{Message: "a long-secret"}}}}
	if got := withholdFrom(o, secrets); got.Extension.Error.Message != withheldMark || got.Extension.Statuses[0].Message != "a "+withheldMark || o.Extension.Statuses[0].Message != "a long-secret" {
		t.Errorf("observed: %+v", got.Extension)
	}
}
