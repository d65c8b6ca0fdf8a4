package apply

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"headwater.dev/kernel/tenant"
)

// still is a Watcher without a cluster: the tests are its watches.
type still struct {
	*testing.T
	*Watcher
	woken []string
}

func newStill(t *testing.T) *still {
	s := &still{T: t}
	s.Watcher = NewWatcher("kustomize-controller", testGroup, func(n types.NamespacedName) { s.woken = append(s.woken, n.Name) })
	return s
}

// of is an owner; all are in one namespace under one service account.
func of(name string) Tenant {
	return Tenant{Owner: types.NamespacedName{Namespace: "n", Name: name}, Identity: tenant.Identity{Namespace: "n", ServiceAccount: "t"}}
}

// web is an object of some kind at a version, of an owner or of nobody.
func web(version, owner string) *unstructured.Unstructured {
	u := newObject("Site", "web")
	u.SetAPIVersion("example.com/v1")
	u.SetNamespace("n")
	u.SetUID("1")
	u.SetResourceVersion(version)
	if owner != "" {
		u.SetLabels(map[string]string{testGroup + "/name": owner, testGroup + "/namespace": "n"})
	}
	return u
}

var (
	webRef   = RefOf(web("", ""))
	labelled = scopeKey{family: family{identity: of("").Identity, owners: "n", gvk: webRef.GVK()}}
	byName   = namedKey(of(""), webRef)
)

// says is a judge of one opinion.
func says(h Health) Judge {
	return Judge{webRef.GroupKind: {Text: string(h), Health: func(*unstructured.Unstructured) (Health, string, bool) { return h, "", true }}}
}

func (s *still) owns(name string, j Judge) {
	s.Track(Interest{Tenant: of(name), Objects: []Ref{webRef}, Judge: j})
}
func (s *still) waits(name string, j Judge) {
	s.Track(Interest{Tenant: of(name), Others: []Ref{webRef}, Judge: j})
}

// lists ends the first lists of all watches; what they woke is over.
func (s *still) lists(version string) {
	for _, scope := range s.scopes {
		s.listed(scope, version)
	}
	s.woken = nil
}

func (s *still) event(key scopeKey, u *unstructured.Unstructured) {
	s.Helper()
	if s.scopes[key] == nil {
		s.Fatalf("nobody watches %v", key)
	}
	s.changed(s.scopes[key], webRef.ID, u, u)
}

func (s *still) wakes(why string, want ...string) {
	s.Helper()
	slices.Sort(s.woken)
	if d := cmp.Diff(want, s.woken); d != "" {
		s.Errorf("%s: %s", why, d)
	}
	s.woken = nil
}

func (s *still) sees(name string, want Health) {
	s.Helper()
	l, known := s.Live(of(name), webRef)
	if !known || l.Unjudged || l.Exists && l.Health != want || l.Exists != (want != NotFound) {
		s.Errorf("%s sees %s (exists %v, known %v, unjudged %v), want %s", name, l.Health, l.Exists, known, l.Unjudged, want)
	}
}

// TestRulesAreAskedOutsideTheLock: a user's expressions take up to half a second
// for each object, and everybody needs the lock.
func TestRulesAreAskedOutsideTheLock(t *testing.T) {
	s := newStill(t)
	asked := 0
	s.owns("a", Judge{webRef.GroupKind: {Text: "x", Health: func(*unstructured.Unstructured) (Health, string, bool) {
		if asked++; !s.mu.TryLock() {
			t.Error("a rule is asked under the lock")
			return Current, "", true
		}
		s.mu.Unlock()
		return Current, "", true
	}}})
	s.lists("1")
	s.event(labelled, web("2", "a"))
	s.observed(of("a"), webRef, web("3", "a"))
	if s.sees("a", Current); asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}

// TestWhatIsGivenUpIsNoVerdict: a rule that took too long is asked again about
// the same version, and does not count for less than it said before.
func TestWhatIsGivenUpIsNoVerdict(t *testing.T) {
	s := newStill(t)
	decided := false
	s.owns("a", Judge{webRef.GroupKind: {Text: "x", Health: func(*unstructured.Unstructured) (Health, string, bool) {
		if !decided {
			return InProgress, "too slow", false
		}
		return Current, "", true
	}}})
	s.lists("1")
	s.event(labelled, web("2", "a"))
	s.wakes("the object is to be read", "a")
	if l, _ := s.Live(of("a"), webRef); !l.Unjudged || l.Health != InProgress || l.Message != "too slow" {
		t.Errorf("live %+v", l)
	}
	decided = true
	if l := s.observed(of("a"), webRef, web("2", "a")); l.Unjudged || l.Health != Current {
		t.Errorf("observed %+v", l)
	}
	s.sees("a", Current)
	decided = false
	if l := s.observed(of("a"), webRef, web("2", "a")); !l.Unjudged {
		t.Errorf("observed %+v", l)
	}
	s.sees("a", Current)
}

// TestOneReadsForAll: what one owner reads, the watch tells no other any more.
func TestOneReadsForAll(t *testing.T) {
	s := newStill(t)
	for _, name := range []string{"a", "b", "c"} {
		s.Track(Interest{Tenant: of(name), Others: []Ref{webRef}, Versions: name != "c"})
	}
	s.event(byName, web("5", ""))
	s.lists("5")
	s.Saw(of("b"), webRef, web("5", ""))
	s.wakes("nothing new")
	s.Saw(of("a"), webRef, web("6", ""))
	s.wakes("b has read the version before", "b")
	s.event(byName, web("6", ""))
	s.wakes("all know it")
	s.Saw(of("b"), webRef, web("5", ""))
	s.event(byName, web("6", ""))
	s.wakes("an answer that comes late is nothing new")
}

// TestOneMakesWhatAnotherWaitsFor: the answer to the apply is seen before the
// event of the watch, which is nothing new then.
func TestOneMakesWhatAnotherWaitsFor(t *testing.T) {
	s := newStill(t)
	s.owns("a", nil)
	s.waits("b", nil)
	s.lists("5")
	s.observed(of("a"), webRef, web("6", "a"))
	s.wakes("it is there", "b")
	s.event(byName, web("6", "a"))
	s.event(labelled, web("6", "a"))
	s.wakes("all know it")
	s.observed(of("b"), webRef, web("7", ""))
	s.wakes("a look does not tell of labels that went: the watch does")
	s.sees("b", Current)
}

// TestAnswersThatAreOver: an object whose deletion was seen is not brought back
// by an answer from before.
func TestAnswersThatAreOver(t *testing.T) {
	s := newStill(t)
	s.owns("a", nil)
	s.lists("5")
	s.event(labelled, web("6", "a"))
	s.gone(s.scopes[labelled], webRef.ID, "7")
	s.observed(of("a"), webRef, web("6", "a"))
	s.sees("a", NotFound)
	s.observed(of("a"), webRef, web("8", "a"))
	s.sees("a", Current)
}

// TestEachOwnerJudgesForItself: those who look at one object may have other
// ideas of its health than its owner, and than each other.
func TestEachOwnerJudgesForItself(t *testing.T) {
	s := newStill(t)
	s.owns("a", nil)
	s.waits("b", says(InProgress))
	s.waits("c", says(Failed))
	s.waits("d", nil)
	s.lists("1")
	all := func() {
		t.Helper()
		s.sees("a", Current)
		s.sees("b", InProgress)
		s.sees("c", Failed)
		s.sees("d", Current)
	}
	s.event(labelled, web("2", "a"))
	s.event(byName, web("2", "a"))
	all()
	s.observed(of("a"), webRef, web("3", "a"))
	all()
	s.observed(of("b"), webRef, web("3", "a"))
	all()
}

// TestEachBelievesWhatWakesIt: of two watches one is behind. An owner that went
// by the other one would be told nothing when that gets on.
func TestEachBelievesWhatWakesIt(t *testing.T) {
	s := newStill(t)
	s.owns("a", nil)
	s.waits("b", nil)
	s.lists("1")
	failed := web("3", "a")
	failed.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Stalled", "status": "True"}}}
	s.event(labelled, web("2", "a"))
	s.event(byName, web("2", "a"))
	s.event(byName, failed)
	s.sees("b", Failed)
	s.event(labelled, failed)
	s.woken = nil
	s.gone(s.scopes[byName], webRef.ID, "4")
	s.wakes("it is gone", "b")
	s.sees("b", NotFound)

	s.event(byName, web("5", "a"))
	s.event(labelled, web("5", "a"))
	s.woken = nil
	s.gone(s.scopes[labelled], webRef.ID, "6")
	s.wakes("it is gone", "a")
	s.sees("a", NotFound)
}

// TestAnotherRuleIsAsked: an object that is not applied does not change because
// the idea of its health does.
func TestAnotherRuleIsAsked(t *testing.T) {
	s := newStill(t)
	s.waits("b", says(Failed))
	s.lists("1")
	s.event(byName, web("2", ""))
	s.sees("b", Failed)
	s.waits("b", says(Failed))
	s.sees("b", Failed)
	s.waits("b", says(Current))
	if l, _ := s.Live(of("b"), webRef); !l.Unjudged {
		t.Errorf("what the rule before said counts: %+v", l)
	}
	s.observed(of("b"), webRef, web("2", ""))
	s.sees("b", Current)
}

// TestBrokenWatches: what a watch told that has been broken for long counts for
// nothing, and its owners look for themselves.
func TestBrokenWatches(t *testing.T) {
	s := newStill(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	s.owns("a", nil)
	s.lists("1")
	l := s.observed(of("a"), webRef, web("2", "a"))
	s.setReceipt(of("a").Owner, webRef.ID, receipt{want: "w", fields: l.Fields, uid: l.UID})
	scope, broken := s.scopes[labelled], apierrors.NewInternalError(errors.New("conversion webhook is down"))
	trusted := func(why string, want bool) {
		t.Helper()
		_, known := s.Live(of("a"), webRef)
		_, lost := s.Lost(of("a").Owner)
		if s.Undisturbed(of("a").Owner) != want || known != want || lost == want || len(s.Blind(of("a").Owner)) == 0 != want {
			t.Errorf("%s: trusted is not %v", why, want)
		}
	}
	fails := func(err error, after time.Duration) {
		now = now.Add(after)
		_ = s.judgeError(scope, true, err)
	}
	trusted("at first", true)
	fails(apierrors.NewTooManyRequests("later", 1), 0)
	fails(apierrors.NewTooManyRequests("later", 1), 2*patienceWithWatch)
	trusted("a busy server is no broken watch", true)
	fails(broken, 0)
	fails(errors.New("dial tcp: i/o timeout"), patienceWithWatch-1)
	s.recovered(scope)
	fails(broken, time.Second)
	s.wakes("it came again in time")
	trusted("it came again in time", true)
	fails(broken, patienceWithWatch)
	fails(broken, patienceWithWatch)
	s.wakes("once", "a")
	trusted("broken", false)
	if !s.Synced(of("a").Owner) {
		t.Error("a broken watch is waited for")
	}
	s.recovered(scope)
	s.wakes("it works again", "a")
	trusted("it works again", true)
	fails(broken, 0)
	fails(broken, patienceWithWatch)
	s.woken = nil
	s.listed(scope, "3")
	s.wakes("a list is as good", "a")
	trusted("listed", true)
}

// TestTenantsComeAndGo: nothing is kept of kinds that nobody watches, and who
// comes again may be allowed more.
func TestTenantsComeAndGo(t *testing.T) {
	s := newStill(t)
	s.owns("a", nil)
	s.owns("b", nil)
	wide, narrow := s.scopes[labelled], labelled
	narrow.namespace = "n"
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "sites"}, "", nil)
	_ = s.judgeError(wide, true, forbidden)
	if len(s.scopes) != 1 || s.scopes[narrow] == nil || len(s.scopes[narrow].users) != 2 {
		t.Fatalf("scopes %v", s.scopes)
	}
	s.Forget(of("a").Owner)
	s.waits("b", nil)
	s.owns("b", nil)
	_ = s.judgeError(wide, true, forbidden) // late
	s.Forget(of("b").Owner)
	if len(s.scopes)+len(s.kinds) != 0 {
		t.Errorf("left behind: %v, %v", s.scopes, s.kinds)
	}
	if s.owns("a", nil); s.scopes[labelled] == nil {
		t.Error("the whole cluster is not tried again")
	}
}
