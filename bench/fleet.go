package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"headwater.dev/api/link"
	"headwater.dev/client"
)

const (
	// fleetGroup is the resource group of all simulated clusters.
	fleetGroup = "fleet"
	// fleetKeys is how many keys the clusters share: making one each would take
	// longer than everything that is measured. The hub treats them alike.
	fleetKeys = 16
	// fleetWriters is how many requests the user has open at once.
	fleetWriters = 64
	// coreVersion and clusterVersion are the api-versions of groups and clusters.
	coreVersion, clusterVersion = "2021-04-01", "2024-01-01"
)

// fleetConfig says what to measure.
type fleetConfig struct {
	agents int
	// hub is the program; profiles is a folder for its profiles, "" for none.
	hub, profiles string
}

// fleet is a hub of its own with many simulated agents: agent/uplink, the real
// end of the line, with nothing behind it.
type fleet struct {
	config   fleetConfig
	hub      *fleetHub
	user     *client.Client
	keys     []*rsa.PrivateKey
	members  []*member
	progress io.Writer
	stop     context.CancelFunc
	agents   *errgroup.Group
}

// fleetScenario measures something on a fleet; they run in order, each on what the
// one before has left.
type fleetScenario struct {
	name, measures string
	run            func(context.Context, *fleet) ([]figure, error)
}

// figure is a number that a scenario measured, with the most that it may be; a
// figure with nothing that it may be at most is for information.
type figure struct {
	what        string
	value, most float64
	unit        string
}

func (f figure) String() string { return amount(f.value) + " " + f.unit }

// target is what is asked of a figure, and whether it is so.
func (f figure) target() (want, verdict string) {
	switch {
	case f.most == 0:
		return "", ""
	case f.value <= f.most:
		return "≤ " + amount(f.most) + " " + f.unit, "met"
	default:
		return "≤ " + amount(f.most) + " " + f.unit, "**missed**"
	}
}

// amount has one decimal where that says anything.
func amount(v float64) string {
	if v >= 100 || v == math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// gib is the memory that a hub may take, in MiB.
const gib = 1024

func fleetScenarios(n int) []fleetScenario {
	count := strconv.Itoa(n)
	return []fleetScenario{
		{"fleet-connect", "from starting " + count + " agents, over 10 s, to all of them connected", fleetConnect},
		{"fleet-idle", count + " agents connected, a minute in which nothing happens", fleetIdle},
		{"fleet-put", "a configuration put for each of " + count + " clusters", fleetPut},
		{"fleet-pages", "the list of all these configurations in pages of 100, three times", fleetPages},
		{"fleet-list", "the same for a cluster that has the most configurations it can have, " + strconv.Itoa(min(n, link.MaxItems)), fleetList},
		{"fleet-restart", "from killing the hub (it starts again at once) to all " + count + " agents being back", fleetRestart},
	}
}

// measureFleet runs all fleet scenarios on one fleet and prints a line for each of
// their figures.
func measureFleet(ctx context.Context, c fleetConfig, out, progress io.Writer) (err error) {
	m, err := thisMachine(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "headwater-fleet-")
	if err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	defer os.RemoveAll(dir)
	f, err := newFleet(ctx, dir, c, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	var rows strings.Builder
	for _, s := range fleetScenarios(c.agents) {
		fmt.Fprintf(progress, "%s: %s\n", s.name, s.measures)
		figures, err := s.run(ctx, f)
		if err == nil {
			err = f.hub.profile(ctx, c.profiles, s.name+"-metrics", "/metrics")
		}
		if err != nil {
			return errors.Join(fmt.Errorf("scenario %s: %w", s.name, err), printed(out, m, rows.String()))
		}
		for _, f := range figures {
			want, verdict := f.target()
			line := fmt.Sprintf("| %s: %s | %s | %s | %s |\n", s.name, f.what, want, f, verdict)
			fmt.Fprint(progress, "  ", line)
			rows.WriteString(line)
		}
	}
	return printed(out, m, rows.String())
}

func printed(out io.Writer, m machine, rows string) error {
	_, err := fmt.Fprintf(out, "\n%s, %s, commit %s, load before %s\n\n| scenario | target | measured | |\n|---|---|---|---|\n%s",
		time.Now().UTC().Format(time.DateOnly), m.describe, m.commit, m.load, rows)
	return err
}

// newFleet starts a hub and registers the clusters; no agent runs yet.
func newFleet(ctx context.Context, dir string, c fleetConfig, progress io.Writer) (*fleet, error) {
	f := &fleet{config: c, progress: progress, hub: &fleetHub{program: c.hub, dir: dir}}
	n := c.agents
	if err := f.hub.start(ctx); err != nil {
		return nil, err
	}
	var err error
	if f.user, err = f.hub.client(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	for range fleetKeys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.keys = append(f.keys, key)
	}
	if _, err := client.Put[any](ctx, f.user, f.user.GroupID(fleetGroup), coreVersion, map[string]any{"location": "local"}); err != nil {
		return nil, errors.Join(err, f.close())
	}
	for i := range n {
		f.members = append(f.members, f.member(fmt.Sprintf("member-%05d", i), f.keys[i%fleetKeys]))
	}
	began := time.Now()
	err = each(ctx, f.members, func(ctx context.Context, m *member) error { return f.register(ctx, m.id, m.key) })
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	fmt.Fprintf(progress, "%d clusters registered in %s\n", n, seconds(time.Since(began)))
	return f, nil
}

// register makes a cluster's record.
func (f *fleet) register(ctx context.Context, id string, key *rsa.PrivateKey) error {
	_, err := client.Put[any](ctx, f.user, id, clusterVersion, map[string]any{"location": "local", "properties": map[string]any{
		"agentPublicKeyCertificate": base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&key.PublicKey))}})
	if err != nil {
		return fmt.Errorf("register %s: %w", id, err)
	}
	return nil
}

// each does something for all members, fleetWriters at a time.
func each(ctx context.Context, members []*member, do func(context.Context, *member) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fleetWriters)
	for _, m := range members {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return do(ctx, m) })
	}
	return g.Wait()
}

// put asks for a configuration in a cluster; path tells waves apart.
func (f *fleet) put(ctx context.Context, cluster, name, path string) error {
	_, err := client.Put[any](ctx, f.user, client.ConfigurationID(cluster, name), hubVersion, map[string]any{"properties": map[string]any{
		"scope": "cluster", "namespace": "apps", "sourceKind": "GitRepository",
		"gitRepository":  map[string]any{"url": "https://git.example/fleet.git", "repositoryRef": map[string]any{"branch": "main"}},
		"kustomizations": map[string]any{"app": map[string]any{"path": path, "prune": true}},
	}})
	if err != nil {
		return fmt.Errorf("put configuration %s of %s: %w", name, cluster, err)
	}
	return nil
}

// close stops agents and hub.
func (f *fleet) close() error {
	if f.stop != nil {
		f.stop()
		_ = f.agents.Wait()
	}
	return f.hub.kill()
}

// patience is how long one step may take before it counts as failed: a machine
// that does other things too needs more of it with more agents.
func (f *fleet) patience() time.Duration {
	return patience + time.Duration(len(f.members))*30*time.Millisecond
}

// await polls until done says so, or patience is over; the error then says how
// far it came and what the hub does.
func (f *fleet) await(ctx context.Context, what string, done func() (int, bool)) error {
	began, told := time.Now(), time.Now()
	for {
		n, ok := done()
		if ok {
			return nil
		}
		if time.Since(began) > f.patience() {
			return fmt.Errorf("%s: %d of %d within %s; %s", what, n, len(f.members), f.patience(), f.hub.state())
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Fprintf(f.progress, "  waiting to %s: %d of %d after %s\n", what, n, len(f.members), seconds(time.Since(began)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
