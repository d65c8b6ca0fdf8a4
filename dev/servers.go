package dev

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strconv"

	"headwater.dev/dev/gitserver"
	"headwater.dev/dev/helmrepo"
	"headwater.dev/dev/registry"
)

// gitUser is the account that may do everything on the Git server.
const gitUser = "dev"

// servers are what configurations take their content from.
type servers struct {
	git         *gitserver.Server
	gitPassword string
	registry    *registry.Server
	helm        *helmrepo.Server
}

func startServers(o Options) (*servers, error) {
	s := &servers{gitPassword: rand.Text()}
	if err := s.start(o); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *servers) start(o Options) (err error) {
	listen, host := net.JoinHostPort(o.Listen, "0"), o.advertised()
	s.git, err = gitserver.Start(gitserver.Config{
		Dir: o.path("git"), HTTPAddr: listen, SSHAddr: listen, Advertise: host,
		Accounts: []gitserver.Account{{Name: gitUser, Password: s.gitPassword, Admin: true}},
	})
	if err != nil {
		return err
	}
	if s.registry, err = registry.Start(registry.Config{Dir: o.path("registry"), Addr: listen, Advertise: host}); err != nil {
		return err
	}
	if s.helm, err = helmrepo.Start(helmrepo.Config{Dir: o.path("charts"), Addr: listen, Advertise: host}); err != nil {
		return err
	}
	return s.publishCharts()
}

// ports returns the ports that clusters have to reach.
func (s *servers) ports() ([]int, error) {
	var ports []int
	for _, address := range []string{s.git.Addr(), s.git.SSHAddr(), s.registry.Addr(), s.helm.Addr()} {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("read address %q: %w", address, err)
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			return nil, fmt.Errorf("read address %q: %w", address, err)
		}
		ports = append(ports, number)
	}
	return ports, nil
}

func (s *servers) close() error {
	var failed error
	if s.git != nil {
		failed = errors.Join(failed, s.git.Close())
	}
	if s.registry != nil {
		failed = errors.Join(failed, s.registry.Close())
	}
	if s.helm != nil {
		failed = errors.Join(failed, s.helm.Close())
	}
	return failed
}
