package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/api/resource"
	"headwater.dev/client"
)

// putBackPatience bounds the time for putting an old configuration back.
const putBackPatience = 30 * time.Second

func sourceColumns() []column {
	return []column{{"Name", "name"}, {"RepositoryUrl", "repositoryUrl"}, {"Operator", "operatorInstanceName"}, {"Namespace", "operatorNamespace"},
		{"Scope", "operatorScope"}, {"ProvisioningState", "provisioningState"}}
}

// sourceControls are az's words for configurations of Flux v1.
func (s *session) sourceControls() []*cobra.Command {
	return []*cobra.Command{
		s.childListAt("sourceControlConfigurations", client.VersionSourceControl, "List the configurations of Flux v1 of a cluster", sourceColumns()),
		s.childShowAt("configuration of Flux v1", client.VersionSourceControl, "Show a configuration of Flux v1", client.SourceControlID, sourceColumns()),
		s.childDeleteAt("configuration of Flux v1", client.VersionSourceControl, "Delete a configuration of Flux v1", client.SourceControlID),
	}
}

// migration are the flags of migrate.
type migration struct {
	target
	name, httpsUser, httpsKey, sshKey string
	yes, noWait                       bool
}

// migrate turns a configuration of Flux v1 into its twin.
func (s *session) migrate() *cobra.Command {
	o := &migration{}
	cmd := &cobra.Command{
		Use: "migrate", Short: "Turn a configuration of Flux v1 into a fluxConfiguration", Args: cobra.NoArgs,
		Long: `Shows the fluxConfiguration that a sourceControlConfiguration (Flux v1) becomes, and what cannot be taken over. With --yes it deletes the old
configuration and creates the new one under the same name; when that is refused, it puts the old one back. Credentials cannot be read from
the hub: give them again.`,
		Example: `  headwater migrate -g fleet -c berlin -n apps
  headwater migrate -g fleet -c berlin -n apps --https-user git --https-key @token --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.runMigration(cmd, o) },
	}
	o.target.flags(s, cmd)
	nameFlag(cmd, &o.name, "configuration of Flux v1")
	f := cmd.Flags()
	f.StringVar(&o.httpsUser, "https-user", "", "user for HTTPS")
	f.StringVar(&o.httpsKey, "https-key", "", "password or token for HTTPS; @file reads it")
	f.StringVar(&o.sshKey, "ssh-private-key", "", "private key for SSH in PEM; @file reads it")
	f.BoolVarP(&o.yes, "yes", "y", false, "do it; without, nothing is changed")
	f.BoolVar(&o.noWait, "no-wait", false, "do not wait until the cluster has taken it")
	return cmd
}

func (s *session) runMigration(cmd *cobra.Command, o *migration) error {
	c, err := s.hub()
	if err != nil {
		return err
	}
	cluster, err := o.target.id(c)
	if err != nil {
		return err
	}
	old, err := client.Get[client.Resource[resource.SourceControlProperties]](cmd.Context(), c, client.SourceControlID(cluster, o.name), client.VersionSourceControl)
	if err != nil {
		return err
	}
	props, warnings := twinOf(old.Properties)
	if err := o.credentials(cmd, props); err != nil {
		return err
	}
	for _, w := range warnings {
		say(cmd, "note: %s", w)
	}
	twin := client.ConfigurationID(cluster, o.name)
	switch _, err := client.Get[object](cmd.Context(), c, twin, client.VersionConfiguration); {
	case err == nil:
		return fmt.Errorf("there is a fluxConfiguration %s already: delete it, or delete the configuration of Flux v1 with \"headwater k8s-configuration delete\"", o.name)
	case !client.IsNotFound(err):
		return err
	}
	if !o.yes {
		say(cmd, "nothing is changed: this is what --yes creates in place of the old configuration")
		delete(props, "configurationProtectedSettings")
		return s.print(cmd, object{"name": o.name, "properties": props}, []object{flatten(object{"name": o.name, "properties": props})}, fluxColumns())
	}
	return s.replaceOld(cmd, c, o, old, twin, props)
}

// replaceOld deletes the old configuration, which the extension cannot be
// beside, and creates the new one; when that is refused, the old one comes back.
// It is written down before, so that nothing is lost when this is cut off.
func (s *session) replaceOld(cmd *cobra.Command, c *client.Client, o *migration, old client.Resource[resource.SourceControlProperties], twin string, props object) error {
	raw, err := json.Marshal(old.Properties)
	if err != nil {
		return err
	}
	say(cmd, "the old configuration is deleted; it was %s", raw)
	p, err := client.Delete(cmd.Context(), c, old.ID, client.VersionSourceControl, false)
	if err == nil {
		_, err = p.Wait(cmd.Context())
	}
	if err != nil {
		return err
	}
	made, err := client.Put[object](cmd.Context(), c, twin, client.VersionConfiguration, object{"properties": props})
	if err != nil {
		// Also when somebody has lost patience.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), putBackPatience)
		defer cancel()
		if _, again := client.Put[object](ctx, c, old.ID, client.VersionSourceControl, object{"properties": old.Properties}); again != nil {
			say(cmd, "the old configuration could not be put back: %v", again)
			return err
		}
		say(cmd, "the new configuration is refused; the old one was put back")
		return err
	}
	return s.finish(cmd, made, nil, o.noWait, fluxColumns())
}

// credentials puts what the user gave into the twin.
func (o *migration) credentials(cmd *cobra.Command, props object) error {
	protected := object{}
	for key, given := range map[string]string{"httpsKey": o.httpsKey, "sshPrivateKey": o.sshKey} {
		if given == "" {
			continue
		}
		text, err := content(key, given, cmd.InOrStdin())
		if err != nil {
			return err
		}
		protected[key] = base64.StdEncoding.EncodeToString([]byte(text))
	}
	if o.httpsUser != "" {
		props["gitRepository"].(object)["httpsUser"] = o.httpsUser
	}
	if len(protected) > 0 {
		props["configurationProtectedSettings"] = protected
	}
	return nil
}

// twinOf is the fluxConfiguration that does what a configuration of Flux v1 did,
// and what could not be taken over.
func twinOf(v1 resource.SourceControlProperties) (props object, notes []string) {
	flags, notes := operatorFlags(v1.OperatorParams)
	take := func(names ...string) (string, bool) {
		for _, n := range names {
			if v, ok := flags[n]; ok {
				delete(flags, n)
				return v, true
			}
		}
		return "", false
	}
	git := object{"url": v1.RepositoryURL, "repositoryRef": object{"branch": "master"}}
	if branch, ok := take("git-branch"); ok {
		git["repositoryRef"] = object{"branch": branch}
	} else {
		notes = append(notes, "no --git-branch: Flux v1 follows master, so the new configuration does")
	}
	for _, interval := range []string{"git-poll-interval", "sync-interval"} {
		text, ok := take(interval)
		if n, err := seconds(interval, text); ok && err == nil {
			git["syncIntervalInSeconds"] = n
			break
		} else if ok {
			notes = append(notes, fmt.Sprintf("--%s=%s is not taken over: it is not a duration", interval, text))
		}
	}
	if timeout, ok := take("git-timeout"); ok {
		if n, err := seconds("git-timeout", timeout); err == nil {
			git["timeoutInSeconds"] = n
		}
	}
	if v1.SSHKnownHostsContents != "" {
		git["sshKnownHosts"] = v1.SSHKnownHostsContents
	}
	prune := false
	if text, ok := take("sync-garbage-collection"); ok {
		prune, _ = strconv.ParseBool(text) // anything else is false, as there
	}
	paths, _ := take("git-path")
	kustomizations := object{}
	for i, path := range strings.Split(paths, ",") {
		kustomizations["kustomization-"+strconv.Itoa(i+1)] = object{"path": path, "prune": prune}
	}
	for _, silent := range []string{"git-readonly", "git-user", "git-email", "git-label", "git-sync-tag", "registry-disable-scanning", "sync-state"} {
		delete(flags, silent)
	}
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		notes = append(notes, fmt.Sprintf("--%s=%s has no counterpart and is not taken over", name, flags[name]))
	}
	if v1.EnableHelmOperator {
		notes = append(notes, "the Helm operator is not taken over: HelmReleases of helm.fluxcd.io/v1 have to become HelmReleases of helm.toolkit.fluxcd.io/v2 in the repository")
	}
	if strings.HasPrefix(v1.RepositoryURL, "git@") || strings.HasPrefix(v1.RepositoryURL, "ssh://") {
		notes = append(notes, "without --ssh-private-key a new key is made: add the repositoryPublicKey of the new configuration to the repository")
	}
	return object{"scope": v1.OperatorScope, "namespace": v1.OperatorNamespace, "sourceKind": "GitRepository", "gitRepository": git, "kustomizations": kustomizations}, notes
}

// operatorFlags reads the flags of Flux v1's operator: --name=value, --name value
// and --name.
func operatorFlags(params string) (flags map[string]string, notes []string) {
	flags = map[string]string{}
	words := strings.Fields(params)
	for i := 0; i < len(words); i++ {
		name, ok := strings.CutPrefix(words[i], "--")
		if !ok {
			notes = append(notes, fmt.Sprintf("%q in operatorParams is not a flag", words[i]))
			continue
		}
		name, value, given := strings.Cut(name, "=")
		switch {
		case given:
		case i+1 < len(words) && !strings.HasPrefix(words[i+1], "--"):
			i++
			value = words[i]
		default:
			value = "true"
		}
		flags[name] = strings.Trim(value, `"'`)
	}
	return flags, notes
}
