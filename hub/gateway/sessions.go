package gateway

import (
	"slices"
	"sync"
	"time"
)

const (
	// keepSessions is how many sessions of one cluster are remembered.
	keepSessions = 8
	// forgetSessions is how long a silent cluster's sessions are remembered.
	forgetSessions = time.Hour
)

// sessions detects repeated reports.
type sessions struct {
	clock func() time.Time

	mu        sync.Mutex
	byCluster map[string]*history
	swept     time.Time
}

// history is one cluster's sessions; its lock also makes the cluster's reports
// follow one another.
type history struct {
	sync.Mutex
	last time.Time
	// sequences of the newest sessions; order is from old to new.
	sequences map[string]int64
	order     []string
}

func newSessions(clock func() time.Time) *sessions {
	return &sessions{clock: clock, byCluster: map[string]*history{}}
}

// enter answers the cluster's history, locked.
func (s *sessions) enter(cluster string) *history {
	s.mu.Lock()
	now := s.clock()
	if now.Sub(s.swept) > forgetSessions {
		s.swept = now
		for key, h := range s.byCluster {
			if now.Sub(h.last) > forgetSessions {
				delete(s.byCluster, key)
			}
		}
	}
	h, ok := s.byCluster[cluster]
	if !ok {
		h = &history{sequences: map[string]int64{}}
		s.byCluster[cluster] = h
	}
	h.last = now
	s.mu.Unlock()
	h.Lock()
	return h
}

// next notes a report and tells whether it is fresh: not seen before.
func (h *history) next(session string, sequence int64) bool {
	last, known := h.sequences[session]
	if known && sequence <= last {
		return false
	}
	h.sequences[session] = sequence
	if !known {
		h.order = append(h.order, session)
		if len(h.order) > keepSessions {
			delete(h.sequences, h.order[0])
			h.order = slices.Delete(h.order, 0, 1)
		}
	}
	return true
}
