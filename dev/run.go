package dev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"headwater.dev/api/resource"
	"headwater.dev/client"
)

const (
	// sampleName is the configuration that Run creates, and its repository.
	sampleName = "sample"
	// sampleNamespace is where it lives; the sample's files name it.
	sampleNamespace = "cluster-config"
	// sampleVersion is the api-version of the configuration.
	sampleVersion = "2025-04-01"
	// samplePatience is how long the sample may take to become compliant.
	samplePatience = 5 * time.Minute
	lookEvery      = 250 * time.Millisecond
)

// ErrNotCompliant says that the sample did not become compliant in time.
var ErrNotCompliant = errors.New("the sample is not compliant")

// Run does the main job on the sample: it brings the system up unless it runs
// already, pushes the sample, creates the configuration through the hub's API,
// shows what happens, and returns nil only when it is compliant. The system
// stays up.
func Run(ctx context.Context, o Options, args []string, out io.Writer) error {
	if err := Start(ctx, o, args); err != nil && !errors.Is(err, ErrRunning) {
		return err
	}
	dir, err := stateDir(o.Dir)
	if err != nil {
		return err
	}
	env, err := readEnv(filepath.Join(dir, "env"))
	if err != nil {
		return err
	}
	r := run{env: env, out: out, began: time.Now()}
	if err := r.sample(ctx); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\nThe system stays up: source %s/env to use it, dev down to stop it.\n", dir)
	return err
}

// Sample does on a system of this process what Run does once the system is up:
// it returns nil when the sample is compliant. What happens is told to out.
func (s *System) Sample(ctx context.Context, out io.Writer) error {
	variables, err := s.Env()
	if err != nil {
		return err
	}
	r := run{env: map[string]string{}, out: out, began: time.Now()}
	for _, v := range variables {
		r.env[v.Name] = v.Value
	}
	return r.sample(ctx)
}

// readEnv reads a file that writeState wrote.
func readEnv(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read how to reach the system: %w", err)
	}
	defer f.Close()
	env := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		if ok && name != "PATH" {
			env[name] = strings.ReplaceAll(strings.Trim(value, "'"), `'\''`, `'`)
		}
	}
	return env, nil
}

// run is one Run.
type run struct {
	env    map[string]string
	out    io.Writer
	began  time.Time
	client *client.Client
	id     string
}

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.out, "%6.1fs  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

func (r *run) sample(ctx context.Context) error {
	if err := r.pushSample(ctx); err != nil {
		return err
	}
	if err := r.configure(ctx); err != nil {
		return err
	}
	c, err := r.follow(ctx)
	if printErr := r.table(c); err == nil {
		err = printErr
	}
	if err != nil {
		return err
	}
	return r.workloads(ctx)
}

func (r *run) pushSample(ctx context.Context) error {
	files, err := filesBelow("repository")
	if err != nil {
		return err
	}
	git := account{url: r.env["GIT_URL"], user: r.env["GIT_USER"], password: r.env["GIT_PASSWORD"]}
	if err := git.createRepository(ctx, sampleName); err != nil {
		return err
	}
	if err := git.push(ctx, sampleName, files); err != nil {
		return err
	}
	r.say("pushed %d files to %s/%s.git", len(files), git.url, sampleName)
	return nil
}

// configure puts the configuration into the hub.
func (r *run) configure(ctx context.Context) error {
	ca, err := os.ReadFile(r.env["HEADWATER_CA"])
	if err != nil {
		return fmt.Errorf("read the hub's authority: %w", err)
	}
	r.client, err = client.New(client.Config{
		Hub: r.env["HEADWATER_HUB"], CA: ca, TenantID: r.env["AZURE_TENANT_ID"], SubscriptionID: r.env["AZURE_SUBSCRIPTION_ID"],
		ClientID: r.env["AZURE_CLIENT_ID"], ClientSecret: r.env["AZURE_CLIENT_SECRET"],
	})
	if err != nil {
		return err
	}
	cluster := r.client.ClusterID(r.env["RESOURCE_GROUP"], "Microsoft.Kubernetes", "connectedClusters", r.env["CLUSTER"])
	r.id = client.ConfigurationID(cluster, sampleName)
	substitute := map[string]any{"substitute": map[string]string{"helm_repository": r.env["HELM_REPOSITORY"], "image": r.env["SAMPLE_IMAGE"]}}
	body := map[string]any{"properties": map[string]any{
		"scope": "cluster", "namespace": sampleNamespace, "sourceKind": "GitRepository",
		"gitRepository": map[string]any{"url": r.env["GIT_URL"] + "/" + sampleName + ".git", "syncIntervalInSeconds": 60,
			"repositoryRef": map[string]any{"branch": "main"}},
		"kustomizations": map[string]any{
			"infra": map[string]any{"path": "./infrastructure", "prune": true, "retryIntervalInSeconds": 10, "postBuild": substitute},
			"apps":  map[string]any{"path": "./apps/staging", "prune": true, "retryIntervalInSeconds": 10, "dependsOn": []string{"infra"}, "postBuild": substitute},
		},
	}}
	if _, err := client.Put[client.Resource[client.Configuration]](ctx, r.client, r.id, sampleVersion, body); err != nil {
		return fmt.Errorf("create the configuration: %w", err)
	}
	r.say("created fluxConfiguration %s on %s", sampleName, r.env["CLUSTER"])
	return nil
}

// follow shows what changes until the configuration is compliant.
func (r *run) follow(ctx context.Context) (client.Configuration, error) {
	ctx, cancel := context.WithTimeout(ctx, samplePatience)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	shown := map[string]string{}
	var c client.Configuration
	for {
		got, err := client.Get[client.Resource[client.Configuration]](ctx, r.client, r.id, sampleVersion)
		if err == nil {
			c = got.Properties
			r.news(c, shown)
			if c.ComplianceState == resource.Compliant && c.ProvisioningState == resource.Succeeded {
				return c, nil
			}
		}
		select {
		case <-ctx.Done():
			return c, fmt.Errorf("%w after %s: %s", ErrNotCompliant, samplePatience, c.ErrorMessage)
		case <-tick.C:
		}
	}
}

// news prints each object whose state is another than when it was last shown.
func (r *run) news(c client.Configuration, shown map[string]string) {
	if c.ProvisioningState != shown[""] {
		r.say("provisioning %s", c.ProvisioningState)
		shown[""] = c.ProvisioningState
	}
	for _, s := range c.Statuses {
		key := s.Kind + " " + s.Namespace + "/" + s.Name
		state := s.ComplianceState
		if state == resource.NonCompliant {
			state += ": " + readyMessage(s)
		}
		if shown[key] != state {
			r.say("%-50s %s", key, state)
			shown[key] = state
		}
	}
}

func readyMessage(s resource.ObjectStatus) string {
	for _, c := range s.StatusConditions {
		if c.Type == "Ready" {
			return c.Message
		}
	}
	return ""
}

// table prints the state of everything that belongs to the configuration.
func (r *run) table(c client.Configuration) error {
	w := tabwriter.NewWriter(r.out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "\nKIND\tNAMESPACE\tNAME\tCOMPLIANCE\n")
	for _, s := range c.Statuses {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Kind, s.Namespace, s.Name, s.ComplianceState)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	_, err := fmt.Fprintf(r.out, "\n%s: %s (revision %s)\n", sampleName, c.ComplianceState, c.SourceSyncedCommitID)
	return err
}

// workloads prints the Deployments that came of it.
func (r *run) workloads(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", r.env["KUBECONFIG"])
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	list, err := kube.AppsV1().Deployments("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list workloads: %w", err)
	}
	w := tabwriter.NewWriter(r.out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "\nNAMESPACE\tDEPLOYMENT\tAVAILABLE\n")
	for _, d := range list.Items {
		fmt.Fprintf(w, "%s\t%s\t%d/%d\n", d.Namespace, d.Name, d.Status.AvailableReplicas, replicas(d))
	}
	return w.Flush()
}

func replicas(d appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}
