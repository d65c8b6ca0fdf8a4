package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/api/resource"
	"headwater.dev/client"
)

// compliancePoll is the time between two looks at a configuration's state.
const compliancePoll = time.Second

// compliance says whether a command waits until a configuration is Compliant.
type compliance struct {
	wait    bool
	timeout string
}

func (o *compliance) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.wait, "wait-for-compliance", false, "wait until the cluster runs what the source says; fails when it does not in time")
	cmd.Flags().StringVar(&o.timeout, "compliance-timeout", "10m", "longest time for --wait-for-compliance")
}

// finishFlux waits as the flags say and shows the configuration.
func (s *session) finishFlux(cmd *cobra.Command, c *client.Client, o *fluxOptions, p *client.Poller[object], err error) error {
	if !o.compliance.wait {
		return s.finish(cmd, p, err, o.noWait, fluxColumns())
	}
	if err != nil {
		return err
	}
	limit, err := seconds("--compliance-timeout", o.compliance.timeout)
	if err != nil {
		return err
	}
	say(cmd, "waiting until %s is compliant, for at most %s", o.name, o.compliance.timeout)
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Duration(limit)*time.Second)
	defer cancel()
	accepted, err := p.Wait(ctx)
	if err != nil {
		return err
	}
	shown, err := s.awaitCompliance(ctx, cmd, c, accepted)
	if err != nil {
		return err
	}
	return s.show(cmd, shown, fluxColumns())
}

// awaitCompliance reads the configuration until it is compliant, and tells what
// it waits for whenever that changes. A suspended configuration is not waited for.
func (s *session) awaitCompliance(ctx context.Context, cmd *cobra.Command, c *client.Client, o object) (object, error) {
	id, said := cell(o, "id"), ""
	for {
		flat := flatten(o)
		switch flat["complianceState"] {
		case resource.Compliant, resource.Suspended:
			return o, nil
		}
		state := hindrance(flat)
		if state != said {
			said = state
			say(cmd, "%s", state)
		}
		select {
		case <-ctx.Done():
			if cmd.Context().Err() != nil {
				return nil, cmd.Context().Err()
			}
			return nil, fmt.Errorf("not compliant in time: %s; \"headwater k8s-configuration flux deployed-object list\" shows every object", state)
		case <-time.After(compliancePoll):
		}
		next, err := client.Get[object](ctx, c, id, client.VersionConfiguration)
		if err == nil {
			o = next
		} else if ctx.Err() == nil {
			return nil, err
		}
	}
}

// hindrance is why a flattened configuration is not compliant, in one line.
func hindrance(flat object) string {
	line := cell(flat, "complianceState")
	if message := cell(flat, "errorMessage"); message != "" {
		return line + ": " + message
	}
	var waiting []string
	all, _ := flat["statuses"].([]any)
	for _, v := range all {
		if status, ok := v.(object); ok && cell(status, "complianceState") != resource.Compliant {
			waiting = append(waiting, fmt.Sprintf("%s %s/%s", cell(status, "kind"), cell(status, "namespace"), cell(status, "name")))
		}
	}
	if len(waiting) > 0 {
		line += ": " + strings.Join(waiting, ", ")
	}
	return line
}
