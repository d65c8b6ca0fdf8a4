package arm

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestErrorText(t *testing.T) {
	e := Errorf(CodeValidationFailed, "%d problems", 2)
	e.Details = []Error{{Code: "Invalid", Message: "is required", Target: "properties.gitRepository.url"}, {Message: "too long"}}
	want := "ValidationFailed: 2 problems; properties.gitRepository.url: is required; too long"
	if e.Error() != want {
		t.Errorf("got %q, want %q", e.Error(), want)
	}
	if got := CodeOf(fmt.Errorf("put: %w", e)); got != CodeValidationFailed {
		t.Errorf("CodeOf a wrapped error = %q", got)
	}
	if got := CodeOf(fmt.Errorf("other")); got != "" {
		t.Errorf("CodeOf a foreign error = %q", got)
	}
}

func TestOperationDocument(t *testing.T) {
	b, err := json.Marshal(Operation{ID: "/x/operations/1", Name: "1", Status: StatusCreating, Properties: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"id":"/x/operations/1","name":"1","status":"Creating","properties":{},"error":null}`; string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
	for status, done := range map[string]bool{StatusInProgress: false, StatusUpdating: false, "succeeded": true, StatusFailed: true, StatusCanceled: true} {
		if got := (Operation{Status: status}).Done(); got != done {
			t.Errorf("Done(%s) = %v", status, got)
		}
	}
}
