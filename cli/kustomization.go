package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"headwater.dev/client"
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

var durationText = regexp.MustCompile(`^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$`)

// seconds reads a duration such as 1h10m.
func seconds(what, s string) (int64, error) {
	m := durationText.FindStringSubmatch(s)
	if s == "" || m == nil {
		return 0, fmt.Errorf("%s: %q is not a duration such as 1h, 10m or 90s", what, s)
	}
	var total int64
	for i, unit := range []int64{3600, 60, 1} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.ParseInt(m[i+1], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%s: %q is too long", what, s)
		}
		total += n * unit
	}
	return total, nil
}

// parseKustomizations reads the words of every --kustomization.
func parseKustomizations(all []string) (object, error) {
	out := object{}
	for _, words := range all {
		given, err := pairs("--kustomization", []string{words})
		if err != nil {
			return nil, err
		}
		name := given["name"]
		if name == "" {
			return nil, fmt.Errorf("--kustomization: the word name=… is missing in %q", strings.ReplaceAll(words, separator, " "))
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("--kustomization: %s is given twice", name)
		}
		k := object{}
		for key, value := range given {
			if key == "name" {
				continue
			}
			if err := kustomizationWord(k, key, value); err != nil {
				return nil, fmt.Errorf("--kustomization %s: %w", name, err)
			}
		}
		out[name] = k
	}
	return out, nil
}

func kustomizationWord(k object, key, value string) error {
	var err error
	if name, ok := strings.CutPrefix(key, "substitute."); ok {
		if !variableName.MatchString(name) {
			return fmt.Errorf("%q is not the name of a variable: use letters, digits and underscores", name)
		}
		postBuild, _ := k["postBuild"].(object)
		if postBuild == nil {
			postBuild = object{"substitute": object{}}
			k["postBuild"] = postBuild
		}
		postBuild["substitute"].(object)[name] = value
		return nil
	}
	switch key {
	case "path":
		k["path"] = value
	case "depends_on", "dependencies", "dependsOn", "depends":
		k["dependsOn"] = words(value)
	case "timeout":
		k["timeoutInSeconds"], err = seconds(key, value)
	case "interval", "sync_interval", "syncInterval":
		k["syncIntervalInSeconds"], err = seconds(key, value)
	case "retry_interval", "retryInterval":
		k["retryIntervalInSeconds"], err = seconds(key, value)
	case "prune", "force":
		k[key], err = boolean(key, value)
	case "disable_health_check", "disable-health-check":
		var off bool
		off, err = boolean(key, value)
		k["wait"] = !off
	default:
		err = fmt.Errorf("there is no word %q; use name, path, depends_on, timeout, interval, retry_interval, prune, force, disable_health_check, substitute.VARIABLE", key)
	}
	return err
}

func boolean(key, value string) (bool, error) {
	b, err := strconv.ParseBool(strings.ToLower(value))
	if err != nil {
		return false, fmt.Errorf("%s is %q; use true or false", key, value)
	}
	return b, nil
}

// words reads "a,b" or "[a,b]".
func words(s string) []string {
	out := []string{}
	for _, w := range strings.Split(strings.Trim(s, "[]"), ",") {
		if w = strings.Trim(strings.TrimSpace(w), `"'`); w != "" {
			out = append(out, w)
		}
	}
	return out
}

func kustomizationColumns() []column {
	return []column{{"Name", "name"}, {"Path", "path"}, {"DependsOn", "dependsOn"}, {"SyncInterval", "syncIntervalInSeconds"},
		{"Timeout", "timeoutInSeconds"}, {"Prune", "prune"}, {"Force", "force"}, {"Wait", "wait"}}
}

// kustomization has the verbs of the kustomizations of a configuration.
func (s *session) kustomization() *cobra.Command {
	return groupOf("kustomization", "Kustomizations of a configuration", s.kustomizationPut(false), s.kustomizationPut(true),
		s.kustomizationDelete(), s.kustomizationList(), s.kustomizationShow(), s.kustomizationSuspend(true), s.kustomizationSuspend(false))
}

// one is a kustomization of a configuration.
type one struct {
	target
	config, name string
}

func (o *one) flags(s *session, cmd *cobra.Command, named bool) {
	o.target.flags(s, cmd)
	nameFlag(cmd, &o.config, "configuration")
	if named {
		cmd.Flags().StringVarP(&o.name, "kustomization-name", "k", "", "name of the kustomization (required)")
		required(cmd, "kustomization-name")
	}
}

// read fetches the configuration and its kustomizations.
func (s *session) read(cmd *cobra.Command, o one) (*client.Client, string, object, error) {
	c, id, config, err := s.fetch(cmd, o.target, o.config, client.ConfigurationID)
	if err != nil {
		return nil, "", nil, err
	}
	all, _ := flatten(config)["kustomizations"].(object)
	return c, id, all, nil
}

func (o one) missing() error {
	return fmt.Errorf("%w: the configuration %s has no kustomization %s: \"headwater k8s-configuration flux kustomization list\" shows which it has", errMissing, o.config, o.name)
}

func (s *session) patchKustomization(cmd *cobra.Command, c *client.Client, id string, k object, noWait bool) error {
	p, err := client.Patch[object](cmd.Context(), c, id, client.VersionConfiguration, object{"properties": object{"kustomizations": k}})
	return s.finish(cmd, p, err, noWait, fluxColumns())
}

func (s *session) kustomizationPut(update bool) *cobra.Command {
	var o one
	var noWait bool
	cmd := &cobra.Command{Use: "create", Short: "Add a kustomization to a configuration", Args: cobra.NoArgs}
	if update {
		cmd.Use, cmd.Short = "update", "Change a kustomization of a configuration"
	}
	o.flags(s, cmd, true)
	f := cmd.Flags()
	f.String("path", "", "path in the source")
	f.String("dependencies", "", "kustomizations that must be ready first: a,b (also --depends-on)")
	f.String("timeout", "10m", "longest time to become ready")
	f.String("interval", "10m", "longest time between two verifications (also --sync-interval)")
	f.String("retry-interval", "", "time until a failure is tried again")
	f.Bool("prune", false, "remove from the cluster what left the source")
	f.Bool("force", false, "delete and create again what cannot be changed in place")
	f.Bool("disable-health-check", false, "be ready when applied, healthy or not")
	f.BoolVar(&noWait, "no-wait", false, "do not wait until the cluster has taken it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkKustomization(o.config, o.name); err != nil {
			return err
		}
		c, id, all, err := s.read(cmd, o)
		if err != nil {
			return err
		}
		if _, exists := all[o.name]; exists != update {
			if update {
				return o.missing()
			}
			return fmt.Errorf("the configuration %s has a kustomization %s already: use update", o.config, o.name)
		}
		k := object{}
		for flag, word := range map[string]string{"path": "path", "dependencies": "depends_on", "timeout": "timeout", "interval": "interval",
			"retry-interval": "retry_interval", "prune": "prune", "force": "force", "disable-health-check": "disable_health_check"} {
			if given := cmd.Flags().Lookup(flag); given.Changed {
				if err := kustomizationWord(k, word, given.Value.String()); err != nil {
					return err
				}
			}
		}
		return s.patchKustomization(cmd, c, id, object{o.name: k}, noWait)
	}
	return cmd
}

func (s *session) kustomizationDelete() *cobra.Command {
	var o one
	var yes, noWait bool
	cmd := &cobra.Command{Use: "delete", Short: "Remove a kustomization from a configuration", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, id, all, err := s.read(cmd, o)
		if err != nil {
			return err
		}
		k, exists := all[o.name].(object)
		if !exists {
			return o.missing()
		}
		question := fmt.Sprintf("Remove the kustomization %s?", o.name)
		if k["prune"] == true {
			question = fmt.Sprintf("Remove the kustomization %s? It prunes: what it brought is removed from the cluster.", o.name)
		}
		if err := confirm(cmd, yes, question); err != nil {
			return err
		}
		return s.patchKustomization(cmd, c, id, object{o.name: nil}, noWait)
	}
	o.flags(s, cmd, true)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the cluster has taken it")
	return cmd
}

func (s *session) kustomizationList() *cobra.Command {
	var o one
	cmd := &cobra.Command{Use: "list", Short: "List the kustomizations of a configuration", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, _, all, err := s.read(cmd, o)
		if err != nil {
			return err
		}
		rows := []object{}
		for _, k := range all {
			if k, ok := k.(object); ok {
				rows = append(rows, k)
			}
		}
		slices.SortFunc(rows, func(a, b object) int { return strings.Compare(cell(a, "name"), cell(b, "name")) })
		return s.print(cmd, all, rows, kustomizationColumns())
	}
	o.flags(s, cmd, false)
	return cmd
}

func (s *session) kustomizationShow() *cobra.Command {
	var o one
	cmd := &cobra.Command{Use: "show", Short: "Show a kustomization of a configuration", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, _, all, err := s.read(cmd, o)
		if err != nil {
			return err
		}
		k, ok := all[o.name].(object)
		if !ok {
			return o.missing()
		}
		return s.print(cmd, object{o.name: k}, []object{k}, kustomizationColumns())
	}
	o.flags(s, cmd, true)
	return cmd
}
