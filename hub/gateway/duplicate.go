package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	// duplicateOverlap is how long two processes have to live side by side: one
	// return is then enough, however seldom they come.
	duplicateOverlap = 5 * time.Minute
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
	// now is when it came, heard when anybody came with that key before.
	now, heard time.Time
}

// introduce notes which process comes for a cluster. When a process comes back
// after others have taken its place, again and again or after a long time, there
// are two with the same key: a copy of the cluster, or a thief. Nobody can tell
// which is which, so both are shut out until the cluster gets a new key.
func (g *Gateway) introduce(ctx context.Context, c cluster, v visit, also func(*resource.ClusterObserved), connected bool) error {
	v.now = g.clock().UTC()
	shut := false
	err := g.seen(ctx, c, func(o *resource.ClusterObserved) {
		if also != nil {
			also(o)
		}
		v.heard = time.Time{}
		if o.LastConnectivityTime != nil {
			v.heard = *o.LastConnectivityTime
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
	name, now := hex.EncodeToString(sum[:8]), v.now.Unix()
	mine := seat{name: name, first: now, last: now, asked: v.asks && v.session != ""}
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
	present.last = max(present.last, v.heard.Unix())
	former = append(former, present)
	if i := slices.IndexFunc(former, func(s seat) bool { return s.name == name }); i >= 0 {
		mine.first, mine.asked = former[i].first, mine.asked || former[i].asked
		former = slices.Delete(former, i, i+1)
		if a.Since.IsZero() || v.now.Sub(a.Since) > duplicateWithin {
			a.Since, a.Returns = v.now, 0
		}
		a.Returns++
		often := a.Returns >= duplicateReturns && v.now.Sub(a.Since) >= duplicateAfter
		long := slices.ContainsFunc(former, func(s seat) bool { return mine.beside(s) >= duplicateOverlap })
		if often || long {
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
	// first and last are when it was heard of, in Unix time.
	first, last int64
	// asked says that it named itself when it asked what is desired.
	asked bool
}

// beside is for how long s, who is here now, and another one lived side by side
// as far as is known.
func (s seat) beside(other seat) time.Duration {
	return time.Duration(other.last-max(s.first, other.first)) * time.Second
}

func (s seat) String() string {
	text := s.name + ":" + strconv.FormatInt(s.first, 10) + ":" + strconv.FormatInt(s.last, 10)
	if s.asked {
		text += ":a"
	}
	return text
}

// readSeat reads what String wrote; of a hub of a former version only the name is
// there.
func readSeat(text string) seat {
	parts := append(strings.Split(text, ":"), "", "", "")
	s := seat{name: parts[0], asked: parts[3] == "a"}
	s.first, _ = strconv.ParseInt(parts[1], 10, 64)
	s.last, _ = strconv.ParseInt(parts[2], 10, 64)
	if s.first == 0 {
		s.first = s.last
	}
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
