package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/client"
)

// finish waits for an operation, unless it shall not, and shows the resource.
func (s *session) finish(cmd *cobra.Command, p *client.Poller[object], err error, noWait bool, columns []column) error {
	if err != nil {
		return err
	}
	if noWait {
		return nil
	}
	var o object
	err = patiently(cmd, "waiting for the cluster's agent to take the change (--no-wait does not)", func() (err error) {
		o, err = p.Wait(cmd.Context())
		return err
	})
	if err != nil {
		return err
	}
	return s.show(cmd, o, columns)
}

// patience is how long a user waits without being told for what.
const patience = 2 * time.Second

// patiently runs wait and says what it waits for when that takes long.
func patiently(cmd *cobra.Command, what string, wait func() error) error {
	done := make(chan error, 1)
	go func() { done <- wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		say(cmd, "%s", what)
		return <-done
	}
}

// childList is the verb list of a collection below a cluster.
func (s *session) childList(collection, short string, columns []column) *cobra.Command {
	return s.childListAt(collection, client.VersionConfiguration, short, columns)
}

func (s *session) childListAt(collection, version, short string, columns []column) *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use: "list", Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			cluster, err := t.id(c)
			if err != nil {
				return err
			}
			all, err := client.List[object](cmd.Context(), c,
				cluster+"/providers/Microsoft.KubernetesConfiguration/"+collection, version)
			if err != nil {
				return err
			}
			return s.list(cmd, all, columns)
		},
	}
	t.flags(s, cmd)
	return cmd
}

// identify makes the id of a resource of a cluster.
type identify func(cluster, name string) string

// fetch reads a resource of the cluster of t.
func (s *session) fetch(cmd *cobra.Command, t target, name string, id identify) (*client.Client, string, object, error) {
	return s.fetchAt(cmd, t, name, client.VersionConfiguration, id)
}

func (s *session) fetchAt(cmd *cobra.Command, t target, name, version string, id identify) (*client.Client, string, object, error) {
	c, err := s.hub()
	if err != nil {
		return nil, "", nil, err
	}
	cluster, err := t.id(c)
	if err != nil {
		return nil, "", nil, err
	}
	o, err := client.Get[object](cmd.Context(), c, id(cluster, name), version)
	return c, id(cluster, name), o, err
}

func (s *session) childShow(what, short string, id identify, columns []column) *cobra.Command {
	return s.childShowAt(what, client.VersionConfiguration, short, id, columns)
}

func (s *session) childShowAt(what, version, short string, id identify, columns []column) *cobra.Command {
	var t target
	var name string
	cmd := &cobra.Command{
		Use: "show", Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, _, o, err := s.fetchAt(cmd, t, name, version, id)
			if err != nil {
				return err
			}
			return s.show(cmd, o, columns)
		},
	}
	t.flags(s, cmd)
	nameFlag(cmd, &name, what)
	return cmd
}

func (s *session) childDelete(what, short string, id identify) *cobra.Command {
	return s.childDeleteAt(what, client.VersionConfiguration, short, id)
}

func (s *session) childDeleteAt(what, version, short string, id identify) *cobra.Command {
	var t target
	var name string
	var force, yes, noWait bool
	cmd := &cobra.Command{
		Use: "delete", Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, resourceID, o, err := s.fetchAt(cmd, t, name, version, id)
			if err != nil {
				return err
			}
			question := fmt.Sprintf("Delete the %s %s?", what, name)
			if prunes(flatten(o)) && !force {
				question = fmt.Sprintf("Delete the %s %s? Its kustomizations prune: what they brought is removed from the cluster.", what, name)
			}
			if err := confirm(cmd, yes, question); err != nil {
				return err
			}
			p, err := client.Delete(cmd.Context(), c, resourceID, version, force)
			if err != nil || noWait {
				return err
			}
			return patiently(cmd, "waiting for the cluster to remove it (--no-wait does not; --force removes the hub's record only)", func() error {
				_, err := p.Wait(cmd.Context())
				return err
			})
		},
	}
	t.flags(s, cmd)
	nameFlag(cmd, &name, what)
	f := cmd.Flags()
	f.BoolVar(&force, "force", false, "remove the hub's record only, whatever the cluster does")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.BoolVar(&noWait, "no-wait", false, "do not wait until the cluster has removed it")
	return cmd
}

// prunes reports whether a kustomization of a flattened configuration prunes.
func prunes(o object) bool {
	all, _ := o["kustomizations"].(object)
	for _, k := range all {
		if k, ok := k.(object); ok && k["prune"] == true {
			return true
		}
	}
	return false
}
