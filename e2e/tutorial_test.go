package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/api/resource"
	"headwater.dev/client"
	"headwater.dev/dev"
	"headwater.dev/dev/gitserver"
	"headwater.dev/dev/k8s"
)

// tutorialPatience is how long three foreign charts may take.
const tutorialPatience = 3 * time.Minute

// testdata finds the real input that is not part of the project.
func testdata(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("HEADWATER_TESTDATA")
	if dir == "" {
		root, err := k8s.ModuleRoot()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, "..", "shared", "data")
	}
	if _, err := os.Stat(filepath.Join(dir, "repos", "gitops-flux2-kustomize-helm-mt")); err != nil {
		t.Skipf("the tutorial's repository and charts are not here (HEADWATER_TESTDATA names their folder): %v", err)
	}
	return dir
}

// TestTutorial deploys the repository of Azure's tutorial with its three charts,
// unchanged but for the addresses of the Helm repositories.
func TestTutorial(t *testing.T) {
	dir := testdata(t)
	charts, err := filepath.Glob(filepath.Join(dir, "charts", "*.tgz"))
	if err != nil || len(charts) < 3 {
		t.Fatalf("found %d charts: %v", len(charts), err)
	}
	for _, file := range charts {
		archive, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := system.Helm.AddArchive(archive); err != nil {
			t.Fatal(err)
		}
	}
	files := tutorialFiles(t, filepath.Join(dir, "repos", "gitops-flux2-kustomize-helm-mt"))
	if err := system.Git.CreateRepository("tutorial", false); err != nil {
		t.Fatal(err)
	}
	if _, err := system.Git.CommitChange("tutorial", "main", gitserver.Change{Message: "Tutorial", Write: files, Replace: true}); err != nil {
		t.Fatal(err)
	}
	c, id := configure(t, system, "tutorial", map[string]any{
		"scope": "cluster", "namespace": "cluster-config", "sourceKind": "GitRepository",
		"gitRepository": map[string]any{"url": system.Git.URL("tutorial"), "repositoryRef": map[string]any{"branch": "main"}},
		"kustomizations": map[string]any{
			"infra": map[string]any{"path": "./infrastructure", "prune": true},
			"apps":  map[string]any{"path": "./apps/staging", "prune": true, "dependsOn": []string{"infra"}},
		},
	})
	got := awaitCompliant(t, c, id)
	releases := map[string]string{}
	for _, s := range got.Statuses {
		if s.Kind == "HelmRelease" {
			releases[s.Name] = s.ComplianceState
		}
	}
	for _, name := range []string{"nginx", "redis", "podinfo"} {
		if releases[name] != resource.Compliant {
			t.Errorf("HelmRelease %s is %q; all: %v", name, releases[name], releases)
		}
	}
	for ns, want := range map[string]string{"nginx": "nginx-ingress-controller", "podinfo": "podinfo"} {
		if list := deployments(t, system, ns); len(list) == 0 || !strings.Contains(list[0].Name, want) {
			t.Errorf("namespace %s has %d Deployments, want one called like %s", ns, len(list), want)
		}
	}
	remove(t, c, id)
}

// tutorialFiles reads the repository and points its Helm repositories at ours.
func tutorialFiles(t *testing.T, root string) map[string]string {
	t.Helper()
	files, changed := map[string]string{}, 0
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		lines := strings.Split(string(content), "\n")
		for i, line := range lines {
			if strings.Contains(rel, "sources") && strings.HasPrefix(line, "  url: ") {
				lines[i] = "  url: " + system.Helm.URL()
				changed++
			}
		}
		files[rel] = strings.Join(lines, "\n")
		return nil
	})
	if err != nil || changed != 3 {
		t.Fatalf("changed %d addresses, want 3: %v", changed, err)
	}
	return files
}

// configure puts a fluxConfiguration into a system's hub.
func configure(t *testing.T, s *dev.System, name string, properties map[string]any) (*client.Client, string) {
	t.Helper()
	admin, err := s.Hub.Admin()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(s.Hub.CA())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{Hub: s.Hub.URL, CA: ca, TenantID: admin.TenantID, SubscriptionID: admin.SubscriptionID,
		ClientID: admin.ClientID, ClientSecret: admin.ClientSecret})
	if err != nil {
		t.Fatal(err)
	}
	id := client.ConfigurationID(c.ClusterID(dev.ResourceGroup, "Microsoft.Kubernetes", "connectedClusters", s.Members[0].Name), name)
	if _, err := client.Put[client.Resource[client.Configuration]](t.Context(), c, id, "2025-04-01", map[string]any{"properties": properties}); err != nil {
		t.Fatal(err)
	}
	return c, id
}

// awaitCompliant returns the configuration when it is compliant.
func awaitCompliant(t *testing.T, c *client.Client, id string) client.Configuration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), tutorialPatience)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last client.Configuration
	for {
		got, err := client.Get[client.Resource[client.Configuration]](ctx, c, id, "2025-04-01")
		if err == nil {
			last = got.Properties
			if last.ComplianceState == resource.Compliant {
				return last
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s after %s: %s\n%s", last.ComplianceState, tutorialPatience, last.ErrorMessage, describe(last))
		case <-tick.C:
		}
	}
}

func describe(c client.Configuration) string {
	var b strings.Builder
	for _, s := range c.Statuses {
		fmt.Fprintf(&b, "%s %s/%s %s", s.Kind, s.Namespace, s.Name, s.ComplianceState)
		for _, x := range s.StatusConditions {
			if x.Type == "Ready" {
				fmt.Fprintf(&b, ": %s", x.Message)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// remove deletes a configuration and waits until its cluster has.
func remove(t *testing.T, c *client.Client, id string) {
	t.Helper()
	p, err := client.Delete(t.Context(), c, id, "2025-04-01", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), tutorialPatience)
	defer cancel()
	if _, err := p.Wait(ctx); err != nil {
		t.Errorf("delete %s: %v", id, err)
	}
}

func deployments(t *testing.T, s *dev.System, namespace string) []appsv1.Deployment {
	t.Helper()
	list, err := kube(t, s).AppsV1().Deployments(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func kube(t *testing.T, s *dev.System) kubernetes.Interface {
	t.Helper()
	config, err := s.Members[0].Config()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
