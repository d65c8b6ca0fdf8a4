package dev

import (
	"context"
	"errors"
	"fmt"
	"os"

	"headwater.dev/dev/gitserver"
	"headwater.dev/dev/helmrepo"
	"headwater.dev/dev/node"
	"headwater.dev/dev/registry"
)

// System is what runs.
type System struct {
	// Options as completed: absolute paths, nothing empty.
	Options Options
	Hub     *Hub
	Members []*Member

	Git *gitserver.Server
	// GitUser and GitPassword are an account that may do everything on Git.
	GitUser, GitPassword string
	Registry             *registry.Server
	Helm                 *helmrepo.Server

	servers     *servers
	published   *node.Published
	journal     *journal
	nodeVersion string // of the images on real nodes
	connected   bool   // a cluster that was there before has our agent
	unlock      func()
}

// Err returns why a part ended that should run, or nil.
func (s *System) Err() error {
	failed := s.Hub.Err()
	for _, m := range s.Members {
		failed = errors.Join(failed, m.Err())
	}
	return failed
}

// Down stops everything, takes the agent out of a cluster that was there
// before, and removes the state folder.
func (s *System) Down(ctx context.Context) error {
	failed := s.leave(ctx)
	failed = errors.Join(failed, s.stop())
	if err := cleanUp(s.Options.Dir); err != nil {
		failed = errors.Join(failed, err)
	}
	s.unlock()
	if failed != nil {
		return fmt.Errorf("take the system down: %w", failed)
	}
	return nil
}

// leave removes the agent from a cluster that outlives the system.
func (s *System) leave(ctx context.Context) error {
	if !s.connected {
		return nil
	}
	s.journal.say("removing the agent from your cluster")
	return s.headwater(ctx, s.Members[0], "connectedk8s", "delete", "-g", ResourceGroup, "-n", s.Members[0].Name, "--yes")
}

// stop ends all processes and servers; files stay. What uses something is
// stopped before it.
func (s *System) stop() error {
	var failed error
	for _, m := range s.Members {
		failed = errors.Join(failed, m.Stop())
	}
	if s.Hub != nil {
		failed = errors.Join(failed, s.Hub.Stop())
	}
	if s.servers != nil {
		failed = errors.Join(failed, s.servers.close())
	}
	if s.published != nil {
		failed = errors.Join(failed, s.published.Close())
	}
	return failed
}

// cleanUp removes the state folder and, for clusters with real nodes whose
// program was killed, what they left in the kernel.
func cleanUp(dir string) error {
	var failed error
	clusters := Options{Dir: dir}.path("clusters")
	entries, err := os.ReadDir(clusters)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		failed = err
	}
	for _, entry := range entries {
		failed = errors.Join(failed, node.CleanUp(Options{Dir: clusters}.path(entry.Name())))
	}
	if err := os.RemoveAll(dir); err != nil {
		failed = errors.Join(failed, fmt.Errorf("remove state: %w", err))
	}
	return failed
}
