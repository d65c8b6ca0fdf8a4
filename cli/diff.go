package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/decrypt"
	"headwater.dev/kernel/manifest"
)

// coded is an error with an exit code of its own.
type coded struct {
	code int
	err  error // nil when there is nothing to complain of
}

func (c *coded) Error() string {
	if c.err == nil {
		return ""
	}
	return c.err.Error()
}

func (c *coded) Unwrap() error { return c.err }

func (s *session) diffCommand() *cobra.Command {
	return groupOf("diff", "Show what would change in a cluster", s.diffKustomization())
}

func (s *session) diffKustomization() *cobra.Command {
	var o localBuild
	trouble := func(err error) error {
		if err == nil {
			return nil
		}
		return &coded{exitTrouble, err}
	}
	cmd := &cobra.Command{
		Use: "kustomization NAME", Aliases: []string{"ks"}, Short: "Show what files of this machine would change in the cluster",
		Long: `Show what files of this machine would change in the cluster, before they do.

The files are built as the cluster would build them, and the API server is asked by
dry runs what an apply would give: defaults and webhooks included. Objects are
created, drifted (they would be changed), recreated or deleted. Values of Secrets are
not shown. Exit code 0: nothing would change; 1: something would; 2: it could not be
found out.`,
		Example: "  headwater diff kustomization apps --path ./apps/production",
		Args:    func(cmd *cobra.Command, args []string) error { return trouble(cobra.ExactArgs(1)(cmd, args)) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return trouble(err) })
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		plans, err := o.plan(s, cmd, args[0])
		if err != nil {
			return trouble(err)
		}
		changes, err := printPlans(cmd.OutOrStdout(), plans)
		if err != nil {
			return trouble(err)
		}
		if changes > 0 {
			return &coded{code: exitFailure}
		}
		return nil
	}
	o.flags(cmd)
	return cmd
}

// plan builds the files and asks the cluster what would become of them.
func (o *localBuild) plan(s *session, cmd *cobra.Command, name string) ([]apply.Planned, error) {
	access, err := o.open(s)
	if err != nil {
		return nil, err
	}
	k, err := o.kustomization(cmd, access, name)
	if err != nil {
		return nil, err
	}
	if k.Spec.KubeConfig != nil {
		return nil, fmt.Errorf("Kustomization %s/%s applies to another cluster (spec.kubeConfig): give its kubeconfig and a --kustomization-file without spec.kubeConfig", k.Namespace, k.Name)
	}
	ignore, err := apply.CompileIgnores(k.Spec.Ignore)
	if err != nil {
		return nil, err
	}
	keys, err := access.keys(cmd.Context(), k)
	if err != nil {
		return nil, err
	}
	built, err := o.build(cmd, access, k, keys)
	if err != nil {
		return nil, err
	}
	owner := types.NamespacedName{Namespace: k.Namespace, Name: k.Name}
	request := apply.Request{Tenant: apply.Tenant{Owner: owner, Access: access.Access}, Objects: built.Objects, Force: k.Spec.Force, Ignore: ignore}
	refs, err := apply.Fit(request.Tenant, built.Objects)
	if err != nil {
		return nil, err
	}
	stale, err := access.stale(cmd.Context(), k, request.Tenant, refs)
	if err != nil {
		return nil, err
	}
	engine := &apply.Engine{
		Manager: fluxManager, Group: fluxGroup, Parallel: planParallel,
		Watcher: apply.NewWatcher(fluxManager, fluxGroup, func(types.NamespacedName) {}),
	}
	return engine.Plan(cmd.Context(), request, stale)
}

// keys are those of the Kustomization's Secret. What clouds hold is not asked
// for: the command has no identity there.
func (a *fluxAccess) keys(ctx context.Context, k *kustomizev1.Kustomization) (manifest.Decrypter, error) {
	d := k.Spec.Decryption
	if d == nil {
		return nil, nil
	}
	var config decrypt.Config
	if d.SecretRef != nil {
		secret := &corev1.Secret{}
		key := types.NamespacedName{Namespace: k.Namespace, Name: d.SecretRef.Name}
		if err := a.Client.Get(ctx, key, secret); err != nil {
			return nil, fmt.Errorf("read the keys of spec.decryption in Secret %s: %w", key, err)
		}
		config.Secret = secret.Data
	}
	keys, err := decrypt.Load(config)
	if err != nil {
		return nil, fmt.Errorf("spec.decryption.secretRef: %w", err)
	}
	return keys, nil
}

// stale is what the Kustomization in the cluster applied and would prune.
func (a *fluxAccess) stale(ctx context.Context, k *kustomizev1.Kustomization, t apply.Tenant, refs []apply.Ref) ([]apply.Ref, error) {
	if !k.Spec.Prune {
		return nil, nil
	}
	live, err := a.kustomization(ctx, t.Owner)
	if errors.Is(err, errMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return apply.Stale(t, apply.Refs(live.Status.Inventory), refs), nil
}

// printPlans prints what would change and counts it. Objects that could not be
// judged are one error.
func printPlans(w io.Writer, plans []apply.Planned) (int, error) {
	var b strings.Builder
	var failed []error
	n := 0
	for _, p := range plans {
		if p.Err != nil {
			failed = append(failed, p.Err)
			continue
		}
		word := ""
		switch p.Action {
		case apply.Created, apply.Recreated, apply.Deleted:
			word = string(p.Action)
		case apply.Configured:
			word = "drifted"
		default:
			continue
		}
		n++
		fmt.Fprintf(&b, "► %s %s\n", clean(p.Ref.String()), word)
		if p.Action == apply.Configured || p.Action == apply.Recreated {
			for _, d := range differences(p.Was, p.Will) {
				d.print(&b)
			}
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return n, err
	}
	return n, errors.Join(failed...)
}
