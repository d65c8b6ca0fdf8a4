package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

const (
	sweepEvery  = 5 * time.Minute
	mirrorsIdle = 24 * time.Hour
)

// server serves the artifacts until ctx ends.
func (l *loops) server(ctx context.Context) error {
	addr := l.host.Options.StorageAddr
	if addr == "" || addr == "0" {
		<-ctx.Done()
		return nil
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("serve artifacts (--storage-addr): %w", err)
	}
	s := &http.Server{
		Handler:           l.store.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      10 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	stop := context.AfterFunc(ctx, func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if s.Shutdown(last) != nil {
			s.Close()
		}
	})
	defer stop()
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve artifacts: %w", err)
	}
	return nil
}

// janitor frees the disk of what nobody uses any more, until ctx ends.
func (l *loops) janitor(ctx context.Context) error {
	log := ctrl.Log.WithName(fieldOwner)
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	prune := time.NewTicker(mirrorsIdle)
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			if _, err := l.store.Sweep(); err != nil {
				log.Error(err, "failed to remove unused artifacts")
			}
		case now := <-prune.C:
			if err := l.mirrors.Prune(now.Add(-mirrorsIdle)); err != nil {
				log.Error(err, "failed to remove unused mirrors")
			}
		}
	}
}

// background adds a function that runs with the manager, on the leader.
func (l *loops) background(mgr ctrl.Manager, run func(context.Context) error) error {
	return mgr.Add(manager.RunnableFunc(run))
}
