package extension

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
)

// settingError says what is wrong with one setting; err quotes its value.
type settingError struct {
	key string
	err error
}

func (e *settingError) Error() string {
	return fmt.Sprintf("configuration setting %s: %v", e.key, e.err)
}

func (e *settingError) Unwrap() error { return e.err }

const (
	// leastSecret is the length from which a part of a protected setting is looked
	// for in texts: shorter ones, such as true or false, are in every text.
	leastSecret = 6
	// withheldMark stands for it.
	withheldMark = "(withheld)"
)

// secretsOf are the protected settings, whole and in parts, the longest first.
func secretsOf(protected map[string]string) []string {
	var all []string
	for _, value := range protected {
		all = append(all, strings.TrimSpace(value))
		var tree any
		if yaml.Unmarshal([]byte(value), &tree) == nil {
			all = append(all, leaves(tree)...)
		}
	}
	for _, s := range slices.Clone(all) {
		quoted := strconv.Quote(s)
		all = append(all, quoted[1:len(quoted)-1])
	}
	all = slices.DeleteFunc(all, func(s string) bool { return len(s) < leastSecret })
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return slices.Compact(all)
}

// leaves are the values of a JSON value; its keys are no secret.
func leaves(v any) []string {
	var all []string
	switch v := v.(type) {
	case map[string]any:
		for _, one := range v {
			all = append(all, leaves(one)...)
		}
	case []any:
		for _, one := range v {
			all = append(all, leaves(one)...)
		}
	case string:
		all = append(all, v)
	case float64:
		all = append(all, strconv.FormatFloat(v, 'f', -1, 64))
	}
	return all
}

func withheld(text string, secrets []string) string {
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, withheldMark)
	}
	return text
}

// discreet is an error whose text holds no protected setting.
type discreet struct {
	text string
	err  error
}

func (d *discreet) Error() string { return d.text }

func (d *discreet) Unwrap() error { return d.err }

// withhold keeps protected settings out of an error's text: what Helm and the API
// server complain about they quote.
func withhold(err error, secrets []string) error {
	if err == nil {
		return nil
	}
	text := withheld(err.Error(), secrets)
	if text == err.Error() {
		return err
	}
	return &discreet{text, err}
}

// withholdFrom keeps them out of an observation.
func withholdFrom(o link.Observed, secrets []string) link.Observed {
	if len(secrets) == 0 || o.Extension == nil {
		return o
	}
	e := *o.Extension
	e.Statuses = slices.Clone(e.Statuses)
	for i := range e.Statuses {
		e.Statuses[i].Message = withheld(e.Statuses[i].Message, secrets)
	}
	if e.Error != nil {
		e.Error = &resource.ErrorDetail{Code: e.Error.Code, Message: withheld(e.Error.Message, secrets), Target: e.Error.Target, Details: e.Error.Details}
	}
	o.Extension = &e
	return o
}
