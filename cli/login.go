package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"headwater.dev/client"
)

// login keeps credentials after it has tried them.
func (s *session) login() *cobra.Command {
	var p profile
	var ca string
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in to a hub",
		Long: `Log in to a hub with a service principal.

The credentials are kept in a file that only you can read. Flags that are left
out come from HEADWATER_HUB, HEADWATER_CA, AZURE_TENANT_ID, AZURE_CLIENT_ID,
AZURE_CLIENT_SECRET and AZURE_SUBSCRIPTION_ID.`,
		Example: `  headwater login --hub https://hub.example.com:8443 --ca ca.crt --service-principal \
    -u CLIENT_ID -p @secret.txt --tenant TENANT_ID`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			secret, err := content("password", p.ClientSecret, cmd.InOrStdin())
			if err != nil {
				return err
			}
			p.ClientSecret = secret
			if ca != "" {
				pem, err := os.ReadFile(ca)
				if err != nil {
					return fmt.Errorf("--ca: %w", err)
				}
				p.CA = string(pem)
			}
			return s.tryLogin(cmd, p)
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.Hub, "hub", s.env("HEADWATER_HUB"), "address of the hub, https://host[:port]")
	f.StringVar(&ca, "ca", s.env("HEADWATER_CA"), "PEM file with the hub's certificate authority")
	f.StringVarP(&p.ClientID, "username", "u", s.env("AZURE_CLIENT_ID"), "client id of the service principal")
	f.StringVarP(&p.ClientSecret, "password", "p", "", "its secret, or @file (default $AZURE_CLIENT_SECRET)")
	f.StringVar(&p.TenantID, "tenant", s.env("AZURE_TENANT_ID"), "tenant id")
	f.Bool("service-principal", true, "log in as a service principal; there is no other way yet")
	return cmd
}

func (s *session) tryLogin(cmd *cobra.Command, p profile) error {
	if p.ClientSecret == "" {
		p.ClientSecret = s.env("AZURE_CLIENT_SECRET")
	}
	if p.Hub == "" {
		return errors.New("which hub? give --hub https://host[:port]")
	}
	if err := p.complete(); err != nil {
		return err
	}
	c, err := p.client()
	if err != nil {
		return err
	}
	all, err := client.List[object](cmd.Context(), c, "/subscriptions", client.VersionCore)
	if err != nil {
		return err
	}
	p.SubscriptionID = either(s.subscription, s.env("AZURE_SUBSCRIPTION_ID"))
	for _, o := range all {
		if id, ok := o["subscriptionId"].(string); ok && p.SubscriptionID == "" {
			p.SubscriptionID = id
		}
	}
	if p.SubscriptionID == "" {
		return errors.New("the service principal sees no subscription: ask an owner of one for a role")
	}
	if err := s.save(p); err != nil {
		return err
	}
	return s.list(cmd, all, subscriptionColumns())
}

func subscriptionColumns() []column {
	return []column{{"Name", "displayName"}, {"SubscriptionId", "subscriptionId"}, {"State", "state"}, {"TenantId", "tenantId"}}
}

func (s *session) logout() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget the login", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			path, err := s.profilePath()
			if err != nil {
				return err
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("forget the login: %w", err)
			}
			return nil
		},
	}
}

func (s *session) account() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the subscriptions that you can see", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			all, err := client.List[object](cmd.Context(), c, "/subscriptions", client.VersionCore)
			if err != nil {
				return err
			}
			return s.list(cmd, all, subscriptionColumns())
		},
	}
	return groupOf("account", "Subscriptions", list)
}
