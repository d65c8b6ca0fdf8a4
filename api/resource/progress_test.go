package resource

import (
	"testing"
	"time"
)

func TestProgressState(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	refused := &ErrorDetail{Code: "Refused", Message: "no"}
	cases := map[string]struct {
		why  string
		in   Progress
		want string
		code string
	}{
		"created":        {"nobody has taken generation 1", Progress{Generation: 1, UpdatedAt: now}, Creating, ""},
		"updated":        {"an older generation was taken", Progress{Generation: 3, AcceptedGeneration: 2, UpdatedAt: now}, Updating, ""},
		"taken":          {"acceptance ends the change", Progress{Generation: 3, AcceptedGeneration: 3, UpdatedAt: now}, Succeeded, ""},
		"refused":        {"the agent said no", Progress{Generation: 3, AcceptedGeneration: 3, Error: refused, UpdatedAt: now}, Failed, "Refused"},
		"old refusal":    {"a new generation forgets it", Progress{Generation: 4, AcceptedGeneration: 3, Error: refused, UpdatedAt: now}, Updating, ""},
		"edge of 48 h":   {"still patient", Progress{Generation: 1, UpdatedAt: now.Add(-AgentPatience)}, Creating, ""},
		"past 48 h":      {"patience is over", Progress{Generation: 1, UpdatedAt: now.Add(-AgentPatience - 1)}, Failed, CodeAgentTimeout},
		"deleting":       {"the record goes when done", Progress{Generation: 2, AcceptedGeneration: 2, Deleting: true, UpdatedAt: now}, Deleting, ""},
		"delete refused": {"the agent could not", Progress{Generation: 2, AcceptedGeneration: 2, Deleting: true, Error: refused, UpdatedAt: now}, Failed, "Refused"},
		"waiting":        {"not compliant yet", Progress{Generation: 1, AcceptedGeneration: 1, Wait: true, WaitUntil: now.Add(1), UpdatedAt: now}, Creating, ""},
		"waited":         {"compliant", Progress{Generation: 1, AcceptedGeneration: 1, Wait: true, Settled: true, UpdatedAt: now}, Succeeded, ""},
		"asked again":    {"a request is on its way", Progress{Generation: 3, AcceptedGeneration: 2, UpdatedAt: now, Changed: &Change{2, now.Add(-72 * time.Hour)}}, Updating, ""},
		"asked in vain": {"nobody took the request in time: the change stands", Progress{Generation: 3, AcceptedGeneration: 2, UpdatedAt: now.Add(-AgentPatience - 1),
			Changed: &Change{2, now.Add(-72 * time.Hour)}}, Succeeded, ""},
		"asked for what nobody has": {"a request does not make a change live longer", Progress{Generation: 2, UpdatedAt: now,
			Changed: &Change{1, now.Add(-AgentPatience - 1)}}, Failed, CodeAgentTimeout},
		"asked while new": {"the creation is still awaited", Progress{Generation: 2, UpdatedAt: now, Changed: &Change{1, now.Add(-time.Hour)}}, Creating, ""},
		"waited too long": {"time is up", Progress{Generation: 1, AcceptedGeneration: 1, Wait: true, WaitUntil: now.Add(-1), UpdatedAt: now}, Failed, "ReconciliationTimeout"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			state, err := c.in.State(now)
			code := ""
			if err != nil {
				code = err.Code
			}
			if state != c.want || code != c.code {
				t.Errorf("%s: got %s %q, want %s %q", c.why, state, code, c.want, c.code)
			}
		})
	}
}

func TestConnectivity(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) ClusterObserved {
		v := now.Add(-d)
		return ClusterObserved{LastConnectivityTime: &v}
	}
	for want, o := range map[string]ClusterObserved{
		Connecting: {}, Connected: at(OfflineAfter), Offline: at(OfflineAfter + 1), Expired: at(ExpiredAfter + 1),
	} {
		if got := Connectivity(o, now); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
