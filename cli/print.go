package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"headwater.dev/api/arm"
)

// object is a resource as the hub answers it.
type object = map[string]any

// column is one column of a table: a title and the path of the value in a
// flattened resource.
type column struct{ title, path string }

// show prints one resource.
func (s *session) show(cmd *cobra.Command, o object, columns []column) error {
	flat := flatten(o)
	return s.print(cmd, flat, []object{flat}, columns)
}

// list prints resources.
func (s *session) list(cmd *cobra.Command, all []object, columns []column) error {
	flat := make([]object, 0, len(all))
	for _, o := range all {
		flat = append(flat, flatten(o))
	}
	return s.print(cmd, flat, flat, columns)
}

// flatten lifts properties to the top, as az shows resources, and adds the
// resource group.
func flatten(o object) object {
	out := object{}
	if props, ok := o["properties"].(object); ok {
		for k, v := range props {
			out[k] = v
		}
	}
	for k, v := range o {
		if k != "properties" {
			out[k] = v
		}
	}
	if text, ok := o["id"].(string); ok {
		if id, err := arm.ParseID(text); err == nil && id.ResourceGroup() != "" {
			out["resourceGroup"] = id.ResourceGroup()
		}
	}
	return out
}

func (s *session) print(cmd *cobra.Command, v any, rows []object, columns []column) error {
	var b bytes.Buffer
	switch s.output {
	case "json":
		var raw bytes.Buffer
		e := json.NewEncoder(&raw)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(v); err != nil {
			return err
		}
		escape(&b, raw.String())
	case "yaml":
		raw, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		b.Write(raw)
	case "table":
		table(&b, rows, columns)
	}
	_, err := cmd.OutOrStdout().Write(b.Bytes())
	return err
}

func table(b *bytes.Buffer, rows []object, columns []column) {
	if len(rows) == 0 {
		return
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	titles, lines := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		titles[i], lines[i] = c.title, strings.Repeat("-", len(c.title))
	}
	fmt.Fprintln(w, strings.Join(titles, "\t"))
	fmt.Fprintln(w, strings.Join(lines, "\t"))
	for _, row := range rows {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = cell(row, c.path)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush() // into memory
}

func cell(row object, path string) string {
	var v any = row
	for _, step := range strings.Split(path, ".") {
		m, ok := v.(object)
		if !ok {
			return ""
		}
		v = m[step]
	}
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return clean(v)
	default:
		return clean(fmt.Sprint(v))
	}
}

// clean replaces what could steer a terminal; names and messages come from
// elsewhere.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || !unicode.IsPrint(r):
			return '\uFFFD'
		}
		return r
	}, s)
}

// escape writes JSON so that nothing in its strings steers a terminal: the encoder
// lets the upper control characters and those that turn the direction of text pass.
func escape(b *bytes.Buffer, raw string) {
	for _, r := range raw {
		if r == '\n' || unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(b, "\\u%04x", unit)
		}
	}
}

// say tells the user something beside the output.
func say(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintln(cmd.ErrOrStderr(), clean(fmt.Sprintf(format, args...)))
}

// confirm asks before something is lost; yes answers at once.
func confirm(cmd *cobra.Command, yes bool, question string) error {
	if yes {
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s (y/n): ", clean(question))
	var answer string
	if _, err := fmt.Fscanln(cmd.InOrStdin(), &answer); err != nil {
		return fmt.Errorf("not confirmed: answer y, or give --yes")
	}
	if !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
		return fmt.Errorf("cancelled")
	}
	return nil
}
