package resource

import (
	"fmt"
	"time"
)

// Provisioning states.
const (
	Succeeded = "Succeeded"
	Failed    = "Failed"
	Canceled  = "Canceled"
	Creating  = "Creating"
	Updating  = "Updating"
	Deleting  = "Deleting"
)

// AgentPatience is how long a change waits for the cluster's agent before it
// fails and must be asked for again. Protected settings are kept no longer.
const AgentPatience = 48 * time.Hour

// CodeAgentTimeout is the error code of a change that no agent took in time.
const CodeAgentTimeout = "AgentTimeout"

// CodeReconciliationTimeout is the error code of a change that the cluster took
// and that did not come to rest in time.
const CodeReconciliationTimeout = "ReconciliationTimeout"

// Change is one change of what is desired: the generation that it made, and when
// it was asked for.
type Change struct {
	Generation int64     `json:"generation"`
	At         time.Time `json:"at"`
}

// LastChange is the newest change of a record of this generation. A request to
// reconcile makes a generation, too, but changes nothing.
func (d Desired[P]) LastChange(generation int64) Change {
	if d.Changed != nil {
		return *d.Changed
	}
	return Change{Generation: generation, At: d.UpdatedAt}
}

// Progress is what the state of a change is derived from: nothing about it is
// stored, so any replica can answer and no crash can leave it half done.
type Progress struct {
	// Generation of the desired part.
	Generation int64
	// UpdatedAt is when that generation was asked for.
	UpdatedAt time.Time
	// Changed is the newest change when Generation only asks to reconcile; nil
	// otherwise.
	Changed *Change
	// Deleting is set when that generation is a deletion.
	Deleting bool
	// AcceptedGeneration is the newest generation that the agent took over.
	AcceptedGeneration int64
	// Error is why the agent refused AcceptedGeneration; nil when it did not.
	Error *ErrorDetail
	// Wait is set when acceptance is not enough: the change is done when
	// Settled is, or failed when WaitUntil has passed.
	Wait      bool
	Settled   bool
	WaitUntil time.Time
}

// State gives the provisioning state at now and, when it is Failed, why.
func (p Progress) State(now time.Time) (string, *ErrorDetail) {
	if c := p.Changed; c != nil && p.AcceptedGeneration < p.Generation &&
		(p.AcceptedGeneration < c.Generation || now.Sub(p.UpdatedAt) > AgentPatience) {
		// A request does not make a change live longer, and one that nobody took
		// makes no change fail.
		p.Generation, p.UpdatedAt = c.Generation, c.At
	}
	if p.AcceptedGeneration < p.Generation || p.Deleting && p.Error == nil {
		return p.pending(now)
	}
	if p.Error != nil {
		return Failed, p.Error
	}
	if !p.Wait || p.Settled {
		return Succeeded, nil
	}
	if now.After(p.WaitUntil) {
		return Failed, &ErrorDetail{
			Code:    CodeReconciliationTimeout,
			Message: "the configuration was applied but did not become compliant within reconciliationWaitDuration; see statuses for the objects that are not ready",
		}
	}
	return p.verb(), nil
}

func (p Progress) pending(now time.Time) (string, *ErrorDetail) {
	if now.Sub(p.UpdatedAt) <= AgentPatience {
		return p.verb(), nil
	}
	return Failed, &ErrorDetail{
		Code: CodeAgentTimeout,
		Message: fmt.Sprintf("the agent of the cluster did not take the change within %.0f hours; "+
			"protected settings are gone by now: check that the agent is connected and apply the change again", AgentPatience.Hours()),
	}
}

func (p Progress) verb() string {
	switch {
	case p.Deleting:
		return Deleting
	case p.Generation <= 1:
		return Creating
	default:
		return Updating
	}
}
