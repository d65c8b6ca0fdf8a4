package hub

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"headwater.dev/api/resource"
	"headwater.dev/client"
	"headwater.dev/hub/store"
)

// buffer is a log that may be read while it is written.
type buffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

func wanted(secret string) map[string]any {
	props := map[string]any{"scope": "cluster", "namespace": "apps", "sourceKind": "GitRepository",
		"gitRepository":  map[string]any{"url": "https://git.example/apps.git", "httpsUser": "me", "repositoryRef": map[string]any{"branch": "main"}},
		"kustomizations": map[string]any{"app": map[string]any{"path": "./app"}}}
	if secret != "" {
		props["configurationProtectedSettings"] = map[string]any{"httpsKey": base64.StdEncoding.EncodeToString([]byte(secret))}
	}
	return map[string]any{"properties": props}
}

// waiting is a hub with a cluster whose agent has not yet come.
func waiting(t *testing.T, c Config) (r *running, user *client.Client, agent *fake, id string) {
	t.Helper()
	r = run(t, c)
	user = own(t, r)
	if _, err := client.Put[any](t.Context(), user, user.GroupID(sdkGroup), client.VersionCore, map[string]any{"location": "local"}); err != nil {
		t.Fatal(err)
	}
	cluster := user.ClusterID(sdkGroup, sdkRP, sdkKind, sdkCluster)
	agent = newFake(t, r, cluster)
	if _, err := client.Put[any](t.Context(), user, cluster, client.VersionCluster, map[string]any{"location": "local",
		"properties": map[string]any{"agentPublicKeyCertificate": agent.certificate()}}); err != nil {
		t.Fatal(err)
	}
	return r, user, agent, client.ConfigurationID(cluster, "apps")
}

func (r *running) kept(t *testing.T) (n int) {
	t.Helper()
	if _, err := store.Each(t.Context(), r.store, "/vault/", func(store.Record) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCanaries puts secrets, one after the other, and looks for them everywhere:
// in every answer, in the log and in all files of the hub. What is superseded or
// acknowledged is not even kept sealed.
func TestCanaries(t *testing.T) {
	const first, second = "canary-one-52f1", "canary-two-9a7c"
	log := &buffer{}
	r, user, agent, id := waiting(t, Config{Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	var answers strings.Builder
	send := func(method, target string, body any) {
		t.Helper()
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if body == nil {
			raw = nil
		}
		answer, err := user.Send(t.Context(), method, target+"?api-version="+client.VersionConfiguration, raw)
		if err != nil {
			t.Fatal(err)
		}
		answers.Write(answer)
	}
	send("PUT", id, wanted(first))
	send("PUT", id, wanted(second))
	if n := r.kept(t); n != 1 {
		t.Errorf("%d versions are kept, want the newest alone", n)
	}
	send("GET", id, nil)
	send("PATCH", id, map[string]any{"properties": map[string]any{"suspend": true}})
	send("GET", id[:strings.LastIndexByte(id, '/')], nil)
	leave := agent.run(t)
	await(t, "the agent's secret", func() bool { return agent.secret("apps/httpsKey") != "" })
	await(t, "forgetting on acknowledgement", func() bool { return r.kept(t) == 0 })
	if raw, _ := base64.StdEncoding.DecodeString(agent.secret("apps/httpsKey")); string(raw) != second {
		t.Errorf("the agent was given %q", raw)
	}
	leave()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	places := map[string]string{"an answer": answers.String(), "the log": log.String()}
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		places[path] = string(raw)
		return err
	})
	if err != nil || len(places) < 6 {
		t.Fatalf("looked into %d places: %v", len(places), err)
	}
	for _, canary := range []string{first, second} {
		for _, form := range []string{canary, base64.StdEncoding.EncodeToString([]byte(canary)), base64.RawURLEncoding.EncodeToString([]byte(canary))} {
			for place, text := range places {
				if strings.Contains(text, form) {
					t.Errorf("%s holds %s", place, form)
				}
			}
		}
	}
}

// TestFortyEightHours is an agent that comes two days late: it is given nothing
// stale, the change has failed with a way out, and applying it again mends it.
func TestFortyEightHours(t *testing.T) {
	var offset atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	r, user, agent, id := waiting(t, Config{Clock: clock})
	put := func() {
		t.Helper()
		if _, err := client.Put[any](t.Context(), user, id, client.VersionConfiguration, wanted("secret")); err != nil {
			t.Fatal(err)
		}
	}
	put()
	offset.Store(int64(resource.AgentPatience + time.Minute))
	user = own(t, r) // its token is as old
	state := func() client.Configuration {
		t.Helper()
		got, err := client.Get[client.Resource[client.Configuration]](t.Context(), user, id, client.VersionConfiguration)
		if err != nil {
			t.Fatal(err)
		}
		return got.Properties
	}
	if now := state(); now.ProvisioningState != resource.Failed || !strings.Contains(now.ErrorMessage, "apply the change again") {
		t.Errorf("after two days: %s, %q", now.ProvisioningState, now.ErrorMessage)
	}
	agent.now = clock
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := agent.login(ctx); err != nil {
		t.Fatal(err)
	}
	late, err := agent.desired(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range late.Items {
		if item.Name == "apps" {
			t.Errorf("a stale change was handed out: %+v", item)
		}
	}
	put()
	agent.run(t)
	await(t, "success", func() bool { return state().ProvisioningState == resource.Succeeded })
	if agent.secret("apps/httpsKey") == "" {
		t.Error("the secret that was applied again did not arrive")
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
