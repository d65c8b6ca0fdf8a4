package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"headwater.dev/client"
)

// versionAccess is that of roles, locks and principals.
const versionAccess = "2022-04-01"

const (
	roleDefinitions = "/providers/Microsoft.Authorization/roleDefinitions"
	roleAssignments = "/providers/Microsoft.Authorization/roleAssignments"
)

// rights are the commands about who may do what.
func (s *session) rights() []*cobra.Command {
	return []*cobra.Command{
		groupOf("role", "Who may do what",
			groupOf("definition", "Roles", s.roleList(), s.roleWrite(), s.roleDelete()),
			groupOf("assignment", "Roles that somebody has", s.assignmentCreate(), s.assignmentList(), s.assignmentDelete())),
		s.principals(), s.enrolment(), s.locks(), s.monitor(), s.whoami(),
	}
}

// scopeFlags choose a scope: an ARM id, a resource group, or the subscription.
type scopeFlags struct{ scope, group string }

func (f *scopeFlags) add(s *session, cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.scope, "scope", "", "ARM id of the scope, / for everything (default the subscription, or --resource-group)")
	cmd.Flags().StringVarP(&f.group, "resource-group", "g", "", "resource group as the scope")
}

func (f *scopeFlags) of(c *client.Client) (string, error) {
	switch {
	case f.scope != "" && f.group != "":
		return "", fmt.Errorf("give --scope or --resource-group, not both")
	case f.group != "":
		return c.GroupID(f.group), nil
	case f.scope == "":
		return "/subscriptions/" + c.SubscriptionID(), nil
	case !strings.HasPrefix(f.scope, "/"):
		return "", fmt.Errorf("--scope is %q; it must be an ARM id that begins with a slash", f.scope)
	}
	return strings.TrimSuffix(f.scope, "/"), nil
}

// open gives the hub of the session and the scope there.
func (f *scopeFlags) open(s *session) (*client.Client, string, error) {
	c, err := s.hub()
	if err != nil {
		return nil, "", err
	}
	at, err := f.of(c)
	return c, at, err
}

// filtered is a path with its version and a $filter.
func filtered(path, version, filter string) string {
	q := url.Values{"api-version": {version}}
	if filter != "" {
		q.Set("$filter", filter)
	}
	return path + "?" + q.Encode()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func roleColumns() []column {
	return []column{{"RoleName", "roleName"}, {"Type", "type"}, {"Description", "description"}, {"Name", "name"}}
}

// shownRole keeps the kind of a role: its envelope has a type too.
func shownRole(o object) object {
	flat := flatten(o)
	if props, ok := o["properties"].(object); ok {
		flat["type"] = props["type"]
	}
	return flat
}

func (s *session) roleList() *cobra.Command {
	var scope scopeFlags
	var name string
	var custom bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the roles that can be assigned at a scope", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, at, err := scope.open(s)
			if err != nil {
				return err
			}
			var terms []string
			if name != "" {
				terms = append(terms, "roleName eq "+quote(name))
			}
			if custom {
				terms = append(terms, "type eq 'CustomRole'")
			}
			all, err := client.List[object](cmd.Context(), c, filtered(at+roleDefinitions, versionAccess, strings.Join(terms, " and ")), "")
			if err != nil {
				return err
			}
			rows := make([]object, 0, len(all))
			for _, o := range all {
				rows = append(rows, shownRole(o))
			}
			return s.print(cmd, rows, rows, roleColumns())
		},
	}
	scope.add(s, cmd)
	cmd.Flags().StringVarP(&name, "name", "n", "", "name of the role")
	cmd.Flags().BoolVar(&custom, "custom-role-only", false, "leave those out that are always there")
	return cmd
}

// roleFile is a role as people write it, like the Azure CLI's.
type roleFile struct {
	Name             string   `json:"name"`
	ID               string   `json:"id,omitempty"` // ignored: the name finds it
	Description      string   `json:"description"`
	AssignableScopes []string `json:"assignableScopes"`
	Actions          []string `json:"actions"`
	NotActions       []string `json:"notActions"`
	DataActions      []string `json:"dataActions"`
	NotDataActions   []string `json:"notDataActions"`
}

func (s *session) roleWrite() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "create", Short: "Make a custom role, or change the one of the same name", Args: cobra.NoArgs,
		Example: `  headwater role definition create --role-definition '{"name":"Releaser","description":"May change configurations",
    "assignableScopes":["/subscriptions/…"],"actions":["Microsoft.KubernetesConfiguration/fluxConfigurations/*","*/read"]}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			text, err := content("role-definition", file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			var r roleFile
			d := json.NewDecoder(strings.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(&r); err != nil {
				return fmt.Errorf("--role-definition: %w; use name, description, assignableScopes, actions, notActions, dataActions, notDataActions", err)
			}
			if len(r.AssignableScopes) == 0 {
				return fmt.Errorf("--role-definition: assignableScopes must name at least one scope")
			}
			at := strings.TrimSuffix(r.AssignableScopes[0], "/")
			r.ID, err = s.roleID(cmd, c, at, r.Name)
			if errors.Is(err, errMissing) {
				r.ID, err = uuid.NewString(), nil
			}
			if err != nil {
				return err
			}
			body := object{"properties": object{"roleName": r.Name, "description": r.Description, "assignableScopes": r.AssignableScopes,
				"permissions": []object{{"actions": r.Actions, "notActions": r.NotActions, "dataActions": r.DataActions, "notDataActions": r.NotDataActions}}}}
			p, err := client.Put[object](cmd.Context(), c, at+roleDefinitions+"/"+path.Base(r.ID), versionAccess, body)
			if err != nil {
				return err
			}
			flat := shownRole(p.Accepted())
			return s.print(cmd, flat, []object{flat}, roleColumns())
		},
	}
	cmd.Flags().StringVar(&file, "role-definition", "", "the role as JSON, or @file (required)")
	required(cmd, "role-definition")
	return cmd
}

// roleID finds a role's id by its name or id.
func (s *session) roleID(cmd *cobra.Command, c *client.Client, at, name string) (string, error) {
	if uuid.Validate(path.Base(name)) == nil {
		return at + roleDefinitions + "/" + path.Base(name), nil
	}
	all, err := client.List[object](cmd.Context(), c, filtered(at+roleDefinitions, versionAccess, "roleName eq "+quote(name)+" and atScopeAndBelow()"), "")
	if err != nil {
		return "", err
	}
	if len(all) != 1 {
		return "", fmt.Errorf("there is no role %q at %s/: \"headwater role definition list\" shows those there are: %w", name, at, errMissing)
	}
	id, _ := all[0]["id"].(string)
	return id, nil
}

func (s *session) roleDelete() *cobra.Command {
	var scope scopeFlags
	var name string
	cmd := &cobra.Command{
		Use: "delete", Short: "Delete a custom role that nobody has", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, at, err := scope.open(s)
			if err != nil {
				return err
			}
			id, err := s.roleID(cmd, c, at, name)
			if err != nil {
				return err
			}
			_, err = client.Delete(cmd.Context(), c, id, versionAccess, false)
			return err
		},
	}
	scope.add(s, cmd)
	nameFlag(cmd, &name, "role")
	return cmd
}

func assignmentColumns() []column {
	return []column{{"Principal", "principalId"}, {"Role", "roleDefinitionName"}, {"Scope", "scope"}, {"Name", "name"}}
}

// assignee is somebody who has or gets a role.
type assignee struct{ id, issuer, subject string }

func (a *assignee) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.id, "assignee", "", "client id or object id of a service principal, object id of anybody (also --assignee-object-id)")
	cmd.Flags().StringVar(&a.id, "assignee-object-id", "", "the same")
	cmd.Flags().StringVar(&a.issuer, "issuer", "", "OpenID Connect issuer of --subject")
	cmd.Flags().StringVar(&a.subject, "subject", "", "subject of --issuer's tokens")
}

// objectID is what assignments name.
func (a *assignee) objectID(cmd *cobra.Command, c *client.Client) (string, error) {
	switch {
	case a.issuer != "" && a.subject != "" && a.id == "":
		target := "/providers/Headwater.Identity/subjects?" + url.Values{"api-version": {versionAccess}, "issuer": {a.issuer}, "subject": {a.subject}}.Encode()
		raw, err := c.Send(cmd.Context(), http.MethodGet, target, nil)
		if err != nil {
			return "", err
		}
		var answer struct{ ObjectID string }
		err = json.Unmarshal(raw, &answer)
		return answer.ObjectID, err
	case a.issuer != "" || a.subject != "":
		return "", fmt.Errorf("--issuer and --subject go together, and without --assignee")
	case a.id == "":
		return "", nil
	}
	o, err := client.Get[object](cmd.Context(), c, principalID(a.id), versionAccess)
	if err == nil {
		id, _ := flatten(o)["objectId"].(string)
		return id, nil
	}
	return a.id, nil // an object id, or somebody who may not look principals up
}

func (s *session) assignmentCreate() *cobra.Command {
	var scope scopeFlags
	var who assignee
	var role, description, name string
	cmd := &cobra.Command{
		Use: "create", Short: "Give somebody a role at a scope and everything below", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, at, err := scope.open(s)
			if err != nil {
				return err
			}
			id, err := who.objectID(cmd, c)
			if err == nil && id == "" {
				err = fmt.Errorf("give --assignee, or --issuer and --subject")
			}
			if err != nil {
				return err
			}
			definition, err := s.roleID(cmd, c, at, role)
			if err != nil {
				return err
			}
			body := object{"properties": object{"roleDefinitionId": definition, "principalId": id, "description": description}}
			p, err := client.Put[object](cmd.Context(), c, at+roleAssignments+"/"+either(name, uuid.NewString()), versionAccess, body)
			if err != nil {
				return err
			}
			return s.show(cmd, p.Accepted(), assignmentColumns())
		},
	}
	scope.add(s, cmd)
	who.add(cmd)
	cmd.Flags().StringVar(&role, "role", "", "name or id of the role (required)")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	cmd.Flags().StringVarP(&name, "name", "n", "", "GUID of the assignment (default a new one)")
	required(cmd, "role")
	return cmd
}

func (s *session) assignmentList() *cobra.Command {
	var scope scopeFlags
	var who assignee
	cmd := &cobra.Command{
		Use: "list", Short: "List the roles that hold at a scope or below", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, at, err := scope.open(s)
			if err != nil {
				return err
			}
			id, err := who.objectID(cmd, c)
			if err != nil {
				return err
			}
			filter := ""
			if id != "" {
				filter = "principalId eq " + quote(id)
			}
			all, err := client.List[object](cmd.Context(), c, filtered(at+roleAssignments, versionAccess, filter), "")
			if err != nil {
				return err
			}
			rows, err := s.nameRoles(cmd, c, at, all)
			if err != nil {
				return err
			}
			return s.print(cmd, rows, rows, assignmentColumns())
		},
	}
	scope.add(s, cmd)
	who.add(cmd)
	return cmd
}

// nameRoles adds the names of the roles to their assignments.
func (s *session) nameRoles(cmd *cobra.Command, c *client.Client, at string, all []object) ([]object, error) {
	definitions, err := client.List[object](cmd.Context(), c, filtered(at+roleDefinitions, versionAccess, "atScopeAndBelow()"), "")
	if err != nil {
		return nil, err
	}
	names := map[string]any{}
	for _, d := range definitions {
		flat := flatten(d)
		name, _ := flat["name"].(string)
		names[name] = flat["roleName"]
	}
	rows := make([]object, 0, len(all))
	for _, o := range all {
		flat := flatten(o)
		id, _ := flat["roleDefinitionId"].(string)
		flat["roleDefinitionName"] = names[path.Base(id)]
		rows = append(rows, flat)
	}
	return rows, nil
}

func (s *session) assignmentDelete() *cobra.Command {
	var ids []string
	cmd := &cobra.Command{
		Use: "delete", Short: "Take roles back", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			for _, id := range ids {
				if _, err := client.Delete(cmd.Context(), c, id, versionAccess, false); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&ids, "ids", nil, "ids of role assignments, as the list shows them (required)")
	required(cmd, "ids")
	return cmd
}
