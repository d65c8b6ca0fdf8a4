package gateway

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

// Bounds of what an agent may say, besides those of package link.
const (
	maxCount = 1_000_000
	// maxSession bounds the name of an agent's process.
	maxSession = 128
	// maxObserved leaves room in a value of the store.
	maxObserved = min(link.MaxObserved, store.MaxValue-1<<10)
)

// observation is one item of a report that passed all checks.
type observation struct {
	link.Observed
	// key is the record's.
	key string
	// value is the observed part; nil when the item only acknowledges.
	value    any
	accepted int64
}

// fit decides what to write of an observation: nothing when it is of the past
// or of a future that the record does not have.
func (o observation) fit(r store.Record, log *slog.Logger) (any, error) {
	var was accepted
	if len(r.Observed) > 0 {
		if err := json.Unmarshal(r.Observed, &was); err != nil {
			return nil, fmt.Errorf("read what was observed of %s: %w", r.Key, err)
		}
	}
	if o.Generation > r.Generation || o.accepted < was.AcceptedGeneration {
		log.Info("observation of another generation was let go", "id", r.Key,
			"generation", o.Generation, "accepted", o.accepted, "record", r.Generation)
		return nil, nil
	}
	if o.OperationID != "" && o.accepted == r.Generation && was.AcceptedGeneration < r.Generation {
		var is struct {
			OperationID string `json:"operationId"`
		}
		if err := json.Unmarshal(r.Desired, &is); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.Key, err)
		}
		if is.OperationID != o.OperationID {
			log.Info("observation of what was there before was let go", "id", r.Key, "generation", o.Generation)
			return nil, nil
		}
	}
	return o.value, nil
}

// complaint collects what is wrong with a report; the first thing counts.
type complaint struct{ err *refusal }

func (c *complaint) that(wrong bool, format string, args ...any) {
	if wrong && c.err == nil {
		c.err = &refusal{status: http.StatusBadRequest, code: "InvalidReport", message: short(fmt.Sprintf(format, args...))}
	}
}

// text bounds a string and wants it to be UTF-8 without NUL.
func (c *complaint) text(s, what string, most int) {
	c.that(len(s) > most, "%s has %d bytes, at most %d are allowed", what, len(s), most)
	c.that(!utf8.ValidString(s) || strings.ContainsRune(s, 0), "%s is not proper text", what)
}

func (c *complaint) oneOf(s, what string, allowed ...string) {
	for _, a := range allowed {
		if s == a {
			return
		}
	}
	c.that(true, "%s is %.40q; it must be one of %q", what, s, allowed)
}

// checkReport checks all of a report by the agent of the cluster with that key.
func checkReport(cluster string, r link.Report) ([]observation, error) {
	var c complaint
	c.that(r.Session == "", "session is missing")
	c.text(r.Session, "session", maxSession)
	c.that(r.Sequence < 1, "sequence is %d; it begins at 1", r.Sequence)
	c.that(len(r.Items) > link.MaxItems, "the report has %d items, at most %d are allowed", len(r.Items), link.MaxItems)
	if r.Heartbeat != nil {
		c.heartbeat(*r.Heartbeat)
	}
	var out []observation
	seen := map[string]bool{}
	for i, item := range r.Items {
		if c.err != nil {
			break
		}
		o, err := c.item(cluster, fmt.Sprintf("items[%d]", i), item)
		if err != nil {
			return nil, err
		}
		c.that(seen[o.key], "items[%d] is about %s, as another one is", i, o.key)
		seen[o.key] = true
		out = append(out, o)
	}
	if c.err != nil {
		return nil, c.err
	}
	return out, nil
}

func (c *complaint) heartbeat(h link.Heartbeat) {
	for what, s := range map[string]string{
		"kubernetesVersion": h.KubernetesVersion, "agentVersion": h.AgentVersion,
		"distribution": h.Distribution, "infrastructure": h.Infrastructure,
	} {
		c.text(s, "heartbeat."+what, link.MaxName)
	}
	c.that(h.TotalNodeCount < 0 || h.TotalNodeCount > maxCount, "heartbeat.totalNodeCount is %d", h.TotalNodeCount)
	c.that(h.TotalCoreCount < 0 || h.TotalCoreCount > maxCount, "heartbeat.totalCoreCount is %d", h.TotalCoreCount)
}

// item checks one item. Speaking for another cluster is an error of its own.
func (c *complaint) item(cluster, at string, item link.Observed) (observation, error) {
	o := observation{Observed: item}
	key, err := parseID(item.ID)
	if err != nil {
		c.that(true, "%s.id %.100q is not a resource id: %v", at, item.ID, err)
		return o, nil
	}
	if !strings.HasPrefix(key, cluster+"/") {
		return o, &refusal{status: http.StatusForbidden, code: "AuthorizationFailed", message: short(fmt.Sprintf("%s.id %.100q is not below the cluster that this agent speaks for", at, item.ID))}
	}
	o.key = key
	k, ok := itemOf(cluster, key)
	c.that(!ok, "%s.id %.100q is neither an extension nor a flux configuration", at, item.ID)
	c.that(item.Generation < 1, "%s.generation is %d; it begins at 1", at, item.Generation)
	c.text(item.ProtectedVersion, at+".protectedVersion", 128)
	c.text(item.OperationID, at+".operationId", 128)
	c.that(item.Extension != nil && k != extension, "%s.extension does not fit its id", at)
	c.that(item.Configuration != nil && k != configuration, "%s.configuration does not fit its id", at)
	hasValue := item.Extension != nil || item.Configuration != nil
	c.that(item.Deleted && hasValue, "%s is deleted and yet has a status", at)
	c.that(!item.Deleted && !hasValue && item.ProtectedVersion == "", "%s says nothing", at)
	switch {
	case c.err != nil || !hasValue:
	case k == extension:
		c.extension(at+".extension", *item.Extension)
		o.value, o.accepted = *item.Extension, item.Extension.AcceptedGeneration
	default:
		c.configuration(at+".configuration", *item.Configuration)
		o.value, o.accepted = *item.Configuration, item.Configuration.AcceptedGeneration
	}
	c.that(o.accepted < 0 || o.accepted > item.Generation, "%s accepts generation %d of %d", at, o.accepted, item.Generation)
	if c.err == nil && hasValue {
		value, err := json.Marshal(o.value)
		c.that(err != nil, "%s cannot be stored", at)
		c.that(len(value) > maxObserved, "%s has a status of %d bytes, at most %d are allowed", at, len(value), maxObserved)
	}
	return o, nil
}

func (c *complaint) extension(at string, e resource.ExtensionObserved) {
	c.detail(at+".error", e.Error, 0)
	c.text(e.CurrentVersion, at+".currentVersion", link.MaxName)
	c.that(len(e.Statuses) > link.MaxStatuses, "%s has %d statuses, at most %d are allowed", at, len(e.Statuses), link.MaxStatuses)
	for i, s := range e.Statuses {
		if c.err != nil {
			return
		}
		here := fmt.Sprintf("%s.statuses[%d]", at, i)
		c.oneOf(s.Level, here+".level", "Error", "Warning", "Information", "")
		c.text(s.Code, here+".code", link.MaxName)
		c.text(s.DisplayStatus, here+".displayStatus", link.MaxMessage)
		c.text(s.Message, here+".message", link.MaxMessage)
		c.text(s.Time, here+".time", link.MaxName)
	}
}

func (c *complaint) configuration(at string, f resource.FluxConfigurationObserved) {
	c.detail(at+".error", f.Error, 0)
	c.compliance(f.ComplianceState, at+".complianceState")
	c.text(f.RepositoryPublicKey, at+".repositoryPublicKey", link.MaxMessage)
	c.text(f.SourceSyncedCommitID, at+".sourceSyncedCommitId", link.MaxName)
	c.text(f.ErrorMessage, at+".errorMessage", link.MaxMessage)
	c.text(f.LastHandledReconcileAt, at+".lastHandledReconcileAt", link.MaxName)
	c.that(f.SettledGeneration < 0, "%s.settledGeneration is %d", at, f.SettledGeneration)
	c.that(f.StatusGeneration < 0, "%s.statusGeneration is %d", at, f.StatusGeneration)
	c.that(len(f.Statuses) > link.MaxStatuses, "%s has %d statuses, at most %d are allowed", at, len(f.Statuses), link.MaxStatuses)
	for i, s := range f.Statuses {
		if c.err != nil {
			return
		}
		c.status(fmt.Sprintf("%s.statuses[%d]", at, i), s)
	}
}

func (c *complaint) compliance(state, at string) {
	c.oneOf(state, at, resource.Compliant, resource.NonCompliant, resource.Pending, resource.Suspended, resource.Unknown, "")
}

func (c *complaint) status(at string, s resource.ObjectStatus) {
	c.compliance(s.ComplianceState, at+".complianceState")
	c.text(s.Name, at+".name", link.MaxName)
	c.text(s.Namespace, at+".namespace", link.MaxName)
	c.text(s.Kind, at+".kind", link.MaxName)
	c.reference(at+".appliedBy", s.AppliedBy)
	if h := s.HelmReleaseProperties; h != nil {
		c.reference(at+".helmReleaseProperties.helmChartRef", h.HelmChartRef)
		c.that(min(h.LastRevisionApplied, h.FailureCount, h.InstallFailureCount, h.UpgradeFailureCount) < 0,
			"%s.helmReleaseProperties has a negative count", at)
	}
	c.that(len(s.StatusConditions) > link.MaxConditions, "%s has %d conditions, at most %d are allowed", at, len(s.StatusConditions), link.MaxConditions)
	for i, condition := range s.StatusConditions {
		if c.err != nil {
			return
		}
		here := fmt.Sprintf("%s.statusConditions[%d]", at, i)
		c.oneOf(condition.Status, here+".status", "True", "False", "Unknown")
		c.text(condition.Type, here+".type", link.MaxName)
		c.text(condition.Reason, here+".reason", link.MaxName)
		c.text(condition.Message, here+".message", link.MaxMessage)
	}
}

func (c *complaint) reference(at string, r *resource.ObjectReference) {
	if r != nil {
		c.text(r.Name, at+".name", link.MaxName)
		c.text(r.Namespace, at+".namespace", link.MaxName)
	}
}

// detail checks an error with the errors in it.
func (c *complaint) detail(at string, e *resource.ErrorDetail, depth int) {
	if e == nil {
		return
	}
	c.text(e.Code, at+".code", link.MaxName)
	c.text(e.Message, at+".message", link.MaxMessage)
	c.text(e.Target, at+".target", link.MaxName)
	c.that(depth > link.MaxDepth || len(e.Details) > link.MaxDetails, "%s has too many details", at)
	if c.err != nil {
		return
	}
	for i := range e.Details {
		c.detail(fmt.Sprintf("%s.details[%d]", at, i), &e.Details[i], depth+1)
	}
}

// short keeps an agent's own words from filling answers and logs.
func short(s string) string {
	const most = 400
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// query is what PathDesired is asked with.
type query struct {
	revision int64
	stream   bool
	wait     time.Duration
	// epoch and known are the newest that the agent was ever given.
	epoch, known int64
}

func parseQuery(r *http.Request) (query, error) {
	bad := func(name, want string) error {
		return &refusal{status: http.StatusBadRequest, code: "InvalidParameter", message: fmt.Sprintf("the parameter %q must be %s", name, want)}
	}
	q := query{stream: true}
	values := r.URL.Query()
	var err error
	if v := values.Get("revision"); v != "" {
		if q.revision, err = strconv.ParseInt(v, 10, 64); err != nil || q.revision < 0 {
			return q, bad("revision", "a revision")
		}
	}
	for name, into := range map[string]*int64{"epoch": &q.epoch, "known": &q.known} {
		if v := values.Get(name); v != "" {
			if *into, err = strconv.ParseInt(v, 10, 64); err != nil || *into < 0 {
				return q, bad(name, "a number")
			}
		}
	}
	if v := values.Get("stream"); v != "" {
		if q.stream, err = strconv.ParseBool(v); err != nil {
			return q, bad("stream", "true or false")
		}
	}
	if v := values.Get("wait"); v != "" {
		if q.wait, err = time.ParseDuration(v); err != nil || q.wait < 0 {
			return q, bad("wait", "a duration such as 30s")
		}
		q.wait = min(q.wait, maxPoll)
	}
	return q, nil
}
