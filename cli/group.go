package cli

import (
	"github.com/spf13/cobra"

	"headwater.dev/client"
)

func groupColumns() []column {
	return []column{{"Name", "name"}, {"Location", "location"}, {"Status", "provisioningState"}}
}

// group has the verbs of resource groups.
func (s *session) group() *cobra.Command {
	return groupOf("group", "Resource groups", s.groupCreate(), s.groupList(), s.groupShow(), s.groupDelete())
}

func nameFlag(cmd *cobra.Command, name *string, what string) {
	cmd.Flags().StringVarP(name, "name", "n", "", "name of the "+what+" (required)")
	required(cmd, "name")
}

func (s *session) groupCreate() *cobra.Command {
	var name, location string
	var tags []string
	cmd := &cobra.Command{
		Use: "create", Short: "Create a resource group", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			body := object{"location": location}
			if cmd.Flags().Changed("tags") {
				if body["tags"], err = pairs("--tags", tags); err != nil {
					return err
				}
			}
			p, err := client.Put[object](cmd.Context(), c, c.GroupID(name), client.VersionCore, body)
			if err != nil {
				return err
			}
			return s.show(cmd, p.Accepted(), groupColumns())
		},
	}
	cmd.Flags().StringVarP(&name, "name", "n", s.env("RESOURCE_GROUP"), "name of the resource group (default $RESOURCE_GROUP)")
	cmd.Flags().StringVarP(&location, "location", "l", "local", "location of the resource group")
	cmd.Flags().StringArrayVar(&tags, "tags", nil, "KEY=VALUE words")
	return cmd
}

func (s *session) groupList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List resource groups", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			all, err := client.List[object](cmd.Context(), c, "/subscriptions/"+c.SubscriptionID()+"/resourcegroups", client.VersionCore)
			if err != nil {
				return err
			}
			return s.list(cmd, all, groupColumns())
		},
	}
}

func (s *session) groupShow() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "show", Short: "Show a resource group", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			o, err := client.Get[object](cmd.Context(), c, c.GroupID(name), client.VersionCore)
			if err != nil {
				return err
			}
			return s.show(cmd, o, groupColumns())
		},
	}
	nameFlag(cmd, &name, "resource group")
	return cmd
}

func (s *session) groupDelete() *cobra.Command {
	var name string
	var yes, noWait bool
	cmd := &cobra.Command{
		Use: "delete", Short: "Delete a resource group with everything in it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			if err := confirm(cmd, yes, "Delete the resource group "+name+" with all clusters and configurations in it?"); err != nil {
				return err
			}
			p, err := client.Delete(cmd.Context(), c, c.GroupID(name), client.VersionCore, false)
			if err != nil || noWait {
				return err
			}
			return patiently(cmd, "waiting until everything in it is gone (--no-wait does not)", func() error {
				_, err := p.Wait(cmd.Context())
				return err
			})
		},
	}
	nameFlag(cmd, &name, "resource group")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until everything in it is gone")
	return cmd
}
