package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"headwater.dev/client"
)

func fluxColumns() []column {
	return []column{{"Namespace", "namespace"}, {"Name", "name"}, {"Scope", "scope"}, {"ProvisioningState", "provisioningState"},
		{"ComplianceState", "complianceState"}, {"StatusUpdatedAt", "statusUpdatedAt"}, {"SourceUpdatedAt", "sourceUpdatedAt"}}
}

// configuration has the verbs of fluxConfigurations.
func (s *session) configuration() *cobra.Command {
	flux := groupOf("flux", "Flux configurations of clusters", s.fluxPut(false), s.fluxPut(true),
		s.childList("fluxConfigurations", "List the configurations of a cluster", fluxColumns()),
		s.childShow("configuration", "Show a configuration with its status", client.ConfigurationID, fluxColumns()),
		s.childDelete("configuration", "Delete a configuration", client.ConfigurationID),
		s.reconcile(), s.kustomization(), s.deployedObject())
	return groupOf("k8s-configuration", "Configurations of clusters", append([]*cobra.Command{flux}, s.sourceControls()...)...)
}

// fluxOptions are the flags of create and update.
type fluxOptions struct {
	target
	source
	name, scope, namespace string
	suspend, noWait, yes   bool
	compliance             compliance
	kustomizations         []string
}

func (s *session) fluxPut(update bool) *cobra.Command {
	o := &fluxOptions{}
	cmd := &cobra.Command{
		Use: "create", Short: "Create a configuration", Args: cobra.NoArgs,
		Example: `  headwater k8s-configuration flux create -g fleet -c berlin -t connectedClusters -n apps --namespace apps \
    -u https://git.example.com/team/apps.git --branch main \
    -k name=infra path=./infrastructure prune=true \
    -k name=apps path=./apps/production prune=true depends_on=infra`,
	}
	if update {
		cmd.Use, cmd.Short, cmd.Example = "update", "Change a configuration", ""
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return s.runFlux(cmd, o, update) }
	o.target.flags(s, cmd)
	nameFlag(cmd, &o.name, "configuration")
	o.source.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.suspend, "suspend", false, "stop following the source")
	f.StringArrayVarP(&o.kustomizations, "kustomization", "k", nil,
		"KEY=VALUE words of one kustomization: name, path, depends_on, timeout, interval, retry_interval, prune, force, disable_health_check, substitute.VARIABLE; repeatable")
	f.BoolVar(&o.noWait, "no-wait", false, "do not wait until the cluster has taken it")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	o.compliance.flags(cmd)
	if update {
		return cmd
	}
	f.StringVarP(&o.scope, "scope", "s", "cluster", "cluster or namespace")
	f.StringVar(&o.namespace, "namespace", "default", "namespace of the configuration")
	required(cmd, "url")
	complete(cmd, "scope", "cluster", "namespace")
	return cmd
}

func (s *session) runFlux(cmd *cobra.Command, o *fluxOptions, update bool) error {
	c, err := s.hub()
	if err != nil {
		return err
	}
	cluster, err := o.target.id(c)
	if err != nil {
		return err
	}
	if err := checkConfiguration(o.name, o.namespace); err != nil {
		return err
	}
	id := client.ConfigurationID(cluster, o.name)
	kustomizations, err := parseKustomizations(o.kustomizations)
	if err != nil {
		return err
	}
	for name := range kustomizations {
		if err := checkKustomization(o.name, name); err != nil {
			return err
		}
	}
	if update {
		return s.updateFlux(cmd, c, o, id, kustomizations)
	}
	props := object{"scope": o.scope, "namespace": o.namespace, "suspend": o.suspend}
	if err := o.source.create(cmd, props); err != nil {
		return err
	}
	if len(kustomizations) == 0 {
		say(cmd, "no --kustomization: one named kustomization-1 applies the whole source")
		kustomizations = object{"kustomization-1": object{}}
	}
	props["kustomizations"] = kustomizations
	p, err := client.Put[object](cmd.Context(), c, id, client.VersionConfiguration, object{"properties": props})
	return s.finishFlux(cmd, c, o, p, err)
}

func (s *session) updateFlux(cmd *cobra.Command, c *client.Client, o *fluxOptions, id string, kustomizations object) error {
	was, err := client.Get[object](cmd.Context(), c, id, client.VersionConfiguration)
	if err != nil {
		return err
	}
	kind, _ := flatten(was)["sourceKind"].(string)
	props := object{}
	if cmd.Flags().Changed("suspend") {
		props["suspend"] = o.suspend
	}
	to, err := o.source.update(cmd, kind, props)
	if err != nil {
		return err
	}
	if to != kind {
		if err := confirm(cmd, o.yes, fmt.Sprintf("Change the source from %s to %s?", kind, to)); err != nil {
			return err
		}
	}
	if len(kustomizations) > 0 { // merged into what there is; "flux kustomization delete" removes
		props["kustomizations"] = kustomizations
	}
	if len(props) == 0 {
		return errNothing
	}
	p, err := client.Patch[object](cmd.Context(), c, id, client.VersionConfiguration, object{"properties": props})
	return s.finishFlux(cmd, c, o, p, err)
}

var errNothing = errors.New("there is nothing to change: give a flag")
