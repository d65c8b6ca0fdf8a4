package apply

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// fightWindow and fightCorrections: so many corrections of an object within
	// so much time are a fight.
	fightWindow      = time.Minute
	fightCorrections = 3
	fightFirst       = 10 * time.Second
	fightLongest     = 10 * time.Minute
)

// Fight is an object that somebody else keeps changing back. It is corrected
// again at Until, and ever more seldom while the fight goes on.
type Fight struct {
	Ref
	// Managers are ours and those that write the object.
	Managers []string
	Until    time.Time
	// New is set once for each time the pause gets longer.
	New bool
}

func (f Fight) String() string {
	return fmt.Sprintf("%s: remove the fields from one of them; corrected again at %s", f.Brief(), f.Until.UTC().Format(time.RFC3339))
}

// Brief says who fights about what.
func (f Fight) Brief() string {
	return fmt.Sprintf("%s is changed in turn by the field managers %s", f.Ref, strings.Join(f.Managers, " and "))
}

// corrections of one object.
type corrections struct {
	at    []time.Time
	pause time.Duration
	until time.Time
}

// mayCorrect counts a correction of drift, or refuses it for now.
func (w *Watcher) mayCorrect(owner types.NamespacedName, ref Ref, was receipt, want string, live Live, known bool) *Fight {
	if !known || was.want == "" || was.want != want || was.holds(want, live) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	if t == nil {
		return nil
	}
	c := t.fights[ref.ID]
	if c == nil {
		c = &corrections{}
		t.fights[ref.ID] = c
	}
	until, again := c.correct(w.now())
	if until.IsZero() {
		return nil
	}
	managers := []string{fmt.Sprintf("%q", w.manager)}
	for _, m := range live.Others {
		managers = append(managers, fmt.Sprintf("%q", m))
	}
	if !live.Exists {
		managers = append(managers, "whoever deletes it")
	}
	return &Fight{Ref: ref, Managers: managers, Until: until, New: again}
}

// spare takes back a correction that turned out to change nothing.
func (w *Watcher) spare(owner types.NamespacedName, id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.owners[owner]; t != nil && t.fights[id] != nil {
		if c := t.fights[id]; len(c.at) > 0 {
			c.at = c.at[:len(c.at)-1]
		}
	}
}

// correct decides whether an object may be corrected now: a zero time says
// yes, another one when to look again. It also tells whether a pause began.
func (c *corrections) correct(now time.Time) (until time.Time, began bool) {
	if now.Before(c.until) {
		return c.until, false
	}
	window := max(fightWindow, 2*c.pause)
	kept := c.at[:0]
	for _, at := range c.at {
		if now.Sub(at) < window {
			kept = append(kept, at)
		}
	}
	c.at = kept
	if len(c.at) == 0 {
		c.pause = 0
	}
	limit := fightCorrections
	if c.pause > 0 {
		limit = 1 // one try after each pause
	}
	if len(c.at) < limit || c.pause > 0 && now.Sub(c.at[len(c.at)-1]) >= c.pause {
		c.at = append(c.at, now)
		return time.Time{}, false
	}
	c.pause = min(max(2*c.pause, fightFirst), fightLongest)
	c.until = now.Add(c.pause)
	return c.until, true
}
