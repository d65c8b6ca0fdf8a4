package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/client"
)

func fleetConnect(ctx context.Context, f *fleet) ([]figure, error) {
	began := time.Now()
	if err := f.startAgents(ctx, 10*time.Second); err != nil {
		return nil, err
	}
	if err := f.await(ctx, "connect", f.connected(1)); err != nil {
		return nil, err
	}
	took := time.Since(began)
	held, err := f.hub.memory("then")
	if err == nil {
		err = f.hub.profile(ctx, f.config.profiles, "connected-heap.pprof", "/debug/pprof/heap?gc=1")
	}
	return append([]figure{inSeconds("all connected", took, 0)}, held...), err
}

func inSeconds(what string, d time.Duration, most float64) figure {
	return figure{what: what, value: d.Seconds(), most: most, unit: "s"}
}

func inMilliseconds(what string, d time.Duration, most float64) figure {
	return figure{what: what, value: float64(d) / float64(time.Millisecond), most: most, unit: "ms"}
}

// profiling profiles the hub's CPU for a while; the answer waits for the end.
func (f *fleet) profiling(ctx context.Context, name string, d time.Duration) func() error {
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(f.hub.profile(ctx, f.config.profiles, name+".pprof", fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(d.Seconds()))),
			f.hub.profile(ctx, f.config.profiles, name+"-goroutines.pprof", "/debug/pprof/goroutine"),
			f.hub.profile(ctx, f.config.profiles, name+"-heap.pprof", "/debug/pprof/heap"))
	}()
	return func() error { return <-done }
}

// connected counts the agents that were connected that often.
func (f *fleet) connected(times int64) func() (int, bool) {
	return func() (int, bool) {
		n := 0
		for _, m := range f.members {
			if m.connections.Load() >= times {
				n++
			}
		}
		return n, n == len(f.members)
	}
}

func fleetIdle(ctx context.Context, f *fleet) ([]figure, error) {
	pid := f.hub.process.Process.Pid
	select { // what the beginning has left is not idling
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(idleFor / 2):
	}
	before, err := cpu(pid)
	if err != nil {
		return nil, err
	}
	profiled := f.profiling(ctx, "idle-cpu", idleFor/2)
	began := time.Now()
	select { // this minute is what is measured
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(idleFor):
	}
	span := time.Since(began)
	after, err := cpu(pid)
	if err != nil {
		return nil, err
	}
	if err := profiled(); err != nil {
		return nil, err
	}
	held, err := f.hub.memory("at its end")
	return append([]figure{{what: "CPU", value: 100 * (after - before).Seconds() / span.Seconds(), most: 20, unit: "% of a core"}}, held...), err
}

// fleetPut puts everywhere, waits for the deliveries, then looks into all lists.
func fleetPut(ctx context.Context, f *fleet) ([]figure, error) {
	const path = "./wave"
	profiled := f.profiling(ctx, "put-cpu", 15*time.Second)
	began := time.Now()
	var mu sync.Mutex
	asked := map[*member]time.Time{}
	err := each(ctx, f.members, func(ctx context.Context, m *member) error {
		mu.Lock()
		asked[m] = time.Now()
		mu.Unlock()
		return f.put(ctx, m.id, "app", path)
	})
	if err != nil {
		return nil, err
	}
	put := time.Since(began)
	err = f.await(ctx, "deliver", func() (int, bool) {
		n := 0
		for _, m := range f.members {
			if !m.arrived(path).IsZero() {
				n++
			}
		}
		return n, n == len(f.members)
	})
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	var last time.Time
	for _, m := range f.members {
		at := m.arrived(path)
		took = append(took, at.Sub(asked[m]))
		if at.After(last) {
			last = at
		}
	}
	if err := each(ctx, f.members, f.visible); err != nil {
		return nil, err
	}
	visible := time.Since(began)
	slices.Sort(took)
	if err := profiled(); err != nil {
		return nil, err
	}
	held, err := f.hub.memory("after the wave")
	return append([]figure{inSeconds("from the first request to the last answer", put, 0),
		inSeconds("to the last delivery", last.Sub(began), 60), inSeconds("to the last status visible in its cluster's list", visible, 90),
		inMilliseconds("one put to its agent, median", quantile(took, 0.5), 0), inMilliseconds("one put to its agent, p99", quantile(took, 0.99), 1000)}, held...), err
}

// visible waits until the list of a cluster shows its configuration as compliant.
func (f *fleet) visible(ctx context.Context, m *member) error {
	for deadline := time.Now().Add(f.patience()); ; {
		all, err := client.List[client.Resource[client.Configuration]](ctx, f.user, m.id+"/providers/Microsoft.KubernetesConfiguration/fluxConfigurations", hubVersion)
		if err != nil {
			return err
		}
		if len(all) == 1 && all[0].Properties.ComplianceState == resource.Compliant {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the list of %s shows %+v", m.id, all)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// fleetPages reads the list of the whole fleet page by page.
func fleetPages(ctx context.Context, f *fleet) ([]figure, error) {
	profiled := f.profiling(ctx, "pages-cpu", 5*time.Second)
	took, err := f.pages(ctx, "/subscriptions/"+f.user.SubscriptionID(), len(f.members), 3)
	if err = errors.Join(err, profiled()); err != nil {
		return nil, err
	}
	return paged(took), nil
}

// fleetList fills one cluster and reads its list page by page.
func fleetList(ctx context.Context, f *fleet) ([]figure, error) {
	crowded := f.member("crowded", f.keys[0])
	if err := f.register(ctx, crowded.id, crowded.key); err != nil {
		return nil, err
	}
	names := make([]*member, min(len(f.members), link.MaxItems)) // a cluster takes no more
	for i := range names {
		names[i] = &member{id: fmt.Sprintf("app-%05d", i)}
	}
	err := each(ctx, names, func(ctx context.Context, m *member) error { return f.put(ctx, crowded.id, m.id, "./app") })
	if err != nil {
		return nil, err
	}
	took, err := f.pages(ctx, crowded.id, len(names), 30) // as many pages as the fleet has
	if err != nil {
		return nil, err
	}
	return paged(took), nil
}

func paged(took []time.Duration) []figure {
	slices.Sort(took)
	return []figure{{what: "pages", value: float64(len(took)), unit: "requests"}, inMilliseconds("a page, median", quantile(took, 0.5), 0),
		inMilliseconds("a page, p99", quantile(took, 0.99), 100), inMilliseconds("a page, slowest", quantile(took, 1), 0)}
}

// pages reads the configurations of a scope some times, and how long each page
// took; there must be as many as want says.
func (f *fleet) pages(ctx context.Context, scope string, want, times int) (took []time.Duration, err error) {
	for range times {
		next, seen := scope+"/providers/Microsoft.KubernetesConfiguration/fluxConfigurations?api-version="+hubVersion, 0
		for next != "" {
			began := time.Now()
			raw, err := f.user.Send(ctx, "GET", next, nil)
			if err != nil {
				return nil, err
			}
			took = append(took, time.Since(began))
			var page struct {
				Value    []json.RawMessage
				NextLink string
			}
			if err := json.Unmarshal(raw, &page); err != nil {
				return nil, fmt.Errorf("read a page: %w", err)
			}
			seen, next = seen+len(page.Value), page.NextLink
		}
		if seen != want {
			return nil, fmt.Errorf("the list of %s has %d configurations, want %d", scope, seen, want)
		}
	}
	return took, nil
}

// fleetRestart kills the hub and starts it again.
func fleetRestart(ctx context.Context, f *fleet) ([]figure, error) {
	for _, m := range f.members {
		m.connections.Store(0)
	}
	if err := f.hub.kill(); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := f.hub.start(ctx); err != nil {
		return nil, err
	}
	ready := time.Since(began)
	profiled := f.profiling(ctx, "restart-cpu", 15*time.Second)
	back := f.connected(1)
	before, most, top := 0, 0.0, 0.0
	second := time.Now()
	used, err := cpu(f.hub.process.Process.Pid)
	if err != nil {
		return nil, err
	}
	err = f.await(ctx, "come back", func() (int, bool) {
		n, all := back()
		if now := time.Now(); now.Sub(second) >= time.Second {
			if spent, err := cpu(f.hub.process.Process.Pid); err == nil {
				top, used = max(top, (spent-used).Seconds()/now.Sub(second).Seconds()), spent
			}
			most, before, second = max(most, float64(n-before)/now.Sub(second).Seconds()), n, now
		}
		return n, all
	})
	if err != nil {
		return nil, err
	}
	all := time.Since(began)
	if err := profiled(); err != nil {
		return nil, err
	}
	held, err := f.hub.memory("then")
	return append([]figure{inSeconds("all back", all, 60), inSeconds("of it the hub's own start", ready, 0),
		{what: "most agents that came back in a second", value: most, unit: "agents"},
		{what: "most that the hub computed in a second", value: 100 * top, unit: "% of a core"}}, held...), err
}
