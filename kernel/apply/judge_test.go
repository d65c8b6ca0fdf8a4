package apply

import (
	"strings"
	"testing"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestExpressed(t *testing.T) {
	object := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"phase": "Up"}}}
	tests := map[string]struct {
		current string
		want    Health
	}{
		"true":               {"status.phase == 'Up'", Current},
		"false":              {"status.phase == 'Down'", InProgress},
		"a field not there":  {"status.other == 'Up'", InProgress},
		"not a truth at all": {"status.phase", InProgress},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e, err := cel.NewStatusEvaluator(&kustomize.HealthCheckExpressions{Current: tt.current})
			if err != nil {
				t.Fatal(err)
			}
			if got, message := Expressed(e)(object); got != tt.want {
				t.Errorf("Expressed(%s) = %s, %q; want %s", tt.current, got, message, tt.want)
			}
		})
	}
}

func TestA24HealthExpressionsThatNeverEnd(t *testing.T) {
	expression := "true"
	for _, v := range strings.Split("abcdefghij", "") { // ten levels of ten: hours of work
		expression = "[1,2,3,4,5,6,7,8,9,10].all(" + v + ", " + expression + ")"
	}
	e, err := cel.NewStatusEvaluator(&kustomize.HealthCheckExpressions{Current: expression})
	if err != nil {
		t.Fatal(err)
	}
	got, message := Expressed(e)(&unstructured.Unstructured{Object: map[string]any{}})
	if got != InProgress || !strings.Contains(message, "take longer than") {
		t.Errorf("Expressed() = %s, %q; want InProgress and why", got, message)
	}
}
