package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
)

// stateName is the ConfigMap in which the agent says what it waits for, and
// enrolmentApproved what it says when it waits no longer.
const (
	stateName         = "headwater-agent-state"
	enrolmentApproved = "Approved"
)

// runEnrol installs an agent that asks to be let in. It needs nobody's login.
func (s *session) runEnrol(cmd *cobra.Command, o connectOptions) error {
	ctx := cmd.Context()
	token, err := content("enrolment-token", o.enrolmentToken, cmd.InOrStdin())
	if err != nil {
		return err
	}
	o.enrolmentToken = strings.TrimSpace(token)
	if len(o.tags) > 0 || o.location != "" {
		return errors.New("--tags and --location of a cluster that is enrolled are those of its token: give them to \"headwater enrolment token create\"")
	}
	p, incomplete := s.loadProfile()
	switch {
	case p.Hub == "":
		return incomplete
	case p.SubscriptionID == "":
		return errors.New("which subscription is the cluster for? Give --subscription, or set AZURE_SUBSCRIPTION_ID")
	case o.group == "":
		return errNoGroup
	}
	if _, err := o.body(); err != nil {
		return err
	}
	group, err := arm.ParseID("/subscriptions/" + p.SubscriptionID + "/resourceGroups/" + o.group)
	if err != nil {
		return err
	}
	provider, typ, _ := strings.Cut(resource.TypeConnectedCluster, "/")
	id := group.Child(provider, typ, o.name).String()
	k, err := o.member.open(s)
	if err != nil {
		return err
	}
	known, _, err := k.identity(ctx)
	if err != nil {
		return err
	}
	if known != "" && arm.Fold(known) != arm.Fold(id) {
		return fmt.Errorf("the cluster %s is connected already, as %s: disconnect it first with\n  %s", k.config.Host, known, disconnectCommand(known))
	}
	if err := k.makeNamespace(ctx); err != nil {
		return err
	}
	say(cmd, "installing the agent into namespace %s of %s", agentNamespace, k.config.Host)
	if err := k.install(ctx, o, p, id); err != nil || o.noWait {
		return err
	}
	return k.awaitEnrolled(cmd, id, o)
}

// awaitEnrolled tells what the agent waits for until it has been let in.
func (k *kube) awaitEnrolled(cmd *cobra.Command, id string, o connectOptions) error {
	say(cmd, "waiting until the hub lets the cluster in (--no-wait does not)")
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	told := ""
	for {
		if m, err := k.client.CoreV1().ConfigMaps(agentNamespace).Get(ctx, stateName, metav1.GetOptions{}); err == nil {
			now := m.Data["enrolment"]
			if now == enrolmentApproved {
				say(cmd, "%s is let in", id)
				return nil
			}
			if now != told {
				told = now
				say(cmd, "%s", told)
			}
		}
		select {
		case <-ctx.Done():
			if cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			return fmt.Errorf("the cluster was not let in within %v (%s); the agent goes on asking: \"kubectl -n %s get configmap %s -o yaml\" shows what it waits for",
				o.timeout, either(told, k.agentState(cmd.Context())), agentNamespace, stateName)
		case <-time.After(connectPoll):
		}
	}
}
