// Package validate turns the properties of a request into the hub's shape of a
// resource: it takes the secrets out, merges patches, fills in defaults and
// finds everything that is wrong, at once.
//
// Properties come as decoded JSON of the newest wire version. What only the
// server sets, and what no version knows, is ignored. Messages name the field
// and the way out; they never repeat a protected value.
package validate

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"headwater.dev/api/arm"
)

// Problems collects what is wrong with a request. The zero value is ready.
type Problems struct {
	list []arm.Error
}

// Add notes a problem with the property at target.
func (p *Problems) Add(target, format string, args ...any) {
	p.list = append(p.list, arm.Error{Code: "InvalidProperty", Target: target, Message: fmt.Sprintf(format, args...)})
}

// Err is nil without problems. The error's details are all of them, its message
// is the first one's.
func (p *Problems) Err() error {
	if len(p.list) == 0 {
		return nil
	}
	first := p.list[0]
	message := first.Message
	if first.Target != "" {
		message = first.Target + ": " + message
	}
	if n := len(p.list) - 1; n > 0 {
		message += fmt.Sprintf(" (and %d more, see details)", n)
	}
	return &arm.Error{Code: arm.CodeValidationFailed, Message: message, Target: first.Target, Details: p.list}
}

// decode reads JSON value v into what into points to; null and absent values
// leave what is there. A value of the wrong type is a problem of its field.
func (p *Problems) decode(target string, v, into any) {
	if v == nil {
		return
	}
	raw, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
	case errors.As(err, &wrong):
		if wrong.Field != "" {
			target += "." + wrong.Field
		}
		p.Add(target, "is a JSON %s where %s is expected", kindOf(wrong.Value), wrong.Type)
	default:
		p.Add(target, "cannot be read")
	}
}

// kindOf strips the literal from "number 12".
func kindOf(value string) string {
	kind, _, _ := strings.Cut(value, " ")
	return kind
}

// object returns the object under key, nil when it is absent or null.
func (p *Problems) object(target string, m map[string]any, key string) map[string]any {
	v, ok := m[key]
	if !ok || v == nil {
		return nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		p.Add(target+"."+key, "must be a JSON object or null")
	}
	return o
}

// enum folds *v to one of words, "" to the first.
func (p *Problems) enum(target string, v *string, words ...string) {
	if *v == "" {
		*v = words[0]
		return
	}
	for _, w := range words {
		if strings.EqualFold(*v, w) {
			*v = w
			return
		}
	}
	p.Add(target, "is %q; it must be one of %s", *v, strings.Join(words, ", "))
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func set(s *string) bool { return s != nil && *s != "" }

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
