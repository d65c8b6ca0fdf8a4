package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
)

// TestA82WhatAgentsFitIsTaken hands the door, piece by piece, what a tenant can write
// into the status of his objects, as an agent brings it within bounds: nothing of
// it may be refused, for then the whole configuration would stay unreported.
func TestA82WhatAgentsFitIsTaken(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "apps", nil)
	put(h, resource.Desired[resource.ExtensionProperties]{ID: extensionID(edgeID, "flux")})
	a := h.edge()
	end := time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -14*3600))
	var deep *resource.ErrorDetail
	for range 10 {
		e := &resource.ErrorDetail{Code: "x", Message: strings.Repeat("x", 40<<10)}
		if deep != nil {
			e.Details = []resource.ErrorDetail{*deep}
		}
		deep = e
	}
	condition := func(c resource.StatusCondition) func(*resource.FluxConfigurationObserved) {
		return func(o *resource.FluxConfigurationObserved) {
			o.Statuses = []resource.ObjectStatus{{Name: "a", StatusConditions: []resource.StatusCondition{c}}}
		}
	}
	object := func(s resource.ObjectStatus) func(*resource.FluxConfigurationObserved) {
		return func(o *resource.FluxConfigurationObserved) { o.Statuses = []resource.ObjectStatus{s} }
	}
	for why, edit := range map[string]func(*resource.FluxConfigurationObserved){
		"NUL":                      condition(resource.StatusCondition{Status: "True", Message: "a\x00b"}),
		"no UTF-8":                 condition(resource.StatusCondition{Status: "True", Message: "a\xff"}),
		"a reason of 1 KiB":        condition(resource.StatusCondition{Status: "True", Reason: strings.Repeat("R", 1024)}),
		"another status":           condition(resource.StatusCondition{Status: "Perhaps"}),
		"the end of time":          condition(resource.StatusCondition{Status: "True", LastTransitionTime: end}),
		"a source of that time":    func(o *resource.FluxConfigurationObserved) { o.SourceUpdatedAt = &end },
		"many conditions":          object(resource.ObjectStatus{StatusConditions: make([]resource.StatusCondition, 80)}),
		"another compliance":       object(resource.ObjectStatus{ComplianceState: "<b>"}),
		"negative counts":          object(resource.ObjectStatus{HelmReleaseProperties: &resource.HelmReleaseProperties{FailureCount: -1}}),
		"a long reference":         object(resource.ObjectStatus{AppliedBy: &resource.ObjectReference{Name: strings.Repeat("x", 600)}}),
		"too many statuses":        func(o *resource.FluxConfigurationObserved) { o.Statuses = make([]resource.ObjectStatus, 5001) },
		"too much together":        func(o *resource.FluxConfigurationObserved) { o.Statuses = bulky() },
		"a message of 5 MiB":       func(o *resource.FluxConfigurationObserved) { o.ErrorMessage = strings.Repeat("ü", 5<<19) },
		"errors in errors":         func(o *resource.FluxConfigurationObserved) { o.Error = deep },
		"a revision of 2 KiB":      func(o *resource.FluxConfigurationObserved) { o.SourceSyncedCommitID = strings.Repeat("r", 2048) },
		"a generation of the past": func(o *resource.FluxConfigurationObserved) { o.AcceptedGeneration = -5 },
	} {
		o := accept("apps", 1, edit)
		if status, code := a.report(nil, o.Fit()); status != http.StatusOK {
			t.Errorf("%s: %d %s", why, status, code)
		}
	}
	failure := link.Observed{ID: extensionID(edgeID, "flux"), Generation: 1, Extension: &resource.ExtensionObserved{
		CurrentVersion: strings.Repeat("1", 600), Error: deep, Statuses: []resource.ExtensionStatus{{Level: "Fatal", Code: strings.Repeat("c", 600), Message: strings.Repeat("\x00", 50<<10)}}}}
	if status, code := a.report(nil, failure.Fit()); status != http.StatusOK {
		t.Errorf("a large failure of the extension: %d %s", status, code)
	}
}
