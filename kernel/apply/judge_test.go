package apply

import (
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/kustomize"
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
			rule, err := Expressed(&kustomize.HealthCheckExpressions{Current: tt.current})
			if err != nil {
				t.Fatal(err)
			}
			if got, message, decided := rule.Health(object); got != tt.want || !decided {
				t.Errorf("Expressed(%s) = %s, %q, %v; want %s", tt.current, got, message, decided, tt.want)
			}
		})
	}
}

// endless is an expression of ten levels of ten: hours of work.
func endless() *kustomize.HealthCheckExpressions {
	expression := "true"
	for _, v := range strings.Split("abcdefghij", "") {
		expression = "[1,2,3,4,5,6,7,8,9,10].all(" + v + ", " + expression + ")"
	}
	return &kustomize.HealthCheckExpressions{Current: expression}
}

func TestA24HealthExpressionsThatNeverEnd(t *testing.T) {
	rule, err := Expressed(endless())
	if err != nil {
		t.Fatal(err)
	}
	object := &unstructured.Unstructured{Object: map[string]any{}}
	got, message, decided := rule.Health(object)
	if got != InProgress || !strings.Contains(message, "take longer than") || decided {
		t.Errorf("Health() = %s, %q, %v; want InProgress for now, and why", got, message, decided)
	}
	began := time.Now()
	for range 1000 {
		rule.Health(object)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("a thousand more objects took %s: expressions that were given up are to rest", took)
	}
}
