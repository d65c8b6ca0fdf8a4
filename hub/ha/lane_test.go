package ha

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/client"
)

// write writes one thing after the other, each until it is acknowledged.
func (l *lane) write(ctx context.Context) {
	for i := 1; ctx.Err() == nil; i++ {
		name := "app"
		if i%keepEvery == 0 {
			name = fmt.Sprintf("kept-%d", i)
		}
		began := time.Now()
		for ctx.Err() == nil {
			err := l.put(ctx, name, i)
			if err == nil {
				l.acknowledged(name, i, time.Since(began))
				break
			}
			if ctx.Err() == nil && !retryable(err) {
				l.mu.Lock()
				l.lost = fmt.Errorf("write %d: an error that does not say try again: %w", i, err)
				l.mu.Unlock()
				return
			}
			wait(ctx, 50*time.Millisecond)
		}
		wait(ctx, 20*time.Millisecond)
	}
}

func (l *lane) acknowledged(name string, i int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked, l.worst = i, max(l.worst, took)
	if name != "app" {
		l.kept[name] = true
	}
}

func (l *lane) put(ctx context.Context, name string, i int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := client.Put[any](ctx, l.user, client.ConfigurationID(l.cluster, name), client.VersionConfiguration, map[string]any{"properties": map[string]any{
		"scope": "cluster", "namespace": "apps", "sourceKind": "GitRepository",
		"gitRepository":  map[string]any{"url": "https://git.example/app.git", "repositoryRef": map[string]any{"branch": "main"}},
		"kustomizations": map[string]any{"app": map[string]any{"path": fmt.Sprintf("./%d", i)}}}})
	return err
}

// retryable are refusals that say so, and connections that broke or took too long.
func retryable(err error) bool {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Status == http.StatusServiceUnavailable || e.Status == http.StatusTooManyRequests
	}
	var transport *url.Error
	return errors.As(err, &transport) || errors.Is(err, context.DeadlineExceeded)
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// take is the agent: it accepts everything.
func (l *lane) take(d link.Desired) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UTC()
	for _, item := range d.Items {
		if item.Configuration != nil {
			var i int
			if _, err := fmt.Sscanf(item.Configuration.Kustomizations["app"].Path, "./%d", &i); err == nil {
				l.seen = max(l.seen, i)
			}
		}
		if item.Generation < l.delivered[item.ID] {
			l.lost = fmt.Errorf("%s went back from generation %d to %d", item.ID, l.delivered[item.ID], item.Generation)
		}
		if item.Generation == l.delivered[item.ID] {
			continue
		}
		l.delivered[item.ID] = item.Generation
		o := link.Observed{ID: item.ID, Generation: item.Generation}
		if item.Extension != nil {
			o.Extension = &resource.ExtensionObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, CurrentVersion: "1.0.0"}
		} else {
			o.Configuration = &resource.FluxConfigurationObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, StatusUpdatedAt: &now,
				StatusGeneration: item.Generation, ComplianceState: resource.Compliant, Statuses: []resource.ObjectStatus{}}
		}
		l.report(o)
	}
}

// unfinished says which operation of the cluster is still running.
func (l *lane) unfinished(ctx context.Context) error {
	running, err := client.List[map[string]any](ctx, l.user, l.cluster+"/providers/Microsoft.KubernetesConfiguration/operations", client.VersionConfiguration)
	if err == nil && len(running) > 0 {
		id, _, _ := strings.Cut(fmt.Sprint(running[0]["id"]), "/operations/")
		now, getErr := client.Get[map[string]any](ctx, l.user, id, client.VersionConfiguration)
		err = fmt.Errorf("%d operations are stuck: %v; the resource is %v (%v)", len(running), running[0], now, getErr)
	}
	return err
}

// check looks whether everything that was acknowledged is there, and finished.
func (l *lane) check(t *testing.T) {
	t.Helper()
	path := l.cluster + "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations"
	all, err := client.List[client.Resource[client.Configuration]](t.Context(), l.user, path, client.VersionConfiguration)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]client.Configuration{}
	for _, c := range all {
		there[c.Name] = c.Properties
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.kept {
		if want := "./" + strings.TrimPrefix(name, "kept-"); there[name].Kustomizations["app"].Path != want {
			t.Errorf("%s was acknowledged with path %s; the hub has %q", name, want, there[name].Kustomizations["app"].Path)
		}
	}
	var last int
	if _, err := fmt.Sscanf(there["app"].Kustomizations["app"].Path, "./%d", &last); err != nil || last < l.acked-1 {
		t.Errorf("write %d was acknowledged; the hub has %q", l.acked, there["app"].Kustomizations["app"].Path)
	}
	t.Logf("%s: %d writes, the slowest acknowledged after %s", l.cluster, l.acked, l.worst.Round(time.Millisecond))
}
