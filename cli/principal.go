package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"headwater.dev/client"
)

const servicePrincipals = "/providers/Headwater.Identity/servicePrincipals"

func principalID(clientID string) string { return servicePrincipals + "/" + clientID }

// principals are the commands about the hub's own service principals.
func (s *session) principals() *cobra.Command {
	return groupOf("sp", "Service principals of the hub", s.principalCreate(), s.principalUpdate(), s.principalList(), s.principalShow(), s.principalDelete(),
		groupOf("credential", "Secrets, certificates and foreign subjects of a service principal", s.credentialAdd(), s.credentialList(), s.credentialDelete()))
}

func principalColumns() []column {
	return []column{{"DisplayName", "displayName"}, {"AppId", "appId"}, {"ObjectId", "objectId"}, {"Enabled", "accountEnabled"}}
}

func idFlag(cmd *cobra.Command, id *string) {
	cmd.Flags().StringVar(id, "id", "", "client id of the service principal (required)")
	required(cmd, "id")
}

// post sends an action and reads what it answers.
func post(cmd *cobra.Command, c *client.Client, target string, body object) (object, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	answer, err := c.Send(cmd.Context(), http.MethodPost, target+"?api-version="+versionAccess, raw)
	if err != nil || len(answer) == 0 {
		return nil, err
	}
	var o object
	return o, json.Unmarshal(answer, &o)
}

func (s *session) principalCreate() *cobra.Command {
	var name string
	var years int
	cmd := &cobra.Command{
		Use: "create", Short: "Make a service principal that may do nothing yet, and tell its secret", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			id := uuid.NewString()
			p, err := client.Put[object](cmd.Context(), c, principalID(id), versionAccess, object{"properties": object{"displayName": name}})
			if err != nil {
				return err
			}
			flat := flatten(p.Accepted())
			o := object{"appId": flat["appId"], "objectId": flat["objectId"], "displayName": name, "tenant": c.TenantID()}
			if years > 0 {
				secret, err := post(cmd, c, principalID(id)+"/addPassword", object{"endDateTime": time.Now().AddDate(years, 0, 0).UTC().Format(time.RFC3339)})
				if err != nil {
					return err
				}
				o["password"] = secret["secretText"]
				say(cmd, "keep the password: it is not told again")
			}
			return s.print(cmd, o, []object{o}, append(principalColumns()[:3], column{"Password", "password"}))
		},
	}
	cmd.Flags().StringVarP(&name, "display-name", "n", "", "name for people (required)")
	cmd.Flags().IntVar(&years, "years", 1, "life of the secret; 0 makes none")
	required(cmd, "display-name")
	return cmd
}

func (s *session) principalUpdate() *cobra.Command {
	var id, name string
	var enabled bool
	cmd := &cobra.Command{
		Use: "update", Short: "Rename a service principal, keep it out, or let it in again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			was, err := client.Get[object](cmd.Context(), c, principalID(id), versionAccess)
			if err != nil {
				return err
			}
			flat := flatten(was)
			properties := object{"displayName": flat["displayName"], "accountEnabled": flat["accountEnabled"]}
			if cmd.Flags().Changed("display-name") {
				properties["displayName"] = name
			}
			if cmd.Flags().Changed("enabled") {
				properties["accountEnabled"] = enabled
			}
			p, err := client.Put[object](cmd.Context(), c, principalID(id), versionAccess, object{"properties": properties})
			if err != nil {
				return err
			}
			return s.show(cmd, p.Accepted(), principalColumns())
		},
	}
	idFlag(cmd, &id)
	cmd.Flags().StringVarP(&name, "display-name", "n", "", "name for people")
	cmd.Flags().BoolVar(&enabled, "enabled", true, "whether it can sign in")
	return cmd
}

func (s *session) principalList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List service principals", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			all, err := client.List[object](cmd.Context(), c, servicePrincipals, versionAccess)
			if err != nil {
				return err
			}
			return s.list(cmd, all, principalColumns())
		},
	}
}

func (s *session) principalShow() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use: "show", Short: "Show a service principal with its credentials, without secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			o, err := client.Get[object](cmd.Context(), c, principalID(id), versionAccess)
			if err != nil {
				return err
			}
			return s.show(cmd, o, principalColumns())
		},
	}
	idFlag(cmd, &id)
	return cmd
}

func (s *session) principalDelete() *cobra.Command {
	var id string
	var yes bool
	cmd := &cobra.Command{
		Use: "delete", Short: "Delete a service principal with its roles", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			if err := confirm(cmd, yes, "Delete the service principal "+id+"? What signs in with it is kept out at once."); err != nil {
				return err
			}
			_, err = client.Delete(cmd.Context(), c, principalID(id), versionAccess, false)
			return err
		},
	}
	idFlag(cmd, &id)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func credentialColumns() []column {
	return []column{{"Kind", "kind"}, {"Name", "displayName"}, {"Hint", "hint"}, {"Ends", "endDateTime"}, {"KeyId", "keyId"}}
}

func (s *session) credentialAdd() *cobra.Command {
	var id, name, end, certificate, issuer, subject string
	cmd := &cobra.Command{
		Use: "add", Short: "Add a secret, a certificate or a subject of a foreign issuer; the others stay", Args: cobra.NoArgs,
		Example: `  headwater sp credential add --id ID --display-name "from May on"
  headwater sp credential add --id ID --cert @cert.pem
  headwater sp credential add --id ID --issuer https://token.actions.githubusercontent.com --subject repo:org/repo:ref:refs/heads/main`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			verb, body := "addPassword", object{"displayName": name}
			switch {
			case certificate != "" && (issuer != "" || subject != "" || end != ""), (issuer == "") != (subject == ""), issuer != "" && end != "":
				return fmt.Errorf("give --cert, or --issuer and --subject, or neither for a secret; --end-date is for secrets")
			case certificate != "":
				verb = "addKey"
				if body["key"], err = content("cert", certificate, cmd.InOrStdin()); err != nil {
					return err
				}
			case issuer != "":
				verb = "addSubject"
				body["issuer"], body["subject"] = issuer, subject
			case end != "":
				at, err := endDate(end)
				if err != nil {
					return err
				}
				body["endDateTime"] = at
			}
			o, err := post(cmd, c, principalID(id)+"/"+verb, body)
			if err != nil {
				return err
			}
			columns := credentialColumns()
			if o["secretText"] != nil {
				say(cmd, "keep the secret: it is not told again")
				columns = append(columns, column{"Secret", "secretText"})
			}
			return s.print(cmd, o, []object{o}, columns)
		},
	}
	idFlag(cmd, &id)
	f := cmd.Flags()
	f.StringVarP(&name, "display-name", "n", "", "name for people")
	f.StringVar(&end, "end-date", "", "when the secret ends, such as 2027-01-31 (default in a year)")
	f.StringVar(&certificate, "cert", "", "certificate as PEM, or @file; never its key")
	f.StringVar(&issuer, "issuer", "", "OpenID Connect issuer that the hub is configured for")
	f.StringVar(&subject, "subject", "", "subject of the issuer's tokens")
	return cmd
}

func endDate(s string) (string, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02"} {
		if at, err := time.Parse(layout, s); err == nil {
			return at.UTC().Format(time.RFC3339), nil
		}
	}
	return "", fmt.Errorf("--end-date is %q; write it like 2027-01-31 or 2027-01-31T12:00:00Z", s)
}

func (s *session) credentialList() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use: "list", Short: "List the credentials of a service principal, without secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			o, err := client.Get[object](cmd.Context(), c, principalID(id), versionAccess)
			if err != nil {
				return err
			}
			rows := []object{}
			all, _ := flatten(o)["credentials"].([]any)
			for _, k := range all {
				if k, ok := k.(object); ok {
					rows = append(rows, k)
				}
			}
			return s.print(cmd, rows, rows, credentialColumns())
		},
	}
	idFlag(cmd, &id)
	return cmd
}

func (s *session) credentialDelete() *cobra.Command {
	var id, key string
	cmd := &cobra.Command{
		Use: "delete", Short: "Remove a credential", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			_, err = post(cmd, c, principalID(id)+"/removeCredential", object{"keyId": key})
			return err
		},
	}
	idFlag(cmd, &id)
	cmd.Flags().StringVar(&key, "key-id", "", "id of the credential, as the list shows it (required)")
	required(cmd, "key-id")
	return cmd
}

// whoami tells who the hub takes the caller for.
func (s *session) whoami() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show who the hub takes you for", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			o, err := client.Get[object](cmd.Context(), c, "/providers/Headwater.Identity/me", versionAccess)
			if err != nil {
				return err
			}
			return s.print(cmd, o, []object{o}, []column{{"Kind", "kind"}, {"Name", "displayName"}, {"Id", "id"}, {"ObjectId", "objectId"}})
		},
	}
}
