package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/client"
)

const connectedClusters = "/providers/Microsoft.Kubernetes/connectedClusters"

func clusterColumns() []column {
	return []column{{"Name", "name"}, {"ResourceGroup", "resourceGroup"}, {"Location", "location"}, {"ConnectivityStatus", "connectivityStatus"},
		{"KubernetesVersion", "kubernetesVersion"}, {"TotalNodeCount", "totalNodeCount"}, {"AgentVersion", "agentVersion"}, {"LastConnectivityTime", "lastConnectivityTime"}}
}

// connectedk8s has the verbs of connected clusters.
func (s *session) connectedk8s() *cobra.Command {
	return groupOf("connectedk8s", "Clusters that are connected to the hub", s.connect(), s.clusterList(), s.clusterShow(), s.disconnect())
}

// member is a cluster and the way into it.
type member struct {
	group, name         string
	kubeconfig, context string
}

func (m *member) flags(s *session, cmd *cobra.Command) {
	groupFlag(s, cmd, &m.group)
	nameFlag(cmd, &m.name, "cluster")
	cmd.Flags().StringVar(&m.kubeconfig, "kube-config", "", "kubeconfig file of the cluster (default $KUBECONFIG, then ~/.kube/config)")
	cmd.Flags().StringVar(&m.context, "kube-context", "", "context of the kubeconfig (default its current one)")
}

func (m *member) id(c *client.Client) (string, error) {
	if m.group == "" {
		return "", errNoGroup
	}
	return c.ClusterID(m.group, "Microsoft.Kubernetes", "connectedClusters", m.name), nil
}

func (s *session) clusterList() *cobra.Command {
	var group string
	cmd := &cobra.Command{Use: "list", Short: "List connected clusters", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := s.hub()
		if err != nil {
			return err
		}
		scope := "/subscriptions/" + c.SubscriptionID()
		if group != "" {
			scope = c.GroupID(group)
		}
		all, err := client.List[object](cmd.Context(), c, scope+connectedClusters, client.VersionCluster)
		if err != nil {
			return err
		}
		return s.list(cmd, all, clusterColumns())
	}
	cmd.Flags().StringVarP(&group, "resource-group", "g", "", "only those of a resource group")
	return cmd
}

func (s *session) clusterShow() *cobra.Command {
	var m member
	cmd := &cobra.Command{Use: "show", Short: "Show a connected cluster", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := s.hub()
		if err != nil {
			return err
		}
		id, err := m.id(c)
		if err != nil {
			return err
		}
		o, err := client.Get[object](cmd.Context(), c, id, client.VersionCluster)
		if err != nil {
			return err
		}
		return s.show(cmd, o, clusterColumns())
	}
	groupFlag(s, cmd, &m.group)
	nameFlag(cmd, &m.name, "cluster")
	return cmd
}

// connectOptions are the flags of connect.
type connectOptions struct {
	member
	location, distribution, infrastructure string
	proxyHTTPS, proxySkip, image           string
	tags                                   []string
	timeout                                time.Duration
	onboarding                             int
	noWait, yes                            bool
}

func (s *session) connect() *cobra.Command {
	var o connectOptions
	cmd := &cobra.Command{
		Use: "connect", Short: "Connect a cluster to the hub", Args: cobra.NoArgs,
		Long: `Connect a cluster to the hub.

Makes a key pair in the cluster (a Secret in namespace headwater-system), gives its
public half to the hub, and installs the agent, which opens one outbound connection
to the hub. Repeating it upgrades the agent. The kubeconfig is needed for this
command only.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.timeout = time.Duration(o.onboarding) * time.Second
			return s.runConnect(cmd, o)
		},
	}
	o.member.flags(s, cmd)
	f := cmd.Flags()
	f.StringVarP(&o.location, "location", "l", "", "location of the cluster (default that of the resource group)")
	f.StringVar(&o.distribution, "distribution", "auto", "distribution of Kubernetes")
	f.StringVar(&o.infrastructure, "infrastructure", "auto", "what the cluster runs on")
	f.StringArrayVar(&o.tags, "tags", nil, "KEY=VALUE words")
	f.StringVar(&o.proxyHTTPS, "proxy-https", "", "proxy by which the agent reaches the hub")
	f.StringVar(&o.proxySkip, "proxy-skip-range", "", "hosts and networks that the proxy is not used for")
	f.StringVar(&o.image, "agent-image", "", "image of the agent, repository[:tag] (default headwater.dev/agent with this version)")
	f.IntVar(&o.onboarding, "onboarding-timeout", 600, "seconds to wait for the agent")
	f.BoolVar(&o.noWait, "no-wait", false, "do not wait until the agent has connected")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return cmd
}

func (s *session) runConnect(cmd *cobra.Command, o connectOptions) error {
	ctx := cmd.Context()
	c, err := s.hub()
	if err != nil {
		return err
	}
	id, err := o.member.id(c)
	if err != nil {
		return err
	}
	if o.location == "" {
		group, err := client.Get[object](ctx, c, c.GroupID(o.group), client.VersionCore)
		if err != nil {
			return err
		}
		o.location, _ = group["location"].(string)
	}
	k, err := o.member.open()
	if err != nil {
		return err
	}
	public, err := k.identity(ctx, id)
	if err != nil {
		return err
	}
	if err := s.free(cmd, c, id, public); err != nil {
		return err
	}
	tags, err := pairs("--tags", o.tags)
	if err != nil {
		return err
	}
	say(cmd, "registering %s with %s", o.name, c.Hub())
	p, err := client.Put[object](ctx, c, id, client.VersionCluster, object{"location": o.location, "tags": tags,
		"identity": object{"type": "SystemAssigned"}, "properties": object{"agentPublicKeyCertificate": public,
			"distribution": o.distribution, "infrastructure": o.infrastructure}})
	if err != nil {
		return err
	}
	if _, err := p.Wait(ctx); err != nil {
		return err
	}
	say(cmd, "installing the agent into namespace %s", agentNamespace)
	profile, err := s.loadProfile()
	if err != nil {
		return err
	}
	if err := k.install(ctx, o, profile, id); err != nil {
		return err
	}
	if o.noWait {
		return nil
	}
	return s.awaitConnected(cmd, c, id, o)
}

// free refuses a name under which another cluster is connected.
func (s *session) free(cmd *cobra.Command, c *client.Client, id, public string) error {
	was, err := client.Get[object](cmd.Context(), c, id, client.VersionCluster)
	if client.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	flat := flatten(was)
	if flat["connectivityStatus"] == "Connected" && flat["agentPublicKeyCertificate"] != public {
		return fmt.Errorf("another cluster is connected as %s: choose another name, or remove it with \"headwater connectedk8s delete\" first", flat["name"])
	}
	return nil
}

// awaitConnected shows the cluster as soon as its agent has reported.
func (s *session) awaitConnected(cmd *cobra.Command, c *client.Client, id string, o connectOptions) error {
	say(cmd, "waiting for the agent to connect (--no-wait does not)")
	deadline := time.Now().Add(o.timeout)
	for {
		was, err := client.Get[object](cmd.Context(), c, id, client.VersionCluster)
		if err != nil {
			return err
		}
		if flatten(was)["connectivityStatus"] == "Connected" {
			return s.show(cmd, was, clusterColumns())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the agent did not connect within %v: look at \"kubectl -n %s logs deployment/headwater-agent\"; "+
				"it has to reach %s", o.timeout, agentNamespace, c.Hub())
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (s *session) disconnect() *cobra.Command {
	var m member
	var force, yes bool
	cmd := &cobra.Command{
		Use: "delete", Short: "Disconnect a cluster", Args: cobra.NoArgs,
		Long: `Disconnect a cluster: remove its record with all extensions and configurations
from the hub, and the agent from the cluster. What the configurations brought keeps
running; to remove it, delete the configurations first.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			id, err := m.id(c)
			if err != nil {
				return err
			}
			if err := confirm(cmd, yes, "Disconnect "+m.name+"? Its extensions and configurations are forgotten; what they brought keeps running."); err != nil {
				return err
			}
			k, err := m.open()
			if err == nil {
				err = k.belongs(cmd.Context(), id)
			}
			if err != nil && !force {
				return fmt.Errorf("%w\n--force removes the hub's record only", err)
			}
			p, deleted := client.Delete(cmd.Context(), c, id, client.VersionCluster, false)
			if deleted == nil {
				_, deleted = p.Wait(cmd.Context())
			}
			if deleted != nil || err != nil {
				return deleted
			}
			return k.uninstall(cmd.Context())
		},
	}
	m.flags(s, cmd)
	cmd.Flags().BoolVar(&force, "force", false, "remove the hub's record also when the cluster cannot be reached")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

var errOtherCluster = errors.New("the kubeconfig points to another cluster")
