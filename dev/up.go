package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"headwater.dev/dev/cluster"
	"headwater.dev/dev/k8s"
	"headwater.dev/dev/node"
)

const (
	// atOnce is how many clusters start at the same time; each keeps a core busy for some seconds.
	atOnce = 2
	// connectTimeout is how long a cluster's agent may take to reach the hub.
	connectTimeout = 2 * time.Minute
)

// Up brings the system up and returns when every cluster is connected. On
// failure nothing is left running, but the state folder with its logs stays.
func Up(ctx context.Context, o Options) (*System, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create state folder: %w", err)
	}
	unlock, err := lock(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &System{Options: o, journal: &journal{begin: time.Now(), out: o.Progress}, unlock: unlock}
	if err := s.up(ctx); err != nil {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		err = errors.Join(err, s.leave(leaving), s.stop())
		cancel()
		unlock()
		return nil, fmt.Errorf("bring the system up (logs are in %s): %w", o.Dir, err)
	}
	return s, nil
}

func (s *System) up(ctx context.Context) error {
	binary, err := s.kubernetes(ctx)
	if err != nil {
		return err
	}
	if s.servers, err = startServers(s.Options); err != nil {
		return err
	}
	s.Git, s.Registry, s.Helm = s.servers.git, s.servers.registry, s.servers.helm
	s.GitUser, s.GitPassword = gitUser, s.servers.gitPassword
	s.journal.say("Git server, OCI registry and Helm repository are ready")

	port, err := freePort(s.Options.Listen)
	if err != nil {
		return err
	}
	s.Hub = newHub(s.Options, port)
	ports, err := s.servers.ports()
	if err != nil {
		return err
	}
	ports = append(ports, port)
	if s.Options.Node == Real {
		if s.published, err = node.Publish(ctx, ports...); err != nil {
			return err
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := s.Hub.Start(groupCtx); err != nil {
			return err
		}
		s.journal.say("hub is ready at %s", s.Hub.URL)
		return nil
	})
	group.Go(func() error { return s.startMembers(groupCtx, binary, ports) })
	if err := group.Wait(); err != nil {
		return err
	}
	if err := s.writeState(); err != nil {
		return err
	}
	return s.connect(ctx)
}

// kubernetes returns the binary of clusters that are started here, and gives
// the user a kubectl that fits them.
func (s *System) kubernetes(ctx context.Context) (string, error) {
	binary, err := k8s.Ensure(ctx, s.journal)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(s.Options.path("bin"), 0o755); err != nil {
		return "", fmt.Errorf("create state folder: %w", err)
	}
	kubectl := s.Options.path("bin", "kubectl")
	if err := os.Symlink(binary, kubectl); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("provide kubectl: %w", err)
	}
	return binary, nil
}

// startMembers starts all clusters. Those that run are in Members also when
// another one failed.
func (s *System) startMembers(ctx context.Context, binary string, ports []int) error {
	if s.Options.Kubeconfig != "" {
		m, err := adopt(s.Options)
		s.Members = []*Member{m}
		return err
	}
	l := launch{options: s.Options, binary: binary, ports: ports, registry: s.Registry.Host(), journal: s.journal}
	if s.Options.Node == Real {
		var err error
		if l.root, err = k8s.ModuleRoot(); err != nil {
			return fmt.Errorf("find the sources of the agent's image: %w", err)
		}
		if l.version, err = s.version(ctx); err != nil {
			return err
		}
		s.nodeVersion = l.version
	}
	members := make([]*Member, s.Options.Clusters)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range members {
		group.Go(func() error {
			m, err := startMember(ctx, "cluster-"+strconv.Itoa(i+1), l)
			if err != nil {
				return err
			}
			members[i] = m
			s.journal.say("%s is ready", m.Name)
			return nil
		})
	}
	err := group.Wait()
	s.Members = slices.DeleteFunc(members, func(m *Member) bool { return m == nil })
	return err
}

// version is what the CLI calls itself, and the images in its charts.
func (s *System) version(ctx context.Context) (string, error) {
	out, err := s.run(ctx, nil, "--version")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(out)
	if len(fields) == 0 {
		return "", errors.New("headwater --version prints nothing")
	}
	return fields[len(fields)-1], nil
}

// connect registers every cluster as a user would, and waits for their agents.
func (s *System) connect(ctx context.Context) error {
	if err := s.headwater(ctx, nil, "group", "create", "-n", ResourceGroup, "-l", Location); err != nil {
		return err
	}
	if s.Options.Node == NoNode {
		s.journal.say("clusters without nodes are not connected: nothing could run there")
		return nil
	}
	s.connected = s.Options.Kubeconfig != ""
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, m := range s.Members {
		group.Go(func() error {
			err := s.headwater(ctx, m, "connectedk8s", "connect", "-g", ResourceGroup, "-n", m.Name, "-l", Location)
			if err != nil {
				return err
			}
			if err := s.awaitConnected(ctx, m); err != nil {
				return err
			}
			s.journal.say("%s is connected", m.Name)
			return nil
		})
	}
	return group.Wait()
}

// awaitConnected returns when the hub has heard of the cluster's agent.
func (s *System) awaitConnected(ctx context.Context, m *Member) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for {
		out, err := s.output(ctx, m, "connectedk8s", "show", "-g", ResourceGroup, "-n", m.Name, "-o", "json")
		if err == nil && strings.Contains(out, `"Connected"`) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not connect (logs: %s): %w", m.Name, s.Options.path("clusters", m.Name, "logs"),
				errors.Join(context.Cause(ctx), err, s.problems(m)))
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// problems tells what is wrong with our programs of a cluster.
func (s *System) problems(m *Member) error {
	var failed error
	for _, p := range m.Processes() {
		if p.Problem != "" {
			failed = errors.Join(failed, fmt.Errorf("%s/%s: %s", p.Namespace, p.Deployment, p.Problem))
		}
	}
	return failed
}

// freePort returns a port of the address that nobody listens on.
func freePort(address string) (int, error) {
	if address == "127.0.0.1" {
		return cluster.FreePort()
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, fmt.Errorf("--listen=%s: %w", address, err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
