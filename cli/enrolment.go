package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/client"
)

const (
	versionEnrolment = "2022-10-01-preview"
	enrolmentTokens  = "/providers/Headwater.Identity/enrolmentTokens"
	enrolments       = "/providers/Headwater.Identity/enrolments"
)

// enrolment has the verbs of clusters that let themselves in with a token.
func (s *session) enrolment() *cobra.Command {
	return groupOf("enrolment", "Clusters that ask to be let in with a token",
		groupOf("token", "Tokens that clusters may ask with", s.tokenCreate(), s.tokenList(), s.tokenShow(), s.tokenDelete()),
		s.enrolmentList(), s.enrolmentShow(), s.enrolmentDecide("approve", "Let a cluster in"), s.enrolmentDecide("reject", "Refuse a cluster; its token's use is not given back"))
}

func tokenColumns() []column {
	return []column{{"Name", "name"}, {"Clusters", "clusterNamePattern"}, {"AutoApprove", "autoApprove"}, {"Uses", "uses"}, {"MaxUses", "maxUses"}, {"Ends", "expiresOn"}}
}

func enrolmentColumns() []column {
	return []column{{"Name", "name"}, {"Cluster", "clusterName"}, {"State", "state"}, {"From", "from"}, {"Token", "enrolmentToken"}, {"Requested", "requestedOn"}, {"KeyFingerprint", "keyFingerprint"}}
}

// scopeOf is the resource group, or the subscription without one.
func scopeOf(c *client.Client, group string) string {
	if group == "" {
		return "/subscriptions/" + c.SubscriptionID()
	}
	return c.GroupID(group)
}

func (s *session) tokenCreate() *cobra.Command {
	var group, name, pattern, location, description string
	var approve, tags []string
	var life time.Duration
	var uses int
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token that clusters may ask with, and tell it once", Args: cobra.NoArgs,
		Long: `Make a token that clusters may ask with, and tell it once.

Without a resource group it is good for all of the subscription. A cluster that asks
waits until somebody approves it, unless its name matches --auto-approve.`,
		Example: `  headwater enrolment token create -g edge -n shops --cluster-name "shop-*" --uses 40 --life 72h --auto-approve "shop-*" --tags site=shop`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			labels, err := pairs("--tags", tags)
			if err != nil {
				return err
			}
			p, err := client.Put[object](cmd.Context(), c, scopeOf(c, group)+enrolmentTokens+"/"+name, versionEnrolment, object{"properties": object{
				"clusterNamePattern": pattern, "autoApprove": approve, "location": location, "description": description, "tags": labels, "maxUses": uses,
				"expiresOn": time.Now().Add(life).UTC().Format(time.RFC3339)}})
			if err != nil {
				return err
			}
			say(cmd, "keep the token: it is not told again")
			return s.show(cmd, p.Accepted(), append(tokenColumns(), column{"Token", "token"}))
		},
	}
	groupFlag(s, cmd, &group)
	nameFlag(cmd, &name, "token")
	f := cmd.Flags()
	f.StringVar(&pattern, "cluster-name", "", "pattern of the names that clusters may ask for, such as \"shop-*\" (default all)")
	f.StringSliceVar(&approve, "auto-approve", nil, "patterns of the names that need nobody's approval (default none)")
	f.IntVar(&uses, "uses", 1, "how many clusters may ask with it")
	f.DurationVar(&life, "life", 24*time.Hour, "how long it is good, at most 720h")
	f.StringVarP(&location, "location", "l", "", "location of the clusters (default that of the resource group)")
	f.StringArrayVar(&tags, "tags", nil, "KEY=VALUE words that the clusters get")
	f.StringVar(&description, "description", "", "what it is for")
	return cmd
}

func (s *session) tokenList() *cobra.Command {
	return s.listScoped("List tokens, without what they are", enrolmentTokens, tokenColumns())
}

func (s *session) enrolmentList() *cobra.Command {
	return s.listScoped("List clusters that have asked", enrolments, enrolmentColumns())
}

func (s *session) listScoped(short, kind string, columns []column) *cobra.Command {
	var group string
	cmd := &cobra.Command{Use: "list", Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := s.hub()
		if err != nil {
			return err
		}
		all, err := client.List[object](cmd.Context(), c, scopeOf(c, group)+kind, versionEnrolment)
		if err != nil {
			return err
		}
		return s.list(cmd, all, columns)
	}}
	groupFlag(s, cmd, &group)
	return cmd
}

func (s *session) tokenShow() *cobra.Command {
	return s.showScoped("Show a token, without what it is", "token", enrolmentTokens, tokenColumns())
}

func (s *session) enrolmentShow() *cobra.Command {
	return s.showScoped("Show a cluster that has asked", "enrolment", enrolments, enrolmentColumns())
}

func (s *session) showScoped(short, what, kind string, columns []column) *cobra.Command {
	var group, name string
	cmd := &cobra.Command{Use: "show", Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := s.hub()
		if err != nil {
			return err
		}
		o, err := client.Get[object](cmd.Context(), c, scopeOf(c, group)+kind+"/"+name, versionEnrolment)
		if err != nil {
			return err
		}
		return s.show(cmd, o, columns)
	}}
	groupFlag(s, cmd, &group)
	nameFlag(cmd, &name, what)
	return cmd
}

func (s *session) tokenDelete() *cobra.Command {
	var group, name string
	var yes bool
	cmd := &cobra.Command{Use: "delete", Short: "Revoke a token; clusters that it let in stay", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := s.hub()
		if err != nil {
			return err
		}
		if err := confirm(cmd, yes, "Revoke the enrolment token "+name+"? Nobody can ask with it any more; clusters that it let in stay."); err != nil {
			return err
		}
		_, err = client.Delete(cmd.Context(), c, scopeOf(c, group)+enrolmentTokens+"/"+name, versionEnrolment, false)
		return err
	}}
	groupFlag(s, cmd, &group)
	nameFlag(cmd, &name, "token")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (s *session) enrolmentDecide(verb, short string) *cobra.Command {
	var group, name, fingerprint, reason string
	cmd := &cobra.Command{Use: verb, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if group == "" {
			return errNoGroup
		}
		c, err := s.hub()
		if err != nil {
			return err
		}
		body := object{}
		if fingerprint != "" {
			body["keyFingerprint"] = strings.ToLower(fingerprint)
		}
		if reason != "" {
			body["reason"] = reason
		}
		o, err := post(cmd, c, c.GroupID(group)+enrolments+"/"+name+"/"+verb, body)
		if err != nil {
			return fmt.Errorf("%s %s: %w", verb, name, err)
		}
		return s.show(cmd, o, enrolmentColumns())
	}}
	groupFlag(s, cmd, &group)
	nameFlag(cmd, &name, "enrolment")
	if verb == "approve" {
		cmd.Flags().StringVar(&fingerprint, "key-fingerprint", "", "the key that is approved; another one is refused (default whatever key has asked)")
	} else {
		cmd.Flags().StringVar(&reason, "reason", "", "why, for the cluster's owner")
	}
	return cmd
}
