package enrolment

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/link"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

const (
	// enrolments is the family of the records of enrolments; the key is the folded id.
	enrolments = "/enrolments"
	// pendingLife is how long an enrolment waits for somebody. What was decided is
	// remembered for longer than any token lives.
	pendingLife, decidedLife = 7 * 24 * time.Hour, maxLife + 24*time.Hour
	// approving is the state while the cluster is made; an approval that was cut
	// off there can be repeated, and nothing else can be decided.
	approving = "Approving"
)

// errDecided says that somebody else has decided.
var errDecided = errors.New("decided otherwise")

// petition is an enrolment as it is stored.
type petition struct {
	ID          string    `json:"id"`
	Cluster     string    `json:"cluster"`
	PublicKey   string    `json:"publicKey"`
	Fingerprint string    `json:"fingerprint"`
	From        string    `json:"from"`
	Token       string    `json:"token"`
	Asked       time.Time `json:"asked"`
	State       string    `json:"state"`
	// Decider says who decided, Rule that he did so by a pattern of his token.
	Decider by        `json:"decider,omitzero"`
	Rule    bool      `json:"rule,omitempty"`
	Decided time.Time `json:"decided,omitzero"`
	// Reason is why it was rejected, or why it could not be approved yet.
	Reason string `json:"reason,omitempty"`
	// Location and Tags are what the token gives the cluster.
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
}

func (p petition) key() string { return enrolments + arm.Fold(p.ID) }

// state is what is told: who approves is nobody's business before he has.
func (p petition) state() string {
	if p.State == approving {
		return link.EnrolmentPending
	}
	return p.State
}

func (p petition) life() time.Duration {
	if p.state() == link.EnrolmentPending {
		return pendingLife
	}
	return decidedLife
}

func (p petition) show() map[string]any {
	id, _ := arm.ParseID(p.ID) // it was written from one
	cluster, _ := arm.ParseID(p.Cluster)
	props := map[string]any{"clusterId": p.Cluster, "clusterName": cluster.Name(), "keyFingerprint": p.Fingerprint, "from": p.From, "enrolmentToken": p.Token,
		"state": p.state(), "requestedOn": stamp(p.Asked), "reason": p.Reason, "byRule": p.Rule}
	if !p.Decided.IsZero() {
		props["decidedOn"], props["decidedBy"] = stamp(p.Decided), p.Decider.ObjectID
	}
	return map[string]any{"id": p.ID, "name": id.Name(), "type": typeEnrolment, "properties": props}
}

func (d *Desk) listEnrolments(c *call) error {
	return d.list(c, enrolments, typeEnrolment+"/read", func(r store.Record) (map[string]any, error) {
		var p petition
		err := json.Unmarshal(r.Desired, &p)
		return p.show(), err
	})
}

func (d *Desk) petition(ctx context.Context, key string) (petition, error) {
	var p petition
	r, err := d.store.Get(ctx, key)
	if err == nil {
		err = json.Unmarshal(r.Desired, &p)
	}
	return p, err
}

func noPetition(name string) error {
	return arm.Errorf(arm.CodeNotFound, "The enrolment '%s' was not found: it was decided long ago, or waited for more than 7 days.", clip(name))
}

func (d *Desk) getEnrolment(c *call) error {
	p, err := d.petition(c.ctx, enrolments+arm.Fold(c.id()))
	if missing(err) {
		return noPetition(c.name)
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, p.show())
}

// deleteEnrolment forgets an enrolment. Its agent, whose token it has used, may
// ask anew.
func (d *Desk) deleteEnrolment(c *call) error {
	err := d.store.Delete(c.ctx, enrolments+arm.Fold(c.id()), store.AnyRevision)
	switch {
	case missing(err):
		c.w.WriteHeader(http.StatusNoContent)
	case err != nil:
		return err
	default:
		c.w.WriteHeader(http.StatusOK)
	}
	return nil
}

// fingerprinted makes sure that what is decided is what was looked at.
type fingerprinted struct {
	KeyFingerprint string `json:"keyFingerprint"`
	Reason         string `json:"reason"`
}

func (d *Desk) approveCall(c *call) error {
	var body fingerprinted
	if err := c.body(&body); err != nil {
		return err
	}
	p, err := d.petition(c.ctx, enrolments+arm.Fold(c.id()))
	if missing(err) {
		return noPetition(c.name)
	}
	if err != nil {
		return err
	}
	if body.KeyFingerprint != "" && !strings.EqualFold(body.KeyFingerprint, p.Fingerprint) {
		return arm.Errorf(arm.CodeConflict, "The enrolment '%s' is for the key %s, not for %s.", c.name, p.Fingerprint, clip(body.KeyFingerprint))
	}
	auth.Note(c.ctx, "cluster", p.Cluster)
	auth.Note(c.ctx, "keyFingerprint", p.Fingerprint)
	p, err = d.approve(c.ctx, p.key(), c.who, false)
	if errors.Is(err, errDecided) {
		return arm.Errorf(arm.CodeConflict, "The enrolment '%s' is %s already.", c.name, strings.ToLower(p.State))
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, p.show())
}

// approve makes the cluster with the rights of who. It can be repeated, also
// when it was cut off in the middle.
func (d *Desk) approve(ctx context.Context, key string, who auth.Principal, rule bool) (petition, error) {
	p, err := update(ctx, d.store, key, func(p *petition) (time.Duration, bool, error) {
		switch p.State {
		case link.EnrolmentPending, approving:
			p.State = approving
			return pendingLife, true, nil
		case link.EnrolmentApproved:
			return 0, false, nil
		}
		return 0, false, errDecided
	})
	if err != nil || p.State == link.EnrolmentApproved {
		return p, err
	}
	made := d.make(ctx, p, who)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	p, err = update(ctx, d.store, key, func(p *petition) (time.Duration, bool, error) {
		if p.State != approving {
			return 0, false, nil
		}
		p.State, p.Reason = link.EnrolmentPending, ""
		if made == nil {
			p.State, p.Decider, p.Rule, p.Decided = link.EnrolmentApproved, remember(who), rule, d.clock().UTC()
		} else {
			p.Reason = reason(made)
		}
		return p.life(), true, nil
	})
	if made != nil {
		err = made
	}
	if err == nil {
		d.log.Info("cluster enrolled", "cluster", p.Cluster, "by", who.ObjectID, "rule", rule, "enrolment", p.ID)
	}
	return p, err
}

// reason is what of an error people may read.
func reason(err error) string {
	var coded *arm.Error
	var denied *auth.Denial
	switch {
	case errors.As(err, &coded):
		return coded.Message
	case errors.As(err, &denied):
		return "who made the token or approves may not connect clusters there"
	}
	return "the hub could not make the cluster: try again"
}

// make registers the cluster. One that is there already is fine when it has the
// very key.
func (d *Desk) make(ctx context.Context, p petition, who auth.Principal) error {
	id, err := arm.ParseID(p.Cluster)
	if err != nil {
		return err
	}
	token, _ := arm.ParseID(p.ID)
	err = d.connect(ctx, Connection{Who: who, ID: id, Location: p.Location, Tags: p.Tags, PublicKey: p.PublicKey, From: p.From, Correlation: token.Name()})
	if arm.CodeOf(err) != arm.CodePreconditionFailed {
		return err
	}
	there, err := d.registered(ctx, id)
	if err == nil && there != p.Fingerprint {
		err = arm.Errorf(arm.CodeConflict, "The cluster '%s' exists already with another key: delete it first, or reject the enrolment.", id.Name())
	}
	return err
}

func (d *Desk) rejectCall(c *call) error {
	var body fingerprinted
	if err := c.body(&body); err != nil {
		return err
	}
	p, err := update(c.ctx, d.store, enrolments+arm.Fold(c.id()), func(p *petition) (time.Duration, bool, error) {
		switch p.State {
		case link.EnrolmentRejected:
			return 0, false, nil
		case link.EnrolmentPending:
			p.State, p.Decider, p.Decided, p.Reason = link.EnrolmentRejected, remember(c.who), c.now, clip(body.Reason)
			return decidedLife, true, nil
		}
		return 0, false, errDecided
	})
	if missing(err) {
		return noPetition(c.name)
	}
	if errors.Is(err, errDecided) {
		return arm.Errorf(arm.CodeConflict, "The enrolment '%s' is approved already: delete the connected cluster '%s' to shut it out.", c.name, p.Cluster)
	}
	if err != nil {
		return err
	}
	auth.Note(c.ctx, "cluster", p.Cluster)
	return c.reply(http.StatusOK, p.show())
}

// byRule approves what a pattern of the token lets in, with the rights that its
// maker has now.
func (d *Desk) byRule(ctx context.Context, t ticket, p petition) (petition, error) {
	id, err := arm.ParseID(p.Cluster)
	if err != nil {
		return p, err
	}
	for _, pattern := range t.Auto {
		if ok, _ := path.Match(strings.ToLower(pattern), strings.ToLower(id.Name())); ok {
			now, err := d.approve(ctx, p.key(), t.By.principal(), true)
			if err != nil {
				d.log.Warn("a rule could not approve an enrolment", "enrolment", p.ID, "cluster", p.Cluster, "error", err)
			}
			if errors.Is(err, errDecided) || err != nil && now.ID != "" {
				return now, nil // it waits for a person
			}
			return now, err
		}
	}
	return p, nil
}
