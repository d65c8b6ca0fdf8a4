package hub

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// environment comes before a setting's name in the environment: --data-dir is
// HEADWATER_HUB_DATA_DIR there.
const environment = "HEADWATER_HUB_"

// settings lets a command's flags also be given by a file and by the environment.
// A flag counts more than the environment, that more than the file.
func settings(cmd *cobra.Command, getenv func(string) string) {
	var file string
	cmd.Flags().StringVar(&file, "config", "", "YAML file with settings, named like the flags (listen: 127.0.0.1:8443); flags and the environment (HEADWATER_HUB_LISTEN) count more")
	run := cmd.RunE
	required := []string{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, ok := f.Annotations[cobra.BashCompOneRequiredFlag]; ok {
			required = append(required, f.Name)
			delete(f.Annotations, cobra.BashCompOneRequiredFlag) // asked for below, when all sources were read
		}
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file == "" {
			file = getenv(environment + "CONFIG")
		}
		if err := fill(cmd.Flags(), file, getenv); err != nil {
			return err
		}
		for _, name := range required {
			if !cmd.Flags().Changed(name) {
				return fmt.Errorf("%s is missing: give --%s, %s or %q in the file of --config", name, name, variable(name), name)
			}
		}
		return run(cmd, args)
	}
}

func variable(name string) string {
	return environment + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// fill sets the flags that were not given.
func fill(flags *pflag.FlagSet, file string, getenv func(string) string) error {
	values, err := readSettings(file)
	if err != nil {
		return err
	}
	var wrong []error
	// One file may serve all commands: what another one needs is no mistake.
	all := &cobra.Command{}
	serveFlags(all, &Config{})
	processFlags(all, new(string), new(string))
	for name := range values {
		if flags.Lookup(name) == nil && all.Flags().Lookup(name) == nil || name == "config" || name == "help" {
			wrong = append(wrong, fmt.Errorf("%s: there is no setting %q", file, name))
		}
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "config" || f.Name == "help" {
			return
		}
		if v := getenv(variable(f.Name)); v != "" {
			if err := flags.Set(f.Name, v); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", variable(f.Name), err))
			}
			return
		}
		for _, v := range values[f.Name] {
			if err := flags.Set(f.Name, v); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: setting %q: %w", file, f.Name, err))
			}
		}
	})
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(wrong...)
}

// readSettings reads a file: a mapping of names to a value or a list of values.
func readSettings(file string) (map[string][]string, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read --config: %w", err)
	}
	var nodes map[string]yaml.Node
	if err := yaml.Unmarshal(raw, &nodes); err != nil {
		return nil, fmt.Errorf("read --config %s: %w", file, err)
	}
	values := map[string][]string{}
	for name, node := range nodes {
		list := []*yaml.Node{&node}
		if node.Kind == yaml.SequenceNode {
			list = node.Content
		}
		for _, n := range list {
			if n.Kind != yaml.ScalarNode {
				return nil, fmt.Errorf("%s: setting %q (line %d) must be a value or a list of values", file, name, node.Line)
			}
			values[name] = append(values[name], n.Value)
		}
	}
	return values, nil
}
