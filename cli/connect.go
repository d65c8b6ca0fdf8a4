package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/client"
)

const (
	// connectPoll is the time between two looks at whether the agent is there.
	connectPoll = 500 * time.Millisecond
	// stateEvery is after how many of them its pod is looked at.
	stateEvery = 10
)

// connectOptions are the flags of connect.
type connectOptions struct {
	member
	location, distribution, infrastructure string
	proxyHTTPS, proxySkip, image, agentHub string
	enrolmentToken                         string
	tags                                   []string
	timeout                                time.Duration
	onboarding                             int
	noWait, yes, newKey                    bool
}

func (s *session) connect() *cobra.Command {
	var o connectOptions
	cmd := &cobra.Command{
		Use: "connect", Short: "Connect a cluster to the hub", Args: cobra.NoArgs,
		Long: `Connect a cluster to the hub.

Makes a key pair in the cluster (a Secret in namespace headwater-system), gives its
public half to the hub, and installs the agent, which opens one outbound connection
to the hub. Repeating it upgrades the agent. The kubeconfig is needed for this
command only.

With --enrolment-token nobody has to be logged in: HEADWATER_HUB, HEADWATER_CA and
--subscription say where, the agent makes its key itself, and somebody with the right
approves it (headwater enrolment approve).`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.timeout = time.Duration(o.onboarding) * time.Second
			if o.enrolmentToken != "" {
				return s.runEnrol(cmd, o)
			}
			return s.runConnect(cmd, o)
		},
	}
	o.member.flags(s, cmd)
	f := cmd.Flags()
	f.StringVarP(&o.location, "location", "l", "", "location of the cluster, and of the resource group when it has to be made (default that of the resource group)")
	f.StringVar(&o.distribution, "distribution", "auto", "distribution of Kubernetes")
	f.StringVar(&o.infrastructure, "infrastructure", "auto", "what the cluster runs on")
	f.StringArrayVar(&o.tags, "tags", nil, "KEY=VALUE words")
	f.StringVar(&o.proxyHTTPS, "proxy-https", "", "proxy by which the agent reaches the hub")
	f.StringVar(&o.proxySkip, "proxy-skip-range", "", "hosts and networks that the proxy is not used for")
	f.StringVar(&o.image, "agent-image", "", "image of the agent, repository[:tag] (default headwater.dev/agent with this version)")
	f.StringVar(&o.agentHub, "agent-hub-url", "", "address by which the agent reaches the hub, https://host[:port] (default the one that is used here)")
	f.StringVar(&o.enrolmentToken, "enrolment-token", "", "token with which the agent asks to be let in; give it as @FILE or @-")
	f.IntVar(&o.onboarding, "onboarding-timeout", 600, "seconds to wait for the agent")
	f.BoolVar(&o.newKey, "new-key", false, "give a cluster that is connected already a new key, which shuts out whoever has the former one")
	f.BoolVar(&o.noWait, "no-wait", false, "do not wait until the agent has connected")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return cmd
}

func (s *session) runConnect(cmd *cobra.Command, o connectOptions) error {
	ctx := cmd.Context()
	profile, err := s.loadProfile()
	if err != nil {
		return err
	}
	c, err := profile.client()
	if err != nil {
		return err
	}
	id, err := o.member.id(c)
	if err != nil {
		return err
	}
	body, err := o.body()
	if err != nil {
		return err
	}
	k, err := o.member.open(s)
	if err != nil {
		return err
	}
	if body["location"], err = s.groupLocation(cmd, c, o); err != nil {
		return err
	}
	public, err := s.enrol(cmd, c, k, o, id)
	if err != nil {
		return err
	}
	body["properties"].(object)["agentPublicKeyCertificate"] = public
	say(cmd, "registering %s with %s", o.name, c.Hub())
	p, err := client.Put[object](ctx, c, id, client.VersionCluster, body)
	if err != nil {
		return err
	}
	if _, err := p.Wait(ctx); err != nil {
		return err
	}
	say(cmd, "installing the agent into namespace %s of %s", agentNamespace, k.config.Host)
	if err := k.install(ctx, o, profile, id); err != nil {
		return err
	}
	if o.noWait {
		return nil
	}
	return s.awaitConnected(cmd, c, k, id, o)
}

// body is the cluster's resource, without location and key.
func (o connectOptions) body() (object, error) {
	tags, err := pairs("--tags", o.tags)
	if err != nil {
		return nil, err
	}
	if o.agentHub != "" && !strings.HasPrefix(o.agentHub, "https://") {
		return nil, fmt.Errorf("--agent-hub-url is %q; use https://host[:port]", o.agentHub)
	}
	return object{"tags": tags, "identity": object{"type": "SystemAssigned"},
		"properties": object{"distribution": o.distribution, "infrastructure": o.infrastructure}}, nil
}

// groupLocation is where the cluster belongs. The resource group is made when it
// is missing and a location is given.
func (s *session) groupLocation(cmd *cobra.Command, c *client.Client, o connectOptions) (string, error) {
	group, err := client.Get[object](cmd.Context(), c, c.GroupID(o.group), client.VersionCore)
	if client.IsNotFound(err) && o.location != "" {
		say(cmd, "making the resource group %s in %s", o.group, o.location)
		p, err := client.Put[object](cmd.Context(), c, c.GroupID(o.group), client.VersionCore, object{"location": o.location})
		if err == nil {
			_, err = p.Wait(cmd.Context())
		}
		return o.location, err
	}
	if err != nil {
		return "", err
	}
	there, _ := group["location"].(string)
	return either(o.location, there), nil
}

// enrol returns the public key of the cluster. A cluster that is connected
// already keeps its key; it cannot be connected twice, nor take the name of
// another one that lives. Only then a key is made.
func (s *session) enrol(cmd *cobra.Command, c *client.Client, k *kube, o connectOptions, id string) (string, error) {
	known, public, err := k.identity(cmd.Context())
	if err != nil {
		return "", err
	}
	if known != "" && arm.Fold(known) != arm.Fold(id) {
		return "", fmt.Errorf("the cluster %s is connected already, as %s: disconnect it first with\n  %s", k.config.Host, known, disconnectCommand(known))
	}
	was, err := client.Get[object](cmd.Context(), c, id, client.VersionCluster)
	switch {
	case client.IsNotFound(err):
	case err != nil:
		return "", err
	case o.newKey && known != "": // it is this cluster
	default:
		if err := s.replaceable(cmd, flatten(was), public, o); err != nil {
			return "", err
		}
	}
	if public != "" && !o.newKey {
		return public, nil
	}
	return k.newIdentity(cmd.Context(), id, o.newKey)
}

// replaceable refuses to take the name of a cluster that is connected, and asks
// when that cluster was connected once.
func (s *session) replaceable(cmd *cobra.Command, was object, public string, o connectOptions) error {
	said, _ := was["miscellaneousProperties"].(object)
	present, rotated := said["keyFingerprint"].(string)
	switch status := was["connectivityStatus"]; {
	case rotated && present == fingerprintOf(public), !rotated && was["agentPublicKeyCertificate"] == public:
		return nil
	case was["agentPublicKeyCertificate"] == public:
		return fmt.Errorf("the key in this cluster was replaced on %v and is no longer good (was the cluster restored from a backup, or copied?): make a new one with --new-key", said["keyRotatedAt"])
	case status == resource.Connected:
		return fmt.Errorf("another cluster is connected as %s: choose another name, or disconnect that one first with\n  %s", o.name, disconnectCommand(cell(was, "id")))
	case status == resource.Connecting:
		return nil
	default:
		return confirm(cmd, o.yes, fmt.Sprintf("%s is the name of another cluster, which is %v. Shall this cluster take its place, with all its configurations?", o.name, status))
	}
}

// disconnectCommand is what removes the cluster with an id.
func disconnectCommand(id string) string {
	parsed, err := arm.ParseID(id)
	if err != nil {
		return "headwater connectedk8s delete"
	}
	return fmt.Sprintf("headwater connectedk8s delete -g %s -n %s", parsed.ResourceGroup(), parsed.Name())
}

// awaitConnected shows the cluster as soon as its agent has reported.
func (s *session) awaitConnected(cmd *cobra.Command, c *client.Client, k *kube, id string, o connectOptions) error {
	say(cmd, "waiting for the agent to connect (--no-wait does not)")
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	state := ""
	for try := 1; ; try++ {
		was, err := client.Get[object](ctx, c, id, client.VersionCluster)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil && flatten(was)["connectivityStatus"] == resource.Connected {
			return s.show(cmd, was, clusterColumns())
		}
		if try%stateEvery == 0 {
			if now := k.agentState(ctx); now != state && ctx.Err() == nil {
				state = now
				say(cmd, "still waiting: %s", state)
			}
		}
		select {
		case <-ctx.Done():
			if cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			return fmt.Errorf("the agent did not connect within %v (%s): it has to reach %s; \"kubectl -n %s logs deployment/%s\" shows what hinders it",
				o.timeout, either(state, "no state known"), either(o.agentHub, c.Hub()), agentNamespace, agentRelease)
		case <-time.After(connectPoll):
		}
	}
}
