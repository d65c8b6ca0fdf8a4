package link

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"headwater.dev/api/resource"
)

// Bounds of what an observation may hold. The hub refuses what is beyond them;
// an agent brings what it found within them, see Fit.
const (
	// MaxName bounds names, reasons, kinds and the like, in bytes.
	MaxName = 512
	// MaxMessage bounds a message, in bytes.
	MaxMessage    = 32 << 10
	MaxStatuses   = 5000
	MaxConditions = 50
	MaxDetails    = 100
	// MaxDepth is how deep errors may lie in each other.
	MaxDepth = 5
	// MaxObserved bounds the JSON of one status, in bytes.
	MaxObserved = 1<<20 - 1<<10
)

// Fit is the observation within the bounds that the hub checks. What is in a
// status comes from anybody who may write to an object in the cluster: a strange
// condition must not keep the rest from being reported. Too long text is cut, what
// no text can hold is replaced, a value that is none of the allowed ones becomes
// unknown. When all together is too much, messages become shorter, then the
// statuses of what is compliant are left out, then the last ones. What o refers
// to is not changed.
func (o Observed) Fit() Observed {
	if e := o.Extension; e != nil {
		fitted := *e
		fitted.AcceptedGeneration, fitted.AcceptedAt, fitted.StatusUpdatedAt = generation(e.AcceptedGeneration, o.Generation), moment(e.AcceptedAt), momentOf(e.StatusUpdatedAt)
		fitted.Error, fitted.CurrentVersion = detail(e.Error, 0), text(e.CurrentVersion, MaxName)
		fitted.Statuses = extensionStatuses(e.Statuses)
		for most := MaxMessage / 4; size(fitted) > MaxObserved && most > 0; most /= 4 {
			for i := range fitted.Statuses {
				fitted.Statuses[i].Message = text(fitted.Statuses[i].Message, most)
			}
		}
		fitted.Statuses = first(fitted.Statuses, MaxObserved-size(resource.ExtensionObserved{Error: fitted.Error})-MaxName*8)
		o.Extension = &fitted
	}
	if c := o.Configuration; c != nil {
		fitted := configuration(*c, o.Generation)
		o.Configuration = &fitted
	}
	return o
}

func configuration(c resource.FluxConfigurationObserved, of int64) resource.FluxConfigurationObserved {
	c.AcceptedGeneration, c.StatusGeneration, c.SettledGeneration = generation(c.AcceptedGeneration, of), generation(c.StatusGeneration, of), generation(c.SettledGeneration, of)
	c.AcceptedAt, c.SourceUpdatedAt, c.StatusUpdatedAt = moment(c.AcceptedAt), momentOf(c.SourceUpdatedAt), momentOf(c.StatusUpdatedAt)
	c.Error, c.ComplianceState, c.ErrorMessage = detail(c.Error, 0), compliance(c.ComplianceState), text(c.ErrorMessage, MaxMessage)
	c.RepositoryPublicKey, c.SourceSyncedCommitID = text(c.RepositoryPublicKey, MaxMessage), text(c.SourceSyncedCommitID, MaxName)
	c.LastHandledReconcileAt = text(c.LastHandledReconcileAt, MaxName)
	statuses := make([]resource.ObjectStatus, 0, len(c.Statuses))
	for _, s := range c.Statuses[:min(len(c.Statuses), MaxStatuses)] {
		statuses = append(statuses, objectStatus(s))
	}
	c.Statuses = statuses
	for most := MaxMessage / 4; size(c) > MaxObserved && most > 16; most /= 4 {
		for _, s := range c.Statuses {
			for i := range s.StatusConditions {
				s.StatusConditions[i].Message = text(s.StatusConditions[i].Message, most)
			}
		}
	}
	if size(c) <= MaxObserved {
		return c
	}
	c.Statuses = slices.DeleteFunc(c.Statuses, func(s resource.ObjectStatus) bool { return s.ComplianceState == resource.Compliant })
	without := c
	without.Statuses = nil
	c.Statuses = first(c.Statuses, MaxObserved-size(without))
	return c
}

// first are the first of a list whose JSON has room.
func first[T any](list []T, room int) []T {
	for i, one := range list {
		if room -= size(one) + 1; room < 0 {
			return list[:i]
		}
	}
	return list
}

func size(v any) int {
	raw, err := json.Marshal(v)
	if err != nil {
		return 0 // which cannot be after fitting
	}
	return len(raw)
}

func extensionStatuses(list []resource.ExtensionStatus) []resource.ExtensionStatus {
	out := make([]resource.ExtensionStatus, 0, len(list))
	for _, s := range list[:min(len(list), MaxStatuses)] {
		if !slices.Contains([]string{"Error", "Warning", "Information"}, s.Level) {
			s.Level = ""
		}
		s.Code, s.DisplayStatus, s.Time = text(s.Code, MaxName), text(s.DisplayStatus, MaxName), text(s.Time, MaxName)
		s.Message = text(s.Message, MaxMessage)
		out = append(out, s)
	}
	return out
}

func objectStatus(s resource.ObjectStatus) resource.ObjectStatus {
	s.Name, s.Namespace, s.Kind = text(s.Name, MaxName), text(s.Namespace, MaxName), text(s.Kind, MaxName)
	s.ComplianceState, s.AppliedBy = compliance(s.ComplianceState), reference(s.AppliedBy)
	conditions := make([]resource.StatusCondition, 0, len(s.StatusConditions))
	for _, c := range s.StatusConditions[:min(len(s.StatusConditions), MaxConditions)] {
		if c.Status != "True" && c.Status != "False" {
			c.Status = "Unknown"
		}
		c.Type, c.Reason, c.Message = text(c.Type, MaxName), text(c.Reason, MaxName), text(c.Message, MaxMessage)
		c.LastTransitionTime = moment(c.LastTransitionTime)
		conditions = append(conditions, c)
	}
	s.StatusConditions = conditions
	if h := s.HelmReleaseProperties; h != nil {
		s.HelmReleaseProperties = &resource.HelmReleaseProperties{LastRevisionApplied: max(h.LastRevisionApplied, 0), HelmChartRef: reference(h.HelmChartRef),
			FailureCount: max(h.FailureCount, 0), InstallFailureCount: max(h.InstallFailureCount, 0), UpgradeFailureCount: max(h.UpgradeFailureCount, 0)}
	}
	return s
}

func reference(r *resource.ObjectReference) *resource.ObjectReference {
	if r == nil {
		return nil
	}
	return &resource.ObjectReference{Name: text(r.Name, MaxName), Namespace: text(r.Namespace, MaxName)}
}

func detail(e *resource.ErrorDetail, depth int) *resource.ErrorDetail {
	if e == nil {
		return nil
	}
	out := resource.ErrorDetail{Code: text(e.Code, MaxName), Message: text(e.Message, MaxMessage), Target: text(e.Target, MaxName)}
	for i := range e.Details[:min(len(e.Details), MaxDetails)] {
		if depth < MaxDepth {
			out.Details = append(out.Details, *detail(&e.Details[i], depth+1))
		}
	}
	return &out
}

func compliance(state string) string {
	if slices.Contains([]string{resource.Compliant, resource.NonCompliant, resource.Pending, resource.Suspended, resource.Unknown, ""}, state) {
		return state
	}
	return resource.Unknown
}

// generation is zero, nothing known, for one that the record cannot have.
func generation(g, most int64) int64 {
	if g < 0 || g > most {
		return 0
	}
	return g
}

// moment is zero for a time that JSON cannot hold: one of the year 9999 in a zone
// behind UTC is such a time.
func moment(t time.Time) time.Time {
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

func momentOf(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	at := moment(*t)
	return &at
}

// text is proper text of at most so many bytes, without cutting a character.
func text(s string, most int) string {
	if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
		s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
	}
	if len(s) <= most {
		return s
	}
	const mark = "…"
	end := max(most-len(mark), 0)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}
