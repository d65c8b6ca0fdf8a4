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

func fleetConnect(ctx context.Context, f *fleet) (string, error) {
	began := time.Now()
	if err := f.startAgents(ctx, 10*time.Second); err != nil {
		return "", err
	}
	if err := f.await(ctx, "connect", f.connected(1)); err != nil {
		return "", err
	}
	took := time.Since(began)
	peak, now, err := f.hub.resident()
	if err == nil {
		err = f.hub.profile(ctx, f.config.profiles, "connected-heap", "heap?gc=1")
	}
	return fmt.Sprintf("%s, %.0f MiB resident (peak %.0f MiB)", seconds(took), now, peak), err
}

// profiling profiles the hub's CPU for a while; the answer waits for the end.
func (f *fleet) profiling(ctx context.Context, name string, d time.Duration) func() error {
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(f.hub.profile(ctx, f.config.profiles, name, fmt.Sprintf("profile?seconds=%d", int(d.Seconds()))),
			f.hub.profile(ctx, f.config.profiles, name+"-goroutines", "goroutine"), f.hub.profile(ctx, f.config.profiles, name+"-heap", "heap?gc=1"))
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

func fleetIdle(ctx context.Context, f *fleet) (string, error) {
	pid := f.hub.process.Process.Pid
	select { // what the beginning has left is not idling
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(idleFor / 2):
	}
	before, err := cpu(pid)
	if err != nil {
		return "", err
	}
	profiled := f.profiling(ctx, "idle-cpu", idleFor/2)
	began := time.Now()
	select { // this minute is what is measured
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(idleFor):
	}
	span := time.Since(began)
	after, err := cpu(pid)
	if err != nil {
		return "", err
	}
	if err := profiled(); err != nil {
		return "", err
	}
	peak, now, err := f.hub.resident()
	return fmt.Sprintf("%.0f MiB resident (peak %.0f MiB), %.1f %% of a core", now, peak, 100*(after-before).Seconds()/span.Seconds()), err
}

// fleetPut puts everywhere, waits for the deliveries, then looks into all lists.
func fleetPut(ctx context.Context, f *fleet) (string, error) {
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
		return "", err
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
		return "", err
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
		return "", err
	}
	visible := time.Since(began)
	if err := profiled(); err != nil {
		return "", err
	}
	_, now, err := f.hub.resident()
	return fmt.Sprintf("%s put, %s delivered, %s all visible; put to agent %s; %.0f MiB resident", seconds(put), seconds(last.Sub(began)), seconds(visible),
		quantiles(took), now), err
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

// fleetList fills one cluster and reads its list page by page, three times.
func fleetList(ctx context.Context, f *fleet) (string, error) {
	crowded := f.member("crowded", f.keys[0])
	if err := f.register(ctx, crowded.id, crowded.key); err != nil {
		return "", err
	}
	names := make([]*member, min(len(f.members), link.MaxItems)) // a cluster takes no more
	for i := range names {
		names[i] = &member{id: fmt.Sprintf("app-%05d", i)}
	}
	err := each(ctx, names, func(ctx context.Context, m *member) error { return f.put(ctx, crowded.id, m.id, "./app") })
	if err != nil {
		return "", err
	}
	var took []time.Duration
	for range 3 {
		next, seen := crowded.id+"/providers/Microsoft.KubernetesConfiguration/fluxConfigurations?api-version="+hubVersion, 0
		for next != "" {
			began := time.Now()
			raw, err := f.user.Send(ctx, "GET", next, nil)
			if err != nil {
				return "", err
			}
			took = append(took, time.Since(began))
			var page struct {
				Value    []json.RawMessage
				NextLink string
			}
			if err := json.Unmarshal(raw, &page); err != nil {
				return "", fmt.Errorf("read a page: %w", err)
			}
			seen, next = seen+len(page.Value), page.NextLink
		}
		if seen != len(names) {
			return "", fmt.Errorf("the list has %d configurations, want %d", seen, len(names))
		}
	}
	return quantiles(took), nil
}

// fleetRestart kills the hub and starts it again.
func fleetRestart(ctx context.Context, f *fleet) (string, error) {
	for _, m := range f.members {
		m.connections.Store(0)
	}
	if err := f.hub.kill(); err != nil {
		return "", err
	}
	began := time.Now()
	if err := f.hub.start(ctx); err != nil {
		return "", err
	}
	ready := time.Since(began)
	back := f.connected(1)
	most, before := 0, 0
	second := time.Now()
	err := f.await(ctx, "come back", func() (int, bool) {
		n, all := back()
		if now := time.Now(); now.Sub(second) >= time.Second {
			most, before, second = max(most, n-before), n, now
		}
		return n, all
	})
	if err != nil {
		return "", err
	}
	all := time.Since(began)
	peak, _, err := f.hub.resident()
	return fmt.Sprintf("%s, of which the hub's start %s; at most %d agents came back in a second; peak %.0f MiB", seconds(all), seconds(ready), most, peak), err
}

// quantiles are those that large samples have.
func quantiles(all []time.Duration) string {
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[min(len(all)-1, int(q*float64(len(all))))] }
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("median %.0f ms, p99 %.0f ms, max %.0f ms (n=%d)", ms(at(0.5)), ms(at(0.99)), ms(at(1)), len(all))
}
