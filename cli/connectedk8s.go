package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
	return groupOf("connectedk8s", "Clusters that are connected to the hub", s.connect(), s.clusterList(), s.clusterShow(), s.rotateKey(), s.disconnect())
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

// rotateKey asks a cluster's agent for a new key.
func (s *session) rotateKey() *cobra.Command {
	var m member
	var noWait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "rotate-key", Short: "Let the agent of a cluster replace its key", Args: cobra.NoArgs,
		Long: `Let the agent of a cluster replace its key. The former one is good for nothing as
soon as the new one is used. Agents do that by themselves every 30 days. Where
somebody else may have the key, use "connect --new-key" instead: he could rotate it, too.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			id, err := m.id(c)
			if err != nil {
				return err
			}
			if _, err := c.Send(cmd.Context(), http.MethodPost, id+"/rotateKey?api-version="+client.VersionCluster, nil); err != nil || noWait {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return s.awaitRotated(ctx, cmd, c, id)
		},
	}
	groupFlag(s, cmd, &m.group)
	nameFlag(cmd, &m.name, "cluster")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the new key is in use")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait")
	return cmd
}

// awaitRotated shows the cluster as soon as its agent uses a new key.
func (s *session) awaitRotated(ctx context.Context, cmd *cobra.Command, c *client.Client, id string) error {
	for {
		was, err := client.Get[object](ctx, c, id, client.VersionCluster)
		if err != nil && ctx.Err() == nil {
			return err
		}
		said, _ := flatten(was)["miscellaneousProperties"].(object)
		if _, waiting := said["keyRotationRequestedAt"]; err == nil && !waiting {
			return s.show(cmd, was, []column{{"Name", "name"}, {"KeyRotatedAt", "miscellaneousProperties.keyRotatedAt"}, {"KeyFingerprint", "miscellaneousProperties.keyFingerprint"}})
		}
		select {
		case <-ctx.Done():
			if cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			return errors.New("the agent has not replaced its key yet: it does so as soon as it is connected (see connectivityStatus); an agent of a former version never does")
		case <-time.After(connectPoll):
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
			return s.runDisconnect(cmd, m, c, id, force)
		},
	}
	m.flags(s, cmd)
	cmd.Flags().BoolVar(&force, "force", false, "remove the hub's record also when the cluster cannot be reached")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (s *session) runDisconnect(cmd *cobra.Command, m member, c *client.Client, id string, force bool) error {
	ctx := cmd.Context()
	k, err := m.open(s)
	if err == nil {
		err = k.belongs(ctx, id)
	}
	if errors.Is(err, errNotConnected) {
		// Either everything is done already, or this is not the cluster.
		if _, gone := client.Get[object](ctx, c, id, client.VersionCluster); client.IsNotFound(gone) {
			return gone
		}
	}
	if err != nil && !force {
		return fmt.Errorf("%w\n--force removes the hub's record only", err)
	}
	p, deleted := client.Delete(ctx, c, id, client.VersionCluster, false)
	if deleted == nil {
		_, deleted = p.Wait(ctx)
	}
	if deleted != nil {
		return deleted
	}
	if err != nil {
		say(cmd, "only the hub's record is removed: %v", err)
		return nil
	}
	say(cmd, "removing the agent from the cluster")
	return k.uninstall(ctx)
}

var errNotConnected = errors.New("the cluster of the kubeconfig is not connected to a hub")

var errOtherCluster = errors.New("the kubeconfig points to another cluster")
