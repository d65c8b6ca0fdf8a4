package hub

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/hub/activity"
	"headwater.dev/hub/auth"
)

// recoveredFor is how long the secret of a recovered administrator is good.
const recoveredFor = 7 * 24 * time.Hour

// newRecoverCommand lets those in again who can reach the storage: when nobody
// has the administrator's secret any more.
func newRecoverCommand() *cobra.Command {
	var c Config
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make another administrator, when nobody can sign in any more",
		Long: `Make another administrator, when nobody can sign in any more, and print its
credentials like admin.json. The hub may run meanwhile. The secret is good for
seven days: give the administrator or somebody else a lasting one until then
("headwater sp credential add"). That it was made is in the activity log.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := openStorage(cmd.Context(), c)
			if err != nil {
				return fmt.Errorf("recover: %w", err)
			}
			defer s.Close()
			admin, err := auth.Recover(cmd.Context(), s, recoveredFor)
			if err != nil {
				return fmt.Errorf("recover: %w", err)
			}
			log := activity.New(activity.Config{Store: s})
			err = log.Add(cmd.Context(), activity.Entry{Caller: "hub recover", From: "the storage", Action: "Headwater.Identity/servicePrincipals/write",
				ResourceID: "/providers/Headwater.Identity/servicePrincipals/" + admin.ClientID, Method: "PUT", Status: 201,
				Notes: map[string]string{"role": "Owner"}})
			if err != nil {
				return fmt.Errorf("recover: %w", err)
			}
			raw, err := json.MarshalIndent(admin, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", raw)
			return err
		},
	}
	storageFlags(cmd, &c)
	return cmd
}
