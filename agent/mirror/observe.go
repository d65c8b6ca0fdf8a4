package mirror

import (
	"strconv"
	"time"

	"headwater.dev/api/config"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
)

// observe says what is known of an item: how far the cluster has taken it
// over, and how its objects are. failure is why the newest generation is not
// in the cluster. A failure that only the user can mend counts as an answer to
// that generation; any other leaves it open.
func observe(item link.Item, fc *config.FluxConfig, failure error) link.Observed {
	c := &resource.FluxConfigurationObserved{Statuses: []resource.ObjectStatus{}}
	o := link.Observed{ID: item.ID, Generation: item.Generation, OperationID: item.OperationID, Configuration: c}
	if fc != nil {
		describe(c, fc)
		// What an earlier resource of the same name left says nothing of this.
		other := item.OperationID != "" && fc.Labels[config.LabelOperationID] != item.OperationID
		if c.AcceptedGeneration > item.Generation || c.AcceptedGeneration == item.Generation && other {
			c.AcceptedGeneration, c.StatusGeneration, c.SettledGeneration = 0, 0, 0
		}
		if item.ProtectedVersion != "" && fc.Annotations[config.AnnotationProtectedVersion] == item.ProtectedVersion {
			o.ProtectedVersion = item.ProtectedVersion
		}
	}
	if failure == nil {
		if c.ComplianceState == "" {
			c.ComplianceState = resource.Pending
		}
		return o
	}
	c.ErrorMessage = clip(failure.Error())
	if c.ComplianceState == "" {
		c.ComplianceState = resource.Pending
	}
	if e := phase.Classify(failure); e.Class == phase.ClassStalled {
		c.AcceptedGeneration = item.Generation
		c.AcceptedAt = time.Time{}
		c.ComplianceState = resource.NonCompliant
		c.Error = &resource.ErrorDetail{Code: e.Reason, Message: clip(failure.Error()), Target: item.ID}
	}
	return o
}

// describe fills in what the FluxConfig says.
func describe(c *resource.FluxConfigurationObserved, fc *config.FluxConfig) {
	generation, _ := strconv.ParseInt(fc.Annotations[config.AnnotationGeneration], 10, 64)
	c.AcceptedGeneration = generation
	c.AcceptedAt, _ = time.Parse(time.RFC3339, fc.Annotations[annotationAcceptedAt])
	c.Statuses = statusesOf(fc)
	c.ComplianceState = compliance(fc)
	c.RepositoryPublicKey = fc.Status.RepositoryPublicKey
	c.SourceSyncedCommitID = fc.Status.LastSyncedCommit
	c.SourceUpdatedAt = timeOf(fc.Status.LastSourceSyncedTime)
	c.ErrorMessage = errorMessage(fc, c.Statuses)
	if fc.Status.ObservedGeneration >= fc.Generation {
		c.StatusGeneration = generation
	}
	if fc.Status.LastCompliantGeneration >= fc.Generation {
		c.SettledGeneration = generation
	}
	c.LastHandledReconcileAt = fc.Status.LastHandledReconcileAt
}
