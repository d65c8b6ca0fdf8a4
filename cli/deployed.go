package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"headwater.dev/client"
)

// messageWidth is how much of a message a table shows, in characters.
const messageWidth = 60

func deployedColumns() []column {
	return []column{{"Kind", "kind"}, {"Namespace", "namespace"}, {"Name", "name"}, {"ComplianceState", "complianceState"}, {"Message", "message"}}
}

// deployedObject has the verbs of what a configuration brought into its cluster.
func (s *session) deployedObject() *cobra.Command {
	return groupOf("deployed-object", "Objects that a configuration brought into its cluster", s.deployedList(), s.deployedShow())
}

// deployed reads the statuses of a configuration.
func (s *session) deployed(cmd *cobra.Command, t target, config string) ([]object, error) {
	_, _, o, err := s.fetch(cmd, t, config, client.ConfigurationID)
	if err != nil {
		return nil, err
	}
	out := []object{}
	all, _ := flatten(o)["statuses"].([]any)
	for _, v := range all {
		if status, ok := v.(object); ok {
			out = append(out, status)
		}
	}
	return out, nil
}

// row is a status with the message of its Ready condition, shortened.
func row(status object) object {
	out := object{}
	for k, v := range status {
		out[k] = v
	}
	conditions, _ := status["statusConditions"].([]any)
	for _, v := range conditions {
		if c, ok := v.(object); ok && c["type"] == "Ready" {
			text := []rune(cell(c, "message"))
			if len(text) > messageWidth {
				text = append(text[:messageWidth-1], '…')
			}
			out["message"] = string(text)
		}
	}
	return out
}

func (s *session) deployedList() *cobra.Command {
	var t target
	var config string
	cmd := &cobra.Command{Use: "list", Short: "List the objects of a configuration", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := s.deployed(cmd, t, config)
		if err != nil {
			return err
		}
		rows := make([]object, 0, len(all))
		for _, status := range all {
			rows = append(rows, row(status))
		}
		return s.print(cmd, all, rows, deployedColumns())
	}
	t.flags(s, cmd)
	nameFlag(cmd, &config, "configuration")
	return cmd
}

func (s *session) deployedShow() *cobra.Command {
	var t target
	var config, name, namespace, kind string
	cmd := &cobra.Command{Use: "show", Short: "Show an object of a configuration", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := s.deployed(cmd, t, config)
		if err != nil {
			return err
		}
		for _, status := range all {
			if cell(status, "name") == name && cell(status, "namespace") == namespace && strings.EqualFold(cell(status, "kind"), kind) {
				return s.print(cmd, status, []object{row(status)}, deployedColumns())
			}
		}
		return fmt.Errorf("%w: the configuration %s reports no %s %s/%s: \"headwater k8s-configuration flux deployed-object list\" shows what it reports",
			errMissing, config, kind, namespace, name)
	}
	t.flags(s, cmd)
	nameFlag(cmd, &config, "configuration")
	f := cmd.Flags()
	f.StringVar(&name, "object-name", "", "name of the object (required)")
	f.StringVar(&namespace, "object-namespace", "", "namespace of the object (required)")
	f.StringVar(&kind, "object-kind", "", "GitRepository, Bucket, OCIRepository, HelmRepository, HelmChart, HelmRelease or Kustomization (required)")
	required(cmd, "object-name", "object-namespace", "object-kind")
	complete(cmd, "object-kind", "GitRepository", "Bucket", "OCIRepository", "HelmRepository", "HelmChart", "HelmRelease", "Kustomization")
	return cmd
}
