package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"headwater.dev/kernel/process"
)

// rest sends any request to the hub.
func (s *session) rest() *cobra.Command {
	var method, url, body string
	cmd := &cobra.Command{
		Use: "rest", Short: "Send a request to the hub's API", Args: cobra.NoArgs,
		Example: `  headwater rest --method get --url "/subscriptions?api-version=2022-12-01"
  headwater rest -m put -u "/subscriptions/{subscriptionId}/resourceGroups/g?api-version=2022-09-01" -b '{"location":"local"}'`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := s.hub()
		if err != nil {
			return err
		}
		method = strings.ToUpper(method)
		if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodPost, http.MethodDelete}, method) {
			return fmt.Errorf("--method is %q; use get, head, put, patch, post or delete", method)
		}
		text, err := content("body", body, cmd.InOrStdin())
		if err != nil {
			return err
		}
		if text != "" && !json.Valid([]byte(text)) {
			return fmt.Errorf("--body is not JSON")
		}
		url = strings.ReplaceAll(url, "{subscriptionId}", c.SubscriptionID())
		answer, err := c.Send(cmd.Context(), method, url, []byte(text))
		if err != nil || len(answer) == 0 {
			return err
		}
		var v any
		if err := json.Unmarshal(answer, &v); err != nil {
			return fmt.Errorf("the answer of %s is not JSON", url)
		}
		row, _ := v.(object)
		rows := []object{row}
		if page, ok := row["value"].([]any); ok {
			rows = rows[:0]
			for _, item := range page {
				if o, ok := item.(object); ok {
					rows = append(rows, flatten(o))
				}
			}
		}
		return s.print(cmd, v, rows, []column{{"Name", "name"}, {"Type", "type"}, {"Id", "id"}})
	}
	f := cmd.Flags()
	f.StringVarP(&method, "method", "m", "get", "get, head, put, patch, post or delete")
	f.StringVarP(&url, "url", "u", "", "path or URL with its api-version; {subscriptionId} is filled in (also --uri)")
	f.StringVarP(&body, "body", "b", "", "JSON to send, or @file")
	required(cmd, "url")
	complete(cmd, "method", "get", "head", "put", "patch", "post", "delete")
	return cmd
}

// version tells which program this is.
func (s *session) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := object{"headwater": process.Version()}
			return s.print(cmd, v, []object{v}, []column{{"Headwater", "headwater"}})
		},
	}
}
