package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/api/arm"
	"headwater.dev/client"
)

const (
	versionActivity = "2015-04-01"
	versionLocks    = "2016-09-01"
	managementLocks = "/providers/Microsoft.Authorization/locks"
)

func (s *session) monitor() *cobra.Command {
	return groupOf("monitor", "What happened", groupOf("activity-log", "Who did what", s.activityList()))
}

func (s *session) activityList() *cobra.Command {
	var group, caller, status, resource, correlation, from, to string
	var offset time.Duration
	var most int
	var everything bool
	cmd := &cobra.Command{
		Use: "list", Short: "List who did what, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			var terms []string
			eq := func(name, value string) {
				if value != "" {
					terms = append(terms, name+" eq "+quote(value))
				}
			}
			if from == "" {
				from = time.Now().Add(-offset).UTC().Format(time.RFC3339)
			}
			terms = append(terms, "eventTimestamp ge "+quote(from))
			if to != "" {
				terms = append(terms, "eventTimestamp le "+quote(to))
			}
			eq("resourceGroupName", group)
			eq("caller", caller)
			eq("status", status)
			eq("resourceUri", resource)
			eq("correlationId", correlation)
			root := "/subscriptions/" + c.SubscriptionID()
			if everything {
				root = ""
			}
			rows, err := events(cmd, c, root+"/providers/Microsoft.Insights/eventtypes/management/values", strings.Join(terms, " and "), most)
			if err != nil {
				return err
			}
			return s.print(cmd, rows, rows, []column{{"Time", "eventTimestamp"}, {"Caller", "callerText"}, {"From", "httpRequest.clientIpAddress"},
				{"Operation", "operationName.value"}, {"Status", "statusText"}, {"Resource", "resourceId"}, {"Changes", "properties.changes"}})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&group, "resource-group", "g", "", "in this resource group only")
	f.StringVar(&caller, "caller", "", "by this client id, object id or name only")
	f.StringVar(&status, "status", "", "Succeeded, Accepted or Failed only")
	f.StringVar(&resource, "resource-id", "", "on this resource and below only")
	f.StringVar(&correlation, "correlation-id", "", "of this correlation only")
	f.StringVar(&from, "start-time", "", "not before, such as 2026-01-31T12:00:00Z (default --offset ago)")
	f.StringVar(&to, "end-time", "", "not after")
	f.DurationVar(&offset, "offset", 6*time.Hour, "how far to look back")
	f.IntVar(&most, "max-events", 50, "how many to show at most")
	f.BoolVar(&everything, "tenant", false, "what belongs to no subscription: service principals, roles at /")
	complete(cmd, "status", "Succeeded", "Accepted", "Failed")
	return cmd
}

// events reads pages until there are enough.
func events(cmd *cobra.Command, c *client.Client, path, filter string, most int) ([]object, error) {
	rows := []object{}
	q := url.Values{"api-version": {versionActivity}, "$filter": {filter}, "$top": {fmt.Sprint(max(most, 1))}}
	for target := path + "?" + q.Encode(); target != "" && len(rows) < most; {
		raw, err := c.Send(cmd.Context(), http.MethodGet, target, nil)
		if err != nil {
			return nil, err
		}
		var page arm.Page[object]
		if err := json.Unmarshal(raw, &page); err != nil {
			return nil, err
		}
		for _, e := range page.Value {
			if len(rows) < most {
				rows = append(rows, e)
			}
			e["callerText"] = either(text(e, "properties", "callerName"), text(e, "caller"))
			e["statusText"] = strings.TrimSpace(text(e, "status", "value") + " " + text(e, "properties", "errorCode"))
		}
		target = page.NextLink
	}
	return rows, nil
}

// text is a string deep in an object, "" when it is none.
func text(o object, path ...string) string {
	var v any = o
	for _, step := range path {
		m, ok := v.(object)
		if !ok {
			return ""
		}
		v = m[step]
	}
	found, _ := v.(string)
	return found
}

func lockColumns() []column {
	return []column{{"Name", "name"}, {"Level", "level"}, {"ResourceGroup", "resourceGroup"}, {"Notes", "notes"}, {"Id", "id"}}
}

// locks are the commands about what must not be deleted or changed.
func (s *session) locks() *cobra.Command {
	return groupOf("lock", "What must not be deleted or changed", s.lockCreate(), s.lockList(), s.lockDelete())
}

func (s *session) lockCreate() *cobra.Command {
	var scope scopeFlags
	var name, level, notes string
	cmd := &cobra.Command{
		Use: "create", Short: "Keep a scope and everything below from being deleted or changed", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, at, err := scope.open(s)
			if err != nil {
				return err
			}
			p, err := client.Put[object](cmd.Context(), c, at+managementLocks+"/"+name, versionLocks, object{"properties": object{"level": level, "notes": notes}})
			if err != nil {
				return err
			}
			return s.show(cmd, p.Accepted(), lockColumns())
		},
	}
	scope.add(s, cmd)
	nameFlag(cmd, &name, "lock")
	cmd.Flags().StringVarP(&level, "lock-type", "t", "", "CanNotDelete or ReadOnly (required)")
	cmd.Flags().StringVar(&notes, "notes", "", "why")
	required(cmd, "lock-type")
	complete(cmd, "lock-type", "CanNotDelete", "ReadOnly")
	return cmd
}

func (s *session) lockList() *cobra.Command {
	var scope scopeFlags
	cmd := &cobra.Command{
		Use: "list", Short: "List the locks that hold at a scope or below", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, at, err := scope.open(s)
			if err != nil {
				return err
			}
			all, err := client.List[object](cmd.Context(), c, at+managementLocks, versionLocks)
			if err != nil {
				return err
			}
			return s.list(cmd, all, lockColumns())
		},
	}
	scope.add(s, cmd)
	return cmd
}

func (s *session) lockDelete() *cobra.Command {
	var scope scopeFlags
	var name string
	cmd := &cobra.Command{
		Use: "delete", Short: "Remove a lock", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, at, err := scope.open(s)
			if err != nil {
				return err
			}
			_, err = client.Delete(cmd.Context(), c, at+managementLocks+"/"+name, versionLocks, false)
			return err
		},
	}
	scope.add(s, cmd)
	nameFlag(cmd, &name, "lock")
	return cmd
}
