package hub

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"headwater.dev/hub/access"
	"headwater.dev/hub/activity"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/enrolment"
	"headwater.dev/hub/gateway"
	"headwater.dev/hub/limit"
	"headwater.dev/hub/rest"
)

// People says who is let in besides the hub's own service principals, how much
// each may ask, and how long it is remembered what they did.
type People struct {
	// IssuersFile is a JSON file with a list of OpenID Connect issuers.
	IssuersFile string
	// Issuers are further ones, each as URL=AUDIENCE.
	Issuers []string
	// Limits of requests; limit.Defaults unless LimitsSet.
	Limits    limit.Config
	LimitsSet bool
	// ActivityRetention and ActivityMax bound the activity log; 90 days and
	// 100,000 entries when zero.
	ActivityRetention time.Duration
	ActivityMax       int
}

// flags adds the command line's words for it.
func (p *People) flags(f *pflag.FlagSet) {
	p.Limits, p.LimitsSet = limit.Defaults(), true
	f.StringVar(&p.IssuersFile, "oidc-issuers", "", "JSON file with the OpenID Connect issuers whose tokens are accepted: [{\"url\": …, \"audiences\": […]}]")
	f.StringArrayVar(&p.Issuers, "oidc-issuer", nil, "one more issuer, as URL=AUDIENCE; may be repeated")
	f.DurationVar(&p.ActivityRetention, "activity-retention", activity.DefaultRetention, "how long the activity log is kept")
	f.IntVar(&p.ActivityMax, "activity-max", activity.DefaultMax, "how many entries the activity log keeps at most")
	for _, l := range []struct {
		name, what string
		rate       *limit.Rate
	}{{"reads", "reads of one principal", &p.Limits.Reads}, {"writes", "writes of one principal", &p.Limits.Writes},
		{"deletes", "deletions of one principal", &p.Limits.Deletes}, {"address", "requests of one address, whoever sends them", &p.Limits.Address}} {
		f.Float64Var(&l.rate.PerSecond, "limit-"+l.name, l.rate.PerSecond, "how many "+l.what+" a second are answered in the long run; 0 for no limit")
		f.IntVar(&l.rate.Burst, "limit-"+l.name+"-burst", l.rate.Burst, "how many "+l.what+" are answered at once after a pause")
	}
}

// issuers are those of the configured file and flags.
func (p *People) issuers() ([]auth.Issuer, error) {
	var all []auth.Issuer
	if p.IssuersFile != "" {
		var err error
		if all, err = auth.ReadIssuers(p.IssuersFile); err != nil {
			return nil, err
		}
	}
	for _, text := range p.Issuers {
		at := strings.LastIndex(text, "=")
		if at < 0 {
			return nil, fmt.Errorf("--oidc-issuer %q is not URL=AUDIENCE", text)
		}
		all = append(all, auth.Issuer{URL: text[:at], Audiences: []string{text[at+1:]}})
	}
	return all, nil
}

// govern puts what people may, did and may still ask in front of the users' door.
func (h *Hub) govern(c *rest.Config) {
	p := h.config.People
	if !p.LimitsSet {
		p.Limits = limit.Defaults()
	}
	p.Limits.Clock = h.config.Clock
	h.limiter = limit.New(p.Limits)
	h.activity = activity.New(activity.Config{Store: h.store, Retention: p.ActivityRetention, Max: p.ActivityMax, Clock: h.config.Clock, Logger: h.log})
	rights := access.New(access.Config{Store: h.store, Auth: h.auth, Canon: rest.Canon, Clock: h.config.Clock})
	c.Gates = []auth.Gate{h.limiter.Gate, h.activity.Gate}
	c.Locks = rights.Locks
	h.enrolment = enrolment.New(enrolment.Config{Store: h.store, ExternalURL: h.url, Canon: rest.Canon, Clock: h.config.Clock, Logger: h.log,
		Connect: func(ctx context.Context, c enrolment.Connection) error { return h.users.Connect(ctx, rest.Joining(c)) }})
	c.Mounts = []rest.Mount{rights, h.activity, h.enrolment}
}

// happened logs what agents did that their clusters' owners should know of.
func (h *Hub) happened(ctx context.Context, what gateway.Happening) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := h.activity.Add(ctx, activity.Entry{Caller: "agent", From: "the agents' door", Action: what.Action, Scope: what.Cluster, ResourceID: what.Cluster,
		Method: "POST", Status: what.Status, Code: what.Code, Notes: what.Notes})
	if err != nil {
		h.log.Error("activity not logged", "error", err, "action", what.Action, "cluster", what.Cluster, "code", what.Code)
	}
}
