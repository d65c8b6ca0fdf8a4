package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

func accept(name string, generation int64, edit func(*resource.FluxConfigurationObserved)) link.Observed {
	o := &resource.FluxConfigurationObserved{AcceptedGeneration: generation, ComplianceState: resource.Pending}
	if edit != nil {
		edit(o)
	}
	return link.Observed{ID: configID(edgeID, name), Generation: generation, Configuration: o}
}

func observedConfig(t *testing.T, r store.Record) resource.FluxConfigurationObserved {
	t.Helper()
	var o resource.FluxConfigurationObserved
	if err := json.Unmarshal(r.Observed, &o); err != nil {
		t.Fatalf("observed part of %s: %v in %q", r.Key, err, r.Observed)
	}
	return o
}

func TestReportsAreWritten(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "apps", nil)
	put(h, resource.Desired[resource.ExtensionProperties]{ID: extensionID(edgeID, "flux")})
	a := h.edge()
	ok := func(why string, items ...link.Observed) {
		t.Helper()
		if status, code := a.report(nil, items...); status != http.StatusOK {
			t.Fatalf("%s: %d %s", why, status, code)
		}
	}
	first := accept("apps", 1, nil)
	first.ID = strings.ToUpper(first.ID) // ids are folded
	ok("first report", first, link.Observed{ID: extensionID(edgeID, "flux"), Generation: 1,
		Extension: &resource.ExtensionObserved{AcceptedGeneration: 1, CurrentVersion: "1.2.3"}})
	r, _ := h.get(configID(edgeID, "apps"))
	if o := observedConfig(t, r); o.AcceptedGeneration != 1 || o.ComplianceState != resource.Pending || r.Generation != 1 {
		t.Errorf("observed %+v of generation %d", o, r.Generation)
	}
	if e, _ := h.get(extensionID(edgeID, "flux")); !strings.Contains(string(e.Observed), "1.2.3") {
		t.Errorf("extension's observed part: %s", e.Observed)
	}
	ok("the same again", accept("apps", 1, nil))
	if again, _ := h.get(configID(edgeID, "apps")); again.Revision != r.Revision {
		t.Error("an unchanged observation was written")
	}
	h.putConfig(edgeID, "apps", nil)
	ok("of the generation before", accept("apps", 1, func(o *resource.FluxConfigurationObserved) { o.ComplianceState = resource.Compliant }))
	r, _ = h.get(configID(edgeID, "apps"))
	if o := observedConfig(t, r); o.AcceptedGeneration != 1 || o.ComplianceState != resource.Compliant {
		t.Errorf("observed %+v", o)
	}
	ok("accepted", accept("apps", 2, nil))
	ok("late, of the generation before", accept("apps", 1, nil))
	ok("of a generation there never was", accept("apps", 7, nil))
	r, _ = h.get(configID(edgeID, "apps"))
	if o := observedConfig(t, r); o.AcceptedGeneration != 2 {
		t.Errorf("the accepted generation is %d, want 2", o.AcceptedGeneration)
	}
	ok("of a resource that is gone", accept("gone", 1, nil))
	if _, found := h.get(configID(edgeID, "gone")); found {
		t.Error("a report made a record")
	}
}

func TestDeletion(t *testing.T) {
	h := newHub(t, nil)
	id := configID(edgeID, "apps")
	version, err := h.vault.Keep(t.Context(), key(id), map[string]string{"k": "v"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.ProtectedVersion = version })
	a := h.edge()
	gone := func(generation int64) bool {
		t.Helper()
		if status, code := a.report(nil, link.Observed{ID: id, Generation: generation, Deleted: true}); status != http.StatusOK {
			t.Fatalf("report: %d %s", status, code)
		}
		_, found := h.get(id)
		return !found
	}
	if gone(1) {
		t.Error("removed although nobody asked for it")
	}
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.Deleting = true })
	if gone(1) {
		t.Error("removed for a report of an earlier generation")
	}
	if !gone(2) {
		t.Error("still there after its deletion was carried out")
	}
	if !gone(2) {
		t.Error("a repeated report is no error")
	}
	for _, r := range h.snapshot() {
		if strings.HasPrefix(r.Key, "/vault/") {
			t.Errorf("the vault still has %s", r.Key)
		}
	}
}

func TestHeartbeat(t *testing.T) {
	h := newHub(t, nil)
	a := h.edge()
	seen := func() (resource.ClusterObserved, int64) {
		t.Helper()
		r, _ := h.get(edgeID)
		var o resource.ClusterObserved
		if err := json.Unmarshal(r.Observed, &o); err != nil {
			t.Fatalf("%v in %q", err, r.Observed)
		}
		return o, r.Revision
	}
	beat := func(nodes int) {
		t.Helper()
		if status, code := a.report(&link.Heartbeat{KubernetesVersion: "v1.37.2", TotalNodeCount: nodes}); status != http.StatusOK {
			t.Fatalf("heartbeat: %d %s", status, code)
		}
	}
	a.follow().next()
	connected, _ := seen()
	if connected.LastConnectivityTime == nil {
		t.Fatal("connecting left no trace")
	}
	beat(3)
	o, revision := seen()
	if o.KubernetesVersion != "v1.37.2" || o.TotalNodeCount != 3 {
		t.Errorf("observed %+v", o)
	}
	beat(3)
	if _, again := seen(); again != revision {
		t.Error("an unchanged heartbeat within a minute was written")
	}
	h.advance(61 * time.Second)
	beat(3)
	later, again := seen()
	if again == revision || !later.LastConnectivityTime.After(*o.LastConnectivityTime) {
		t.Error("a heartbeat a minute later was not written")
	}
	beat(4)
	if o, _ := seen(); o.TotalNodeCount != 4 {
		t.Errorf("a change was not written: %+v", o)
	}
	if status, code := a.report(nil); status != http.StatusOK {
		t.Errorf("an empty report: %d %s", status, code)
	}
	if o, _ := seen(); o.TotalNodeCount != 4 {
		t.Errorf("a report without a heartbeat changed it: %+v", o)
	}
}

func TestReportsAreTakenOnce(t *testing.T) {
	h := newHub(t, nil)
	a := h.edge()
	post := func(session string, sequence int64) int {
		t.Helper()
		status, _ := a.post(fmt.Appendf(nil, `{"session":%q,"sequence":%d}`, session, sequence))
		return status
	}
	for _, step := range []struct {
		session  string
		sequence int64
		want     int
	}{
		{"a", 1, 200}, {"a", 1, 409}, {"a", 5, 200}, {"a", 4, 409}, {"b", 1, 200}, {"a", 5, 409}, {"b", 2, 200}, {"b", 2, 409},
	} {
		if got := post(step.session, step.sequence); got != step.want {
			t.Errorf("report %d of session %s: %d, want %d", step.sequence, step.session, got, step.want)
		}
	}
	other := h.agent(otherID, clusterKeys()[1])
	if status, _ := other.post([]byte(`{"session":"a","sequence":1}`)); status != http.StatusOK {
		t.Errorf("another cluster's session of the same name: %d", status)
	}
}

// TestBadReports holds what an agent might send against what it may: the answer
// is clean and nothing at all is written, not even what was good of it.
func TestBadReports(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "apps", nil)
	h.putConfig(otherID, "apps", nil)
	put(h, resource.Desired[resource.ExtensionProperties]{ID: extensionID(edgeID, "flux")})
	a := h.edge()
	before := h.snapshot()

	good := accept("apps", 1, nil)
	with := func(edit func(*link.Observed)) []link.Observed {
		bad := accept("apps", 1, nil)
		edit(&bad)
		if bad.ID == good.ID {
			return []link.Observed{bad}
		}
		return []link.Observed{good, bad}
	}
	id := func(id string) []link.Observed { return with(func(o *link.Observed) { o.ID = id }) }
	config := func(edit func(*resource.FluxConfigurationObserved)) []link.Observed {
		return with(func(o *link.Observed) { edit(o.Configuration) })
	}
	status := func(s resource.ObjectStatus) []link.Observed {
		return config(func(o *resource.FluxConfigurationObserved) { o.Statuses = []resource.ObjectStatus{s} })
	}
	many := make([]link.Observed, link.MaxItems+1)
	for i := range many {
		many[i] = accept(fmt.Sprint("c", i), 1, nil)
	}
	var deep *resource.ErrorDetail
	for range 10 {
		e := &resource.ErrorDetail{Code: "x"}
		if deep != nil {
			e.Details = []resource.ErrorDetail{*deep}
		}
		deep = e
	}
	cases := map[string]struct {
		items  []link.Observed
		status int
	}{
		"a foreign cluster's resource":   {id(configID(otherID, "apps")), 403},
		"the cluster's neighbour":        {id(configID(edgeID+"2", "apps")), 403},
		"a cluster itself":               {id(edgeID), 403},
		"another subscription":           {id("/subscriptions/other" + strings.TrimPrefix(configID(edgeID, "apps"), "/subscriptions/S")), 403},
		"climbing out":                   {id(configID(edgeID, "../../../../Edge2"+provider+"fluxConfigurations/apps")), 400},
		"encoded slash":                  {id(configID(edgeID, "a%2f..")), 400},
		"no id":                          {id(""), 400},
		"not an id":                      {id("apps"), 400},
		"a long id":                      {id(configID(edgeID, strings.Repeat("x", 5000))), 400},
		"an operation":                   {id(configID(edgeID, "apps") + "/operations/1"), 400},
		"another type":                   {id(edgeID + provider + "sourceControlConfigurations/x"), 400},
		"another provider":               {id(edgeID + "/providers/Microsoft.Other/fluxConfigurations/x"), 400},
		"a status of the wrong kind":     {[]link.Observed{good, {ID: extensionID(edgeID, "flux"), Generation: 1, Configuration: good.Configuration}}, 400},
		"twice the same":                 {[]link.Observed{good, good}, 400},
		"too many":                       {many, 400},
		"no generation":                  {with(func(o *link.Observed) { o.Generation = 0 }), 400},
		"nothing":                        {with(func(o *link.Observed) { o.Configuration = nil }), 400},
		"deleted with a status":          {with(func(o *link.Observed) { o.Deleted = true }), 400},
		"both kinds":                     {with(func(o *link.Observed) { o.Extension = &resource.ExtensionObserved{} }), 400},
		"accepts the future":             {config(func(o *resource.FluxConfigurationObserved) { o.AcceptedGeneration = 2 }), 400},
		"accepts less than nothing":      {config(func(o *resource.FluxConfigurationObserved) { o.AcceptedGeneration = -1 }), 400},
		"unknown compliance":             {config(func(o *resource.FluxConfigurationObserved) { o.ComplianceState = "<script>" }), 400},
		"object of unknown compliance":   {status(resource.ObjectStatus{ComplianceState: "Fine"}), 400},
		"condition of unknown status":    {status(resource.ObjectStatus{StatusConditions: []resource.StatusCondition{{Status: "Maybe"}}}), 400},
		"too many conditions":            {status(resource.ObjectStatus{StatusConditions: make([]resource.StatusCondition, 51)}), 400},
		"a name with NUL":                {status(resource.ObjectStatus{Name: "a\x00b"}), 400},
		"a long name":                    {status(resource.ObjectStatus{Name: strings.Repeat("x", 600)}), 400},
		"a long reference":               {status(resource.ObjectStatus{AppliedBy: &resource.ObjectReference{Name: strings.Repeat("x", 600)}}), 400},
		"negative counts":                {status(resource.ObjectStatus{HelmReleaseProperties: &resource.HelmReleaseProperties{FailureCount: -1}}), 400},
		"too many statuses":              {config(func(o *resource.FluxConfigurationObserved) { o.Statuses = make([]resource.ObjectStatus, 5001) }), 400},
		"a long message":                 {config(func(o *resource.FluxConfigurationObserved) { o.ErrorMessage = strings.Repeat("x", 40<<10) }), 400},
		"an error of errors":             {config(func(o *resource.FluxConfigurationObserved) { o.Error = deep }), 400},
		"a status that cannot be stored": {config(func(o *resource.FluxConfigurationObserved) { o.Statuses = bulky() }), 400},
		"too large":                      {config(func(o *resource.FluxConfigurationObserved) { o.ErrorMessage = strings.Repeat("x", 5<<20) }), 413},
	}
	for name, c := range cases {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			heartbeat := &link.Heartbeat{TotalNodeCount: 99}
			if got, code := a.report(heartbeat, c.items...); got != c.status || code == "" {
				t.Errorf("got %d %s, want %d", got, code, c.status)
			}
			if d := cmp.Diff(before, h.snapshot()); d != "" {
				t.Fatalf("something was written (-before +after):\n%s", d)
			}
		})
	}
	if status, code := a.report(nil, good); status != http.StatusOK {
		t.Errorf("the cases prove nothing: what is good of them is refused: %d %s", status, code)
	}
}

// bulky is allowed piece by piece and too much together.
func bulky() []resource.ObjectStatus {
	out := make([]resource.ObjectStatus, 50)
	for i := range out {
		out[i].StatusConditions = []resource.StatusCondition{{Status: "True", Message: strings.Repeat("x", 30<<10)}}
	}
	return out
}

func TestMalformedReports(t *testing.T) {
	h := newHub(t, nil)
	a := h.edge()
	before := h.snapshot()
	for why, body := range map[string]string{
		"empty":             "",
		"not JSON":          "{",
		"an array":          "[]",
		"null":              "null",
		"two documents":     `{"session":"s","sequence":1}{}`,
		"wrong type":        `{"session":"s","sequence":"1"}`,
		"no session":        `{"sequence":1}`,
		"no sequence":       `{"session":"s"}`,
		"negative sequence": `{"session":"s","sequence":-1}`,
		"long session":      `{"session":"` + strings.Repeat("s", 200) + `","sequence":1}`,
		"negative nodes":    `{"session":"s","sequence":1,"heartbeat":{"totalNodeCount":-1}}`,
		"long version":      `{"session":"s","sequence":1,"heartbeat":{"agentVersion":"` + strings.Repeat("s", 600) + `"}}`,
		"deep":              strings.Repeat(`{"items":[`, 20000),
	} {
		if status, code := a.post([]byte(body)); status != http.StatusBadRequest || code == "" {
			t.Errorf("%s: %d %s", why, status, code)
		}
	}
	r := a.do(t.Context(), http.MethodPost, link.PathObserved, nil)
	if status, _ := read(t, r); status != http.StatusUnsupportedMediaType {
		t.Errorf("no content type: %d", status)
	}
	if d := cmp.Diff(before, h.snapshot()); d != "" {
		t.Errorf("something was written (-before +after):\n%s", d)
	}
}

// TestWhatWasMadeAnewHasItsOwnReports makes a configuration anew after a deletion
// by force: late reports of the former one, of the same generation, do not count.
func TestWhatWasMadeAnewHasItsOwnReports(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.OperationID = "new" })
	a := h.edge()
	report := func(operation string, deleted bool, generation int64) {
		t.Helper()
		o := accept("apps", generation, nil)
		if deleted {
			o = link.Observed{ID: o.ID, Generation: generation, Deleted: true}
		}
		o.OperationID = operation
		if status, code := a.report(nil, o); status != http.StatusOK {
			t.Fatalf("%d %s", status, code)
		}
	}
	report("old", false, 1)
	if r, _ := h.get(configID(edgeID, "apps")); len(r.Observed) != 0 {
		t.Errorf("a report of the former one was written: %s", r.Observed)
	}
	report("new", false, 1)
	if r, _ := h.get(configID(edgeID, "apps")); observedConfig(t, r).AcceptedGeneration != 1 {
		t.Errorf("its own report: %s", r.Observed)
	}
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.OperationID, d.Deleting = "gone", true })
	report("old", true, 2)
	if _, found := h.get(configID(edgeID, "apps")); !found {
		t.Error("a deletion of the former one has removed it")
	}
	report("gone", true, 2)
	if _, found := h.get(configID(edgeID, "apps")); found {
		t.Error("its own deletion has not removed it")
	}
}

// TestAgentsMayBeNewer reports with fields that this hub does not know: what it
// does know counts, and nothing of the rest is kept.
func TestAgentsMayBeNewer(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "apps", nil)
	a := h.edge()
	body := fmt.Sprintf(`{"session":"s","sequence":1,"mood":"good","heartbeat":{"agentVersion":"99.0.0","phaseOfMoon":1},"items":[{"id":%q,"generation":1,`+
		`"novelty":{"deep":[1]},"configuration":{"acceptedGeneration":1,"statuses":[],"novelty":"kept?"}}]}`, configID(edgeID, "apps"))
	if status, code := a.post([]byte(body)); status != http.StatusOK {
		t.Fatalf("%d %s", status, code)
	}
	r, _ := h.get(configID(edgeID, "apps"))
	if o := observedConfig(t, r); o.AcceptedGeneration != 1 || strings.Contains(string(r.Observed), "novelty") {
		t.Errorf("observed: %s", r.Observed)
	}
	if c, _ := h.get(edgeID); !strings.Contains(string(c.Observed), "99.0.0") || strings.Contains(string(c.Observed), "phaseOfMoon") {
		t.Errorf("the cluster: %s", c.Observed)
	}
}
