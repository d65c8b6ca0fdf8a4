package ha

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"headwater.dev/agent/uplink"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/client"
	"headwater.dev/hub"
	"headwater.dev/hub/store/etcd"
)

// drill is one hub with embedded etcd and one cluster, whose agent lives through
// everything.
type drill struct {
	*world
	hub     *replica
	data    string
	user    *client.Client
	cluster string

	mu       sync.Mutex
	paths    map[string]string // what the agent was last told, by configuration
	reported map[string]int64
}

func newDrill(t *testing.T) *drill {
	t.Helper()
	return newDrillIn(t, t.TempDir())
}

// newDrillIn keeps the hub's data below a directory; its log goes elsewhere.
func newDrillIn(t *testing.T, dir string) *drill {
	t.Helper()
	d := &drill{world: &world{network: newNetwork(), dir: dir}, paths: map[string]string{}, reported: map[string]int64{}}
	d.data = filepath.Join(d.dir, "shared")
	address := free(t, "127.0.1.1")
	d.url = "https://" + address
	d.hub = &replica{address: address, log: filepath.Join(t.TempDir(), "hub.log"),
		args: []string{"serve", "--data-dir", d.data, "--listen", address, "--metrics-listen", ""}}
	d.balancer = newBalancer(t)
	d.balancer.add(t, address)
	d.start(t)
	t.Cleanup(func() {
		d.hub.kill()
		if t.Failed() {
			show(t, d.hub.log)
		}
	})
	var err error
	if d.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	d.user = d.world.user(t)
	if _, err := client.Put[any](t.Context(), d.user, d.user.GroupID(group), client.VersionCore, map[string]any{"location": "local"}); err != nil {
		t.Fatal(err)
	}
	d.cluster = d.user.ClusterID(group, "Microsoft.Kubernetes", "connectedClusters", "drill")
	if _, err := client.Put[any](t.Context(), d.user, d.cluster, client.VersionCluster, map[string]any{"location": "local", "properties": map[string]any{
		"agentPublicKeyCertificate": base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&d.key.PublicKey))}}); err != nil {
		t.Fatal(err)
	}
	d.agent(t)
	return d
}

func (d *drill) start(t *testing.T) {
	t.Helper()
	d.hub.start(t)
	d.balancer.await(t, 1)
}

func (d *drill) kill(t *testing.T) {
	t.Helper()
	d.hub.kill()
	eventually(t, 10*time.Second, func() error {
		if d.balancer.readyCount() > 0 {
			return errors.New("the hub still counts as ready")
		}
		return nil
	})
}

func (d *drill) agent(t *testing.T) {
	t.Helper()
	var up *uplink.Uplink
	take := func(desired link.Desired) {
		d.mu.Lock()
		defer d.mu.Unlock()
		now := time.Now().UTC()
		before := d.reported
		d.reported = map[string]int64{} // what is not desired any more is forgotten
		for _, item := range desired.Items {
			o := link.Observed{ID: item.ID, Generation: item.Generation}
			if item.Configuration == nil {
				o.Extension = &resource.ExtensionObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, CurrentVersion: "1.0.0"}
			} else {
				d.paths[item.Name] = item.Configuration.Kustomizations["app"].Path
				o.Configuration = &resource.FluxConfigurationObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, StatusUpdatedAt: &now,
					StatusGeneration: item.Generation, ComplianceState: resource.Compliant, Statuses: []resource.ObjectStatus{}}
			}
			if d.reported[item.ID] = item.Generation; before[item.ID] != item.Generation {
				up.Report(o)
			}
		}
	}
	up, err := uplink.New(uplink.Config{Hub: d.url, CA: d.authority(t), Cluster: d.cluster, Key: d.key, Log: logr.Discard(), Desired: take,
		Heartbeat: func(context.Context) link.Heartbeat { return link.Heartbeat{AgentVersion: "1.0.0"} }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- up.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// put asks for a path and waits until hub and agent agree that it is so.
func (d *drill) put(t *testing.T, name, path string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		_, err := client.Put[any](t.Context(), d.user, client.ConfigurationID(d.cluster, name), client.VersionConfiguration, configuration(path))
		return err
	})
	d.agree(t, name, path)
}

func configuration(path string) map[string]any {
	return map[string]any{"properties": map[string]any{
		"scope": "cluster", "namespace": "apps", "sourceKind": "GitRepository",
		"gitRepository":  map[string]any{"url": "https://git.example/app.git", "repositoryRef": map[string]any{"branch": "main"}},
		"kustomizations": map[string]any{"app": map[string]any{"path": path}}}}
}

func (d *drill) agree(t *testing.T, name, path string) {
	t.Helper()
	eventually(t, 40*time.Second, func() error {
		d.mu.Lock()
		told := d.paths[name]
		d.mu.Unlock()
		got, err := client.Get[client.Resource[client.Configuration]](t.Context(), d.user, client.ConfigurationID(d.cluster, name), client.VersionConfiguration)
		if err != nil {
			return err
		}
		p := got.Properties
		if told != path || p.Kustomizations["app"].Path != path || p.ProvisioningState != resource.Succeeded || p.ComplianceState != resource.Compliant {
			return fmt.Errorf("the agent was told %q, the hub says %q, %s and %s; want %q", told, p.Kustomizations["app"].Path, p.ProvisioningState, p.ComplianceState, path)
		}
		return nil
	})
}

// command runs a command of the hub's program.
func command(args ...string) (string, error) {
	var out bytes.Buffer
	c := hub.NewCommand("test")
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.Execute()
	return out.String(), err
}

// TestRestoreDrill loses the storage and restores it from a backup that is older
// than what the agent has; then it puts an old copy of the files in place, as
// nobody should. Hub and agent agree each time.
func TestRestoreDrill(t *testing.T) {
	d := newDrill(t)
	d.put(t, "app", "./1")
	file := filepath.Join(d.dir, "backup")
	if out, err := command("backup", "--data-dir", d.data, "--output", file); err != nil || !strings.Contains(out, "vault.key") {
		t.Fatalf("backup of a running hub: %v %s", err, out)
	}
	d.put(t, "app", "./2")
	d.put(t, "later", "./1")
	d.kill(t)

	files := filepath.Join(d.data, "etcd")
	if _, err := command("restore", "--data-dir", d.data, "--input", file); err == nil || !strings.Contains(err.Error(), files) {
		t.Errorf("over a storage that is there: %v", err)
	}
	if err := os.RemoveAll(files); err != nil {
		t.Fatal(err)
	}
	damaged(t, d.data, file)
	if out, err := command("restore", "--data-dir", d.data, "--input", file); err != nil {
		t.Fatalf("restore: %v %s", err, out)
	}
	d.start(t)
	d.agree(t, "app", "./1")
	d.put(t, "later", "./1")
	d.put(t, "app", "./3")

	d.kill(t)
	old := filepath.Join(d.dir, "old")
	if err := os.CopyFS(old, storageOnly{os.DirFS(files)}); err != nil {
		t.Fatal(err)
	}
	d.start(t)
	d.put(t, "app", "./4")
	d.kill(t)
	if err := errors.Join(os.RemoveAll(files), os.Rename(old, files), os.Chmod(files, 0o700)); err != nil {
		t.Fatal(err)
	}
	d.start(t)
	d.agree(t, "app", "./3")
	d.put(t, "app", "./5")
	if out, err := command("backup", "--data-dir", d.data, "--output", file); err == nil {
		t.Errorf("a backup over another: %s", out)
	}
}

// damaged tries backups that are not whole, and keys that do not belong.
func damaged(t *testing.T, data, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	note, err := os.ReadFile(file + ".json")
	if err != nil {
		t.Fatal(err)
	}
	for why, edit := range map[string]func([]byte) []byte{
		"cut off":     func(b []byte) []byte { return b[:len(b)/2] },
		"one bit off": func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/3] ^= 1; return b },
		"empty":       func([]byte) []byte { return nil },
	} {
		bad := filepath.Join(t.TempDir(), "bad")
		if err := errors.Join(os.WriteFile(bad, edit(raw), 0o600), os.WriteFile(bad+".json", note, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := command("restore", "--data-dir", data, "--input", bad); !errors.Is(err, etcd.ErrDamaged) {
			t.Errorf("a backup that is %s: %v", why, err)
		}
	}
	if _, err := command("restore", "--data-dir", t.TempDir(), "--input", file); err == nil || !strings.Contains(err.Error(), "vault.key") {
		t.Errorf("without the keys: %v", err)
	}
}

// storageOnly leaves sockets out of a copy.
type storageOnly struct{ fs.FS }

// ReadDir lists what is a file or a folder.
func (s storageOnly) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(s.FS, name)
	return slices.DeleteFunc(all, func(d fs.DirEntry) bool { return d.Type()&fs.ModeSocket != 0 }), err
}
