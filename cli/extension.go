package cli

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"headwater.dev/api/resource"
	"headwater.dev/client"
)

func extensionColumns() []column {
	return []column{{"Name", "name"}, {"ExtensionType", "extensionType"}, {"Version", "currentVersion"},
		{"ProvisioningState", "provisioningState"}, {"LastModifiedAt", "systemData.lastModifiedAt"}, {"PlanName", "plan.name"}, {"PlanPublisher", "plan.publisher"}, {"PlanProduct", "plan.product"}, {"IsSystemExtension", "isSystemExtension"}}
}

// extension has the verbs of cluster extensions.
func (s *session) extension() *cobra.Command {
	return groupOf("k8s-extension", "Extensions of clusters", s.extensionPut(false), s.extensionPut(true),
		s.childList("extensions", "List the extensions of a cluster", extensionColumns()),
		s.childShow("extension", "Show an extension", client.ExtensionID, extensionColumns()),
		s.childDelete("extension", "Delete an extension", client.ExtensionID), s.extensionTypes())
}

// extensionOptions are the flags of create and update.
type extensionOptions struct {
	target
	name, kind, scope, train, version    string
	releaseNamespace, targetNamespace    string
	settings, protected, remove          []string
	settingsFile, protectedFile          string
	planName, planProduct, planPublisher string
	autoUpgrade, noWait, yes             bool
}

func (s *session) extensionPut(update bool) *cobra.Command {
	var o extensionOptions
	cmd := &cobra.Command{Use: "create", Short: "Install an extension", Args: cobra.NoArgs}
	if update {
		cmd.Use, cmd.Short = "update", "Change an extension"
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return s.runExtension(cmd, o, update) }
	o.target.flags(s, cmd)
	nameFlag(cmd, &o.name, "extension")
	f := cmd.Flags()
	f.BoolVar(&o.autoUpgrade, "auto-upgrade-minor-version", true, "upgrade to new minor versions")
	f.StringVar(&o.train, "release-train", "", "release train (default Stable)")
	f.StringVar(&o.version, "version", "", "version to stay at; needs --auto-upgrade-minor-version false")
	f.StringArrayVar(&o.settings, "configuration-settings", nil, "KEY=VALUE words")
	f.StringArrayVar(&o.protected, "configuration-protected-settings", nil, "KEY=VALUE words that are kept secret; a value may be @file")
	f.StringVar(&o.settingsFile, "configuration-settings-file", "", "JSON file with settings")
	f.StringVar(&o.protectedFile, "configuration-protected-settings-file", "", "JSON file with secret settings")
	f.BoolVar(&o.noWait, "no-wait", false, "do not wait until the cluster has installed it")
	if update {
		f.StringSliceVar(&o.remove, "remove-configuration-settings", nil, "names of settings that go back to their default: a,b")
		f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
		return cmd
	}
	f.StringVar(&o.kind, "extension-type", "", "type of the extension (required)")
	required(cmd, "extension-type")
	f.StringVar(&o.scope, "scope", "cluster", "cluster or namespace")
	f.StringVar(&o.releaseNamespace, "release-namespace", "", "namespace of the release, for scope cluster")
	f.StringVar(&o.targetNamespace, "target-namespace", "", "namespace, for scope namespace")
	f.StringVar(&o.planName, "plan-name", "", "name of the marketplace plan")
	f.StringVar(&o.planProduct, "plan-product", "", "product of the marketplace plan")
	f.StringVar(&o.planPublisher, "plan-publisher", "", "publisher of the marketplace plan")
	complete(cmd, "extension-type", resource.ExtensionFlux)
	return cmd
}

func (s *session) runExtension(cmd *cobra.Command, o extensionOptions, update bool) error {
	c, err := s.hub()
	if err != nil {
		return err
	}
	cluster, err := o.target.id(c)
	if err != nil {
		return err
	}
	props, err := o.properties(cmd, update)
	if err != nil {
		return err
	}
	id, body := client.ExtensionID(cluster, o.name), object{"properties": props}
	if update {
		if _, ok := props["configurationProtectedSettings"]; ok {
			if err := confirm(cmd, o.yes, "The protected settings that are given replace all that the extension has. Change them?"); err != nil {
				return err
			}
		}
		if len(props) == 0 {
			return errNothing
		}
		p, err := client.Patch[object](cmd.Context(), c, id, client.VersionConfiguration, body)
		return s.finish(cmd, p, err, o.noWait, extensionColumns())
	}
	if o.planName != "" {
		body["plan"] = object{"name": o.planName, "product": o.planProduct, "publisher": o.planPublisher}
	}
	if props["scope"], err = o.scopeBody(); err != nil {
		return err
	}
	props["extensionType"] = o.kind
	p, err := client.Put[object](cmd.Context(), c, id, client.VersionConfiguration, body)
	return s.finish(cmd, p, err, o.noWait, extensionColumns())
}

func (o extensionOptions) scopeBody() (object, error) {
	switch {
	case o.scope == "cluster" && o.targetNamespace == "":
		ns := object{}
		if o.releaseNamespace != "" {
			ns["releaseNamespace"] = o.releaseNamespace
		}
		return object{"cluster": ns}, nil
	case o.scope == "cluster":
		return nil, fmt.Errorf("--target-namespace is for --scope namespace; use --release-namespace")
	case o.scope != "namespace":
		return nil, fmt.Errorf("--scope is %q; use cluster or namespace", o.scope)
	case o.targetNamespace == "" || o.releaseNamespace != "":
		return nil, fmt.Errorf("--scope namespace needs --target-namespace and no --release-namespace")
	}
	return object{"namespace": object{"targetNamespace": o.targetNamespace}}, nil
}

func (o extensionOptions) properties(cmd *cobra.Command, update bool) (object, error) {
	props := object{}
	changed := cmd.Flags().Changed
	if changed("auto-upgrade-minor-version") || !update {
		props["autoUpgradeMinorVersion"] = o.autoUpgrade
	}
	if o.version != "" {
		props["version"] = o.version
		if !changed("auto-upgrade-minor-version") {
			props["autoUpgradeMinorVersion"] = false
		}
	}
	if o.train != "" {
		props["releaseTrain"] = o.train
	}
	settings, err := settingsOf("configuration-settings", o.settings, o.settingsFile)
	if err != nil {
		return nil, err
	}
	if settings != nil {
		props["configurationSettings"] = settings
	}
	if len(o.remove) > 0 {
		all := object{}
		for key, value := range settings {
			all[key] = value
		}
		for _, key := range o.remove {
			if _, both := settings[key]; both {
				return nil, fmt.Errorf("--remove-configuration-settings %s: --configuration-settings sets it", key)
			}
			all[key] = nil
		}
		props["configurationSettings"] = all
	}
	protected, err := settingsOf("configuration-protected-settings", o.protected, o.protectedFile)
	if err != nil {
		return nil, err
	}
	for k, v := range protected {
		if protected[k], err = content("configuration-protected-settings "+k, v, cmd.InOrStdin()); err != nil {
			return nil, err
		}
	}
	if protected != nil {
		props["configurationProtectedSettings"] = protected
	}
	return props, nil
}

// settingsOf reads settings from words or from a file, not both; nil when
// neither is given.
func settingsOf(flag string, words []string, file string) (map[string]string, error) {
	switch {
	case len(words) > 0 && file != "":
		return nil, fmt.Errorf("give either --%s or --%s-file", flag, flag)
	case len(words) > 0:
		return pairs("--"+flag, words)
	case file == "":
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--%s-file: %w", flag, err)
	}
	out := map[string]string{}
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("--%s-file: %s is not a JSON object of strings", flag, file)
	}
	return out, nil
}
