package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"headwater.dev/api/resource"
)

const (
	// duplicateReturns is how often former processes have to come back, and
	// duplicateAfter for how long at least, until there must be two clusters with
	// one key. The two agents of a rolling update overlap for less.
	duplicateReturns, duplicateAfter = 10, 2 * time.Minute
	// duplicateWithin is when returns count together.
	duplicateWithin = 15 * time.Minute
	// lastingReturns is how often one process has to come back, each time at least
	// lastingApart after the last, and lastingWithin of each other, however seldom
	// they come. Fewer are those of an agent on a node that was cut off, whose place
	// another has taken: it comes back with its node, and is ended soon.
	lastingReturns, lastingApart, lastingWithin = 3, 5 * time.Minute, 7 * 24 * time.Hour
	// formerSessions is how many are remembered.
	formerSessions = 6
)

// duplicateMark is in the observed part of a cluster whose agents are shut out.
const duplicateMark = `"duplicateAt"`

func errDuplicate() error {
	return &refusal{status: http.StatusForbidden, code: "ClusterIdentityDuplicated", after: time.Minute,
		message: "two agents use the key of this cluster, so both are shut out: connect the right cluster again with a new key (headwater connectedk8s connect --new-key)"}
}

// visit is a process that comes with a cluster's key.
type visit struct {
	// session is how it names itself.
	session string
	// asks says that it wants to know what is desired; else it reports.
	asks bool
	// now is when it came.
	now time.Time
}

// introduce notes which process comes for a cluster. When a process comes back
// after others have taken its place, again and again or for a long time, there
// are two with the same key: a copy of the cluster, or a thief. Nobody can tell
// which is which, so both are shut out until the cluster gets a new key.
func (g *Gateway) introduce(ctx context.Context, c cluster, v visit, also func(*resource.ClusterObserved), connected bool) error {
	v.now = g.clock().UTC()
	shut := false
	err := g.seen(ctx, c, func(o *resource.ClusterObserved) {
		if also != nil {
			also(o)
		}
		o.Agents = meet(o.Agents, c.fingerprint, v)
		shut = o.Duplicated(c.fingerprint)
	}, connected)
	if err != nil || !shut {
		return err
	}
	g.log.Error("two agents use one cluster's key: both are shut out", "cluster", c.record.Key)
	g.happened(ctx, Happening{Cluster: c.id, Action: actionConnect, Status: http.StatusForbidden, Code: "ClusterIdentityDuplicated"})
	return errDuplicate()
}

// met reports whether a visit would change nothing.
func met(c cluster, v visit) bool {
	return meet(c.observed.Agents, c.fingerprint, v) == c.observed.Agents
}

// meet is what is known of a cluster's agents after a visit.
func meet(a resource.Agents, key string, v visit) resource.Agents {
	sum := sha256.Sum256([]byte(v.session)) // an agent chooses its name; the store need not keep that
	name := hex.EncodeToString(sum[:8])
	mine := seat{name: name, asked: v.asks && v.session != ""}
	if a.Key != key {
		return resource.Agents{Key: key, Session: mine.String()}
	}
	present, former := readSeat(a.Session), readSeats(a.Former)
	switch {
	case v.asks && v.session == "" && !present.asked:
		return a // an agent of a former version names itself in its reports only
	case present.name == name:
		if mine.asked && !present.asked {
			present.asked = true
			a.Session = present.String()
		}
		return a
	}
	former = append(former, present)
	if i := slices.IndexFunc(former, func(s seat) bool { return s.name == name }); i >= 0 {
		mine.asked, mine.returns, mine.returned = mine.asked || former[i].asked, former[i].returns, former[i].returned
		former = slices.Delete(former, i, i+1)
		if a.Since.IsZero() || v.now.Sub(a.Since) > duplicateWithin {
			a.Since, a.Returns = v.now, 0
		}
		a.Returns++
		often := a.Returns >= duplicateReturns && v.now.Sub(a.Since) >= duplicateAfter
		mine.back(v.now)
		if often || mine.returns >= lastingReturns {
			a.DuplicateAt = v.now
		}
	}
	former = former[max(0, len(former)-formerSessions):]
	a.Former, a.Session = writeSeats(former), mine.String()
	return a
}

// seat is a process that speaks for a cluster, as the record keeps it.
type seat struct {
	name string
	// asked says that it named itself when it asked what is desired.
	asked bool
	// returns is how often it has come back, counted once in a while, and returned
	// when it last did, in Unix time.
	returns  int
	returned int64
}

// back counts a return.
func (s *seat) back(now time.Time) {
	switch since := now.Sub(time.Unix(s.returned, 0)); {
	case since < lastingApart:
	case since > lastingWithin:
		s.returns, s.returned = 1, now.Unix()
	default:
		s.returns, s.returned = s.returns+1, now.Unix()
	}
}

func (s seat) String() string {
	if !s.asked && s.returns == 0 {
		return s.name
	}
	asked := ""
	if s.asked {
		asked = "a"
	}
	return fmt.Sprintf("%s:%s:%d:%d", s.name, asked, s.returns, s.returned)
}

// readSeat reads what String wrote; of a hub of a former version only the name is
// there.
func readSeat(text string) seat {
	parts := append(strings.Split(text, ":"), "", "", "")
	s := seat{name: parts[0], asked: parts[1] == "a"}
	s.returns, _ = strconv.Atoi(parts[2])
	s.returned, _ = strconv.ParseInt(parts[3], 10, 64)
	return s
}

func readSeats(text string) []seat {
	var all []seat
	for one := range strings.FieldsSeq(text) {
		all = append(all, readSeat(one))
	}
	return all
}

func writeSeats(all []seat) string {
	var text []string
	for _, s := range all {
		text = append(text, s.String())
	}
	return strings.Join(text, " ")
}
