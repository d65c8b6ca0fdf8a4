package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

// together is a store in which the first so many lists of a collection wait for
// each other, as those of requests that come at the same moment.
type together struct {
	store.Store
	prefix  string
	missing sync.WaitGroup
	left    atomic.Int64
}

func (s *together) List(ctx context.Context, l store.List) ([]store.Record, store.Page, error) {
	records, page, err := s.Store.List(ctx, l)
	if l.Prefix == s.prefix && s.left.Add(-1) >= 0 {
		s.missing.Done()
		s.missing.Wait()
	}
	return records, page, err
}

// TestOneExtensionOfManyAtOnce makes extensions of several names at the same
// moment: each finds none when it looks first.
func TestOneExtensionOfManyAtOnce(t *testing.T) {
	const many = 4
	s := &together{prefix: strings.ToLower(inExtensions) + "/"}
	h := start(t, func(c *Config) { s.Store, c.Store = c.Store, s })
	h.furnish()
	s.missing.Add(many)
	s.left.Store(many)
	put := func(i int) answered {
		return h.send("PUT", fmt.Sprintf("%s/e%d?api-version=2023-05-01", inExtensions, i), `{"properties":{"extensionType":"microsoft.flux"}}`)
	}
	var group sync.WaitGroup
	made := make([]answered, many)
	for i := range made {
		group.Go(func() { made[i] = put(i) })
	}
	group.Wait()
	there := 0
	for i, a := range made {
		if a.status != 201 && a.code() != "Conflict" {
			t.Errorf("extension %d: %d %s", i, a.status, a.body)
		}
		if h.send("GET", fmt.Sprintf("%s/e%d?api-version=2023-05-01", inExtensions, i), "").status == 200 {
			there++
		}
	}
	if there > 1 {
		t.Errorf("the cluster has %d extensions of a type that it can have once", there)
	}
	if there == 0 {
		if a := put(0); a.status != 201 {
			t.Errorf("a later try: %d %s", a.status, a.body)
		}
	}
}

// TestTwoFirstConfigurations has both bring the extension: the one that is slower
// goes on with what is there, and its attempt counts as a conflict, not a fault.
func TestTwoFirstConfigurations(t *testing.T) {
	s := &before{key: strings.ToLower(inExtensions) + "/flux"}
	var statuses []int
	h := start(t, func(c *Config) {
		s.Store, c.Store = c.Store, s
		c.Gates = append(c.Gates, func(_ context.Context, a *auth.Attempt, next func() error) error {
			err := next()
			if strings.HasSuffix(a.Action, "/extensions/write") {
				statuses = append(statuses, a.Status)
			}
			return err
		})
	})
	h.furnish()
	quicker := func() { h.must(201, "PUT", path(inConfigurations+"/quicker", "2025-04-01"), gitBody) }
	s.do.Store(&quicker)
	h.must(201, "PUT", path(inConfigurations+"/slower", "2025-04-01"), gitBody)
	if d := cmp.Diff([]int{200, 409}, statuses); d != "" {
		t.Errorf("attempts to make the extension (-want +got):\n%s", d)
	}
}

// before does something, once, before a record is written.
type before struct {
	store.Store
	key string
	do  atomic.Pointer[func()]
}

func (s *before) Put(ctx context.Context, put store.Put) (store.Record, error) {
	if put.Key == s.key && put.Part == store.Desired {
		if do := s.do.Swap(nil); do != nil {
			(*do)()
		}
	}
	return s.Store.Put(ctx, put)
}

// TestTheExtensionGoesWhileAConfigurationComes lets each of the two requests be
// whole between the look and the write of the other: there is never a
// configuration without an extension that carries it.
func TestTheExtensionGoesWhileAConfigurationComes(t *testing.T) {
	extension, configuration := inExtensions+"/flux", inConfigurations+"/apps"
	for why, key := range map[string]string{"a configuration comes while the extension goes": extension, "the extension goes while a configuration comes": configuration} {
		t.Run(why, func(t *testing.T) {
			s := &before{key: strings.ToLower(key)}
			h := start(t, func(c *Config) { s.Store, c.Store = c.Store, s })
			h.furnish()
			h.must(201, "PUT", path(extension, "2023-05-01"), `{"properties":{"extensionType":"microsoft.flux"}}`)
			h.accept(extension)
			come := func() answered { return h.send("PUT", path(configuration, "2023-05-01"), gitBody) }
			leave := func() answered { return h.send("DELETE", path(extension, "2023-05-01"), "") }
			first, second := come, leave
			if key == extension {
				first, second = leave, come
			}
			var inner answered
			do := func() { inner = second() }
			s.do.Store(&do)
			outer := first()
			if inner.status >= 300 || outer.status != 409 {
				t.Errorf("the one in between: %d %s; the other: %d %s", inner.status, inner.body, outer.status, outer.body)
			}
			e := h.send("GET", path(extension, "2023-05-01"), "")
			there := h.send("GET", path(configuration, "2023-05-01"), "").status == 200
			if deleting := e.status != 200 || e.property(t, "properties.provisioningState") == resource.Deleting; there && deleting || !there && !deleting {
				t.Errorf("the configuration is there: %v, and the extension is %s", there, e.body)
			}
			if running := h.must(200, "GET", path(strings.TrimSuffix(inConfigurations, "/fluxConfigurations")+"/operations", "2023-05-01"), ""); len(running.object(t)["value"].([]any)) > 2 {
				t.Errorf("operations that nobody knows of: %s", running.body)
			}
		})
	}
}

// TestSilenceIsNoCompliance looks at what an agent said last, hours and months
// after.
func TestSilenceIsNoCompliance(t *testing.T) {
	now := time.Now()
	said := resource.FluxConfigurationObserved{ComplianceState: resource.Compliant}
	for name, c := range map[string]struct {
		ago  time.Duration
		want string
	}{
		"just now":   {time.Second, resource.Compliant},
		"hours ago":  {resource.OfflineAfter + time.Hour, resource.Unknown},
		"months ago": {resource.ExpiredAfter + time.Hour, resource.Unknown},
	} {
		at := now.Add(-c.ago)
		if got := compliance(entry[fluxProperties]{}, said, resource.ClusterObserved{LastConnectivityTime: &at}, now); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestDeletionsThatWereCutOffGoOn marks a cluster and a group as a hub does that
// is killed right after, and has them made again.
func TestDeletionsThatWereCutOffGoOn(t *testing.T) {
	h := start(t)
	body := `{"location":"local","properties":{"agentPublicKeyCertificate":"` + testCertificate() + `"}}`
	for id, version := range map[string]string{inCluster: "2024-01-01", inGroup: "2022-09-01"} {
		h.treasure()
		r := h.record(id)
		marked := strings.Replace(string(r.Desired), `"updatedAt"`, `"deleting":true,"updatedAt"`, 1)
		if _, err := h.store.Put(t.Context(), store.Put{Key: r.Key, Value: []byte(marked), Expect: r.Revision}); err != nil {
			t.Fatal(err)
		}
		if a := h.send("PUT", id+"?api-version="+version, body); a.status != 409 || !strings.Contains(a.body, "is being deleted") {
			t.Fatalf("%s, while it is marked: %d %s", id, a.status, a.body)
		}
		deadline := time.Now().Add(10 * time.Second)
		for h.send("GET", id+"?api-version="+version, "").status != 404 {
			if time.Now().After(deadline) {
				t.Fatalf("%s is still there", id)
			}
		}
		h.must(201, "PUT", id+"?api-version="+version, body)
		h.must(200, "DELETE", inGroup+"?api-version=2022-09-01", "")
	}
}

// TestAClusterHasAsManyAsItsAgentIsToldOf fills a cluster.
func TestAClusterHasAsManyAsItsAgentIsToldOf(t *testing.T) {
	h := start(t)
	h.treasure()
	for i := range resource.MaxItems - 3 { // there are the extension and one configuration
		key := fmt.Sprintf("%s/c%d", strings.ToLower(inConfigurations), i)
		if _, err := h.store.Put(t.Context(), store.Put{Key: key, Value: []byte(`{"name":"c"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	body := `{"properties":{"sourceKind":"GitRepository","gitRepository":{"url":"https://git.example/x","repositoryRef":{"branch":"main"}},"kustomizations":{"a":{"path":"./x"}}}}`
	h.must(201, "PUT", inConfigurations+"/last?api-version=2023-05-01", body)
	if a := h.send("PUT", inConfigurations+"/more?api-version=2023-05-01", body); a.status != 409 || a.code() != "LimitReached" {
		t.Errorf("one more: %d %s", a.status, a.body)
	}
	h.must(200, "PUT", inConfigurations+"/last?api-version=2023-05-01", strings.Replace(body, "./x", "./y", 1))
}

// TestAClusterHasAsManyBytesAsItsAgentIsToldOf fills a cluster with large
// configurations, and asks for one that is too large by itself.
func TestAClusterHasAsManyBytesAsItsAgentIsToldOf(t *testing.T) {
	h := start(t)
	h.treasure()
	for i := range 32 {
		key, value := fmt.Sprintf("%s/c%d", strings.ToLower(inConfigurations), i), `{"name":"`+strings.Repeat("c", 1<<20-400)+`"}`
		if _, err := h.store.Put(t.Context(), store.Put{Key: key, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	body := func(path string, n int) string {
		var ks []string
		for i := range n {
			ks = append(ks, fmt.Sprintf(`"k%d":{"path":"%s"}`, i, path))
		}
		return `{"properties":{"sourceKind":"GitRepository","gitRepository":{"url":"https://git.example/x","repositoryRef":{"branch":"main"}},"kustomizations":{` +
			strings.Join(ks, ",") + `}}}`
	}
	put := func(name, body string) answered {
		return h.send("PUT", inConfigurations+"/"+name+"?api-version=2023-05-01", body)
	}
	if a := put("small", body("./x", 1)); a.status != 201 { // there is a little room left
		t.Errorf("a small one: %d %s", a.status, a.body)
	}
	if a := put("large", body("./x", 500)); a.status != 409 || a.code() != "LimitReached" {
		t.Errorf("one more that is large: %d %s", a.status, a.body)
	}
	if a := put("small", body("./x", 500)); a.status != 409 || a.code() != "LimitReached" {
		t.Errorf("one that becomes large: %d %s", a.status, a.body)
	}
	if a := put("small", body("./y", 1)); a.status != 200 {
		t.Errorf("a change that needs no more: %d %s", a.status, a.body)
	}
	before := len(keysBelow(t, h, inConfigurations))
	if a := put("huge", body("./x", 10000)); a.status != 400 || a.code() != arm.CodeValidationFailed || !strings.Contains(a.body, "make several of it") {
		t.Errorf("one that has too many bytes with its defaults: %d %.200s", a.status, a.body)
	}
	if after := len(keysBelow(t, h, inConfigurations)); after != before {
		t.Errorf("what was refused left %d records", after-before)
	}
}

// TestListsDoNotReadWhatIsBelow lists groups of which some have much in them, and
// whose names begin alike.
func TestListsDoNotReadWhatIsBelow(t *testing.T) {
	reads := &counting{}
	h := start(t, func(c *Config) { reads.Store = c.Store; c.Store = reads; c.PageSize = 2 })
	var want []string
	for _, name := range []string{"a", "a-b", "a.c", "ab", "b"} {
		id := inSubscription + "/resourceGroups/" + name
		h.must(201, "PUT", path(id, "2022-09-01"), `{"location":"local"}`)
		want = append(want, name)
		for i := range 2000 {
			if _, err := h.store.Put(t.Context(), store.Put{Key: fmt.Sprintf("%s/providers/microsoft.kubernetes/connectedclusters/c%d", arm.Fold(id), i), Value: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	reads.records.Store(0)
	var got []string
	for next := path(inSubscription+"/resourceGroups", "2022-09-01"); next != ""; {
		var page struct {
			Value    []struct{ Name string }
			NextLink string
		}
		if err := json.Unmarshal([]byte(h.must(200, "GET", next, "").body), &page); err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Value {
			got = append(got, v.Name)
		}
		next = strings.TrimPrefix(page.NextLink, h.server.URL)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("groups (-want +got):\n%s", d)
	}
	if n := reads.records.Load(); n > 1000 {
		t.Errorf("%d of 10000 records were read for it", n)
	}
}

// counting counts the records that lists read.
type counting struct {
	store.Store
	records atomic.Int64
}

func (c *counting) List(ctx context.Context, l store.List) ([]store.Record, store.Page, error) {
	records, page, err := c.Store.List(ctx, l)
	c.records.Add(int64(len(records)))
	return records, page, err
}
