package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// ErrRunning says that the state folder belongs to a system that runs.
var ErrRunning = errors.New("a system is running already; take it down with dev down")

// Variable is what a user's shell needs to know.
type Variable struct{ Name, Value string }

// Env returns the variables of .dev/env. The hub must have been started.
func (s *System) Env() ([]Variable, error) {
	admin, err := s.Hub.Admin()
	if err != nil {
		return nil, err
	}
	return []Variable{
		{"KUBECONFIG", s.kubeconfig()},
		{"HEADWATER_HUB", s.Hub.URL},
		{"HEADWATER_CA", s.Hub.CA()},
		{"AZURE_TENANT_ID", admin.TenantID},
		{"AZURE_SUBSCRIPTION_ID", admin.SubscriptionID},
		{"AZURE_CLIENT_ID", admin.ClientID},
		{"AZURE_CLIENT_SECRET", admin.ClientSecret},
		{"RESOURCE_GROUP", ResourceGroup},
		{"CLUSTER", s.Members[0].Name},
		{"GIT_URL", s.Git.BaseURL()},
		{"GIT_SSH_URL", s.Git.SSHBaseURL()},
		{"GIT_USER", s.GitUser},
		{"GIT_PASSWORD", s.GitPassword},
		{"OCI_REGISTRY", "oci://" + s.Registry.Host()},
		{"HELM_REPOSITORY", s.Helm.URL()},
		{"SAMPLE_IMAGE", s.sampleImage()},
	}, nil
}

// kubeconfig is the file with access to all clusters.
func (s *System) kubeconfig() string {
	if s.Options.Kubeconfig != "" {
		return s.Options.Kubeconfig
	}
	return s.Options.path("kubeconfig")
}

// writeState writes .dev/kubeconfig and .dev/env.
func (s *System) writeState() error {
	if s.Options.Kubeconfig == "" {
		if err := s.mergeKubeconfigs(); err != nil {
			return err
		}
	}
	variables, err := s.Env()
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, v := range variables {
		fmt.Fprintf(&text, "export %s=%s\n", v.Name, quote(v.Value))
	}
	fmt.Fprintf(&text, "export PATH=%s:\"$PATH\"\n", quote(s.Options.Bin+":"+s.Options.path("bin")))
	if err := os.WriteFile(s.Options.path("env"), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write .dev/env: %w", err)
	}
	return nil
}

// mergeKubeconfigs makes one file with a context for each cluster.
func (s *System) mergeKubeconfigs() error {
	merged := api.NewConfig()
	for _, m := range s.Members {
		config, err := clientcmd.LoadFromFile(m.Kubeconfig)
		if err != nil {
			return fmt.Errorf("read kubeconfig of %s: %w", m.Name, err)
		}
		current, ok := config.Contexts[config.CurrentContext]
		if !ok {
			return fmt.Errorf("kubeconfig of %s has no current context", m.Name)
		}
		merged.Clusters[m.Name] = config.Clusters[current.Cluster]
		merged.AuthInfos[m.Name] = config.AuthInfos[current.AuthInfo]
		merged.Contexts[m.Name] = &api.Context{Cluster: m.Name, AuthInfo: m.Name}
	}
	merged.CurrentContext = s.Members[0].Name
	if err := clientcmd.WriteToFile(*merged, s.kubeconfig()); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// headwater runs the user's CLI for a member, or for none.
func (s *System) headwater(ctx context.Context, m *Member, args ...string) error {
	_, err := s.output(ctx, m, args...)
	return err
}

// output runs the user's CLI with the system's variables and returns what it says.
func (s *System) output(ctx context.Context, m *Member, args ...string) (string, error) {
	variables, err := s.Env()
	if err != nil {
		return "", err
	}
	if m != nil {
		variables = append(variables, Variable{"KUBECONFIG", m.Kubeconfig})
	}
	return s.run(ctx, variables, args...)
}

func (s *System) run(ctx context.Context, variables []Variable, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.Options.Bin, "headwater"), args...)
	cmd.Env = os.Environ()
	for _, v := range variables {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("headwater %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaints.String()))
	}
	return out.String(), nil
}

// quote makes a word of the shell.
func quote(value string) string { return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'" }

// lock makes this process the owner of the state folder.
func lock(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of state folder: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrRunning
		}
		return nil, fmt.Errorf("lock state folder: %w", err)
	}
	return func() { file.Close() }, nil
}
