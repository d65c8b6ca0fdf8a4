package ha

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"crypto/x509"
	"encoding/base64"

	"github.com/go-logr/logr"

	"headwater.dev/agent/uplink"
	"headwater.dev/api/link"
	"headwater.dev/client"
)

const (
	lanes = 4
	group = "ha"
	// keepEvery is how many writes make one resource that is never written again.
	keepEvery = 5
)

// lane is one user who writes to one cluster, and that cluster's agent.
type lane struct {
	user    *client.Client
	cluster string

	mu        sync.Mutex
	acked     int             // the newest acknowledged write
	kept      map[string]bool // acknowledged, never to be written again
	delivered map[string]int64
	report    func(link.Observed)
	seen      int // the newest write that the agent has
	lost      error
	worst     time.Duration
}

func (l *lane) state() (acked, seen int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked, l.seen, l.lost
}

// fault begins and ends.
type fault struct {
	name       string
	begin, end func()
}

// TestAnyOneMissing is the whole story; faults follow one another in one world.
func TestAnyOneMissing(t *testing.T) {
	w := newWorld(t)
	var users, agents sync.WaitGroup
	writing, stopUsers := context.WithCancel(t.Context())
	working, stopAgents := context.WithCancel(t.Context())
	defer func() { stopUsers(); stopAgents(); users.Wait(); agents.Wait() }()
	all := w.lanes(t, working, &agents)
	for _, l := range all {
		users.Go(func() { l.write(writing) })
	}
	progress(t, all, "before any fault")

	for _, fault := range []fault{
		hubFault(t, w, 0, "killed"), hubFault(t, w, 1, "paused"), hubFault(t, w, 2, "cut off"), hubFault(t, w, 0, "asked to end"),
		etcdFault(t, w, "killed"), etcdFault(t, w, "paused"), etcdFault(t, w, "cut off"),
	} {
		began := time.Now()
		fault.begin()
		progress(t, all, fault.name)
		held := time.Since(began)
		fault.end()
		w.balancer.await(t, 3)
		progress(t, all, "after "+fault.name)
		t.Logf("%s: went on after %s, all well after %s", fault.name, held.Round(10*time.Millisecond), time.Since(began).Round(10*time.Millisecond))
	}
	stopUsers()
	users.Wait()
	for _, l := range all {
		eventually(t, 20*time.Second, func() error { return l.unfinished(t.Context()) })
		l.check(t)
	}
}

func hubFault(t *testing.T, w *world, i int, how string) fault {
	r := w.replicas[i]
	f := fault{name: fmt.Sprintf("a hub is %s", how)}
	switch how {
	case "killed":
		f.begin, f.end = r.kill, func() { r.start(t) }
	case "asked to end":
		f.begin = func() {
			if err := r.end(); err != nil {
				t.Errorf("a hub that was asked to end: %v", err)
			}
		}
		f.end = func() { r.start(t) }
	case "paused":
		f.begin = func() { _ = r.process.Process.Signal(syscall.SIGSTOP) }
		f.end = func() { _ = r.process.Process.Signal(syscall.SIGCONT) }
	default:
		f.begin, f.end = func() { w.isolate(r) }, func() { w.isolate(nil) }
	}
	return f
}

// etcdFault hits the member that leads when it happens.
func etcdFault(t *testing.T, w *world, how string) fault {
	f := fault{name: fmt.Sprintf("etcd's leader is %s", how)}
	end := func() {}
	f.begin = func() {
		m := w.leader(t)
		switch how {
		case "killed":
			m.Kill()
			end = func() { m.Start(t) }
		case "paused":
			m.Signal(t, syscall.SIGSTOP)
			end = func() { m.Signal(t, syscall.SIGCONT) }
		default:
			w.isolate(m)
			end = func() { w.isolate(nil) }
		}
	}
	f.end = func() { end() }
	return f
}

// progress waits until every lane has new acknowledged writes and its agent has them.
func progress(t *testing.T, all []*lane, when string) {
	t.Helper()
	var goal []int
	for _, l := range all {
		acked, _, _ := l.state()
		goal = append(goal, acked+3)
	}
	eventually(t, 90*time.Second, func() error { // seconds, on a machine with nothing else to do
		for i, l := range all {
			acked, seen, err := l.state()
			if err != nil {
				t.Fatalf("%s: lane %d: %v", when, i, err)
			}
			if acked < goal[i] || seen < goal[i] {
				return fmt.Errorf("%s: lane %d: %d acknowledged, %d at the agent, want %d", when, i, acked, seen, goal[i])
			}
		}
		return nil
	})
}

// lanes registers the clusters and starts users and agents.
func (w *world) lanes(t *testing.T, ctx context.Context, running *sync.WaitGroup) []*lane {
	t.Helper()
	var all []*lane
	for i := range lanes {
		l := &lane{user: w.user(t), kept: map[string]bool{}, delivered: map[string]int64{}}
		// The balancer may have sent a hub away that was slow to say that it is ready.
		put := func(id, version string, body map[string]any) {
			eventually(t, time.Minute, func() error {
				_, err := client.Put[any](ctx, l.user, id, version, body)
				return err
			})
		}
		put(l.user.GroupID(group), client.VersionCore, map[string]any{"location": "local"})
		l.cluster = l.user.ClusterID(group, "Microsoft.Kubernetes", "connectedClusters", fmt.Sprintf("lane-%d", i))
		body := map[string]any{"location": "local", "properties": map[string]any{
			"agentPublicKeyCertificate": base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&w.key.PublicKey))}}
		put(l.cluster, client.VersionCluster, body)
		up, err := uplink.New(uplink.Config{Hub: w.url, CA: w.authority(t), Cluster: l.cluster, Key: w.key, Log: logr.Discard(),
			Desired:   func(d link.Desired) { l.take(d) },
			Heartbeat: func(context.Context) link.Heartbeat { return link.Heartbeat{AgentVersion: "1.0.0"} }})
		if err != nil {
			t.Fatal(err)
		}
		l.report = up.Report
		running.Go(func() { _ = up.Run(ctx) })
		all = append(all, l)
	}
	return all
}
