package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/yaml"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/tenant"
)

const (
	// fluxManager and fluxGroup are what the cluster's loop applies with.
	fluxManager = "kustomize-controller"
	fluxGroup   = "kustomize.toolkit.fluxcd.io"
	// planParallel requests at a time.
	planParallel = 8
	// maxTreeDepth of Kustomizations that apply Kustomizations.
	maxTreeDepth = 20
)

// fluxCluster is the cluster that Flux objects are read from.
type fluxCluster struct {
	kubeconfig, context, namespace string
}

func (o *fluxCluster) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster (default $KUBECONFIG)")
	f.StringVar(&o.context, "context", "", "context of the kubeconfig")
	f.StringVarP(&o.namespace, "namespace", "n", "flux-system", "namespace of the Kustomization")
}

// fluxAccess reaches the cluster with the rights of whoever types.
type fluxAccess struct{ *tenant.Access }

func (o *fluxCluster) open(s *session) (*fluxAccess, error) {
	at, err := (&member{kubeconfig: o.kubeconfig, context: o.context}).open(s)
	if err != nil {
		return nil, err
	}
	bounded := rest.CopyConfig(at.config)
	bounded.Timeout = requestTimeout
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, kustomizev1.AddToScheme, helmv2.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register kinds: %w", err)
		}
	}
	var transport http.RoundTripper
	if transport, err = rest.TransportFor(bounded); err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	mapper, err := apiutil.NewDynamicRESTMapper(bounded, &http.Client{Transport: transport, Timeout: requestTimeout})
	if err != nil {
		return nil, fmt.Errorf("ask the cluster %s for its kinds: %w", bounded.Host, err)
	}
	clients, err := tenant.New(bounded, scheme, mapper)
	if err != nil {
		return nil, err
	}
	access, err := clients.Own()
	if err != nil {
		return nil, err
	}
	return &fluxAccess{access}, nil
}

func (a *fluxAccess) kustomization(ctx context.Context, key types.NamespacedName) (*kustomizev1.Kustomization, error) {
	k := &kustomizev1.Kustomization{}
	err := a.Client.Get(ctx, key, k)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("%w: the cluster has no Kustomization %s: give its namespace with --namespace", errMissing, key)
	case meta.IsNoMatchError(err):
		return nil, fmt.Errorf("%w: the cluster does not serve Kustomizations: install the extension, or give --kubeconfig", errMissing)
	case err != nil:
		return nil, fmt.Errorf("read Kustomization %s: %w", key, err)
	}
	return k, nil
}

func newBufferedReader(data []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(data)) }

// branch is an object with what it applies.
type branch struct {
	Resource struct {
		Namespace string
		Name      string
		GroupKind struct{ Group, Kind string }
	} `json:"resource"`
	Health    string    `json:"health"`
	Message   string    `json:"message,omitempty"`
	Resources []*branch `json:"resources,omitempty"`
}

func (s *session) treeCommand() *cobra.Command {
	return groupOf("tree", "Show what objects apply", s.treeKustomization())
}

func (s *session) treeKustomization() *cobra.Command {
	var o fluxCluster
	cmd := &cobra.Command{
		Use: "kustomization NAME", Aliases: []string{"ks"}, Short: "Show what a Kustomization applied, and its health", Args: cobra.ExactArgs(1),
		Long: `Show what a Kustomization applied, and the health of each object.

Kustomizations and HelmReleases among them are followed. Without --output the tree
is drawn; json and yaml give the same as data.`,
		Example: "  headwater tree kustomization flux-system\n  headwater tree kustomization apps --namespace team-a --output json",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		access, err := o.open(s)
		if err != nil {
			return err
		}
		key := types.NamespacedName{Namespace: o.namespace, Name: args[0]}
		if _, err := access.kustomization(cmd.Context(), key); err != nil {
			return err
		}
		t := &treeReader{access: access, watcher: apply.NewWatcher(fluxManager, fluxGroup, func(types.NamespacedName) {}), seen: map[apply.ID]bool{}}
		ref := apply.Ref{Version: kustomizev1.GroupVersion.Version}
		ref.Namespace, ref.Name = key.Namespace, key.Name
		ref.GroupKind.Group, ref.GroupKind.Kind = kustomizev1.GroupVersion.Group, kustomizev1.KustomizationKind
		root, err := t.read(cmd.Context(), ref, 0)
		if err != nil {
			return err
		}
		return s.printTree(cmd, root)
	}
	o.flags(cmd)
	return cmd
}

func (s *session) printTree(cmd *cobra.Command, root *branch) error {
	if !cmd.Flags().Changed("output") || s.output == "table" {
		var b bytes.Buffer
		draw(&b, root, "", "")
		_, err := cmd.OutOrStdout().Write(b.Bytes())
		return err
	}
	if s.output == "none" {
		return nil
	}
	raw, err := json.MarshalIndent(root, "", "  ")
	if err == nil && s.output == "yaml" {
		raw, err = yaml.JSONToYAML(raw)
	}
	if err != nil {
		return fmt.Errorf("print the tree: %w", err)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.TrimSpace(string(raw)))
	return err
}

// treeReader follows inventories.
type treeReader struct {
	access  *fluxAccess
	watcher *apply.Watcher
	seen    map[apply.ID]bool
}

func (t *treeReader) read(ctx context.Context, ref apply.Ref, depth int) (*branch, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("reading the tree was interrupted: %w", err)
	}
	b := &branch{}
	b.Resource.Namespace, b.Resource.Name = ref.Namespace, ref.Name
	b.Resource.GroupKind.Group, b.Resource.GroupKind.Kind = ref.GroupKind.Group, ref.GroupKind.Kind
	live, err := t.watcher.Get(ctx, apply.Tenant{Access: t.access.Access}, ref)
	switch {
	case err != nil:
		b.Health, b.Message = "Unknown", err.Error()
		return b, nil
	case !live.Exists:
		b.Health = "NotFound"
		return b, nil
	}
	b.Health, b.Message = string(live.Health), live.Message
	refs, err := t.inventory(ctx, ref)
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 || t.seen[ref.ID] || depth == maxTreeDepth {
		return b, nil
	}
	t.seen[ref.ID] = true
	for _, r := range refs {
		child, err := t.read(ctx, r, depth+1)
		if err != nil {
			return nil, err
		}
		b.Resources = append(b.Resources, child)
	}
	return b, nil
}

// inventory of a Kustomization or HelmRelease of this cluster.
func (t *treeReader) inventory(ctx context.Context, ref apply.Ref) ([]apply.Ref, error) {
	key := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
	switch ref.GroupKind.Group + "/" + ref.GroupKind.Kind {
	case fluxGroup + "/" + kustomizev1.KustomizationKind:
		k := &kustomizev1.Kustomization{}
		if err := t.access.Client.Get(ctx, key, k); err != nil {
			return nil, client.IgnoreNotFound(err)
		}
		if k.Spec.KubeConfig != nil {
			return nil, nil // its objects are in another cluster
		}
		return apply.Refs(k.Status.Inventory), nil
	case helmv2.GroupVersion.Group + "/" + helmv2.HelmReleaseKind:
		hr := &helmv2.HelmRelease{}
		if err := t.access.Client.Get(ctx, key, hr); err != nil {
			return nil, client.IgnoreNotFound(err)
		}
		if hr.Spec.KubeConfig != nil || hr.Status.Inventory == nil {
			return nil, nil
		}
		inv := &kustomizev1.ResourceInventory{}
		for _, e := range hr.Status.Inventory.Entries {
			inv.Entries = append(inv.Entries, kustomizev1.ResourceRef{ID: e.ID, Version: e.Version})
		}
		return apply.Refs(inv), nil
	}
	return nil, nil
}

func draw(w io.Writer, b *branch, first, rest string) {
	name := b.Resource.GroupKind.Kind + "/" + b.Resource.Name
	if b.Resource.Namespace != "" {
		name = b.Resource.GroupKind.Kind + "/" + b.Resource.Namespace + "/" + b.Resource.Name
	}
	line := name + " " + b.Health
	if b.Message != "" && b.Health != string(apply.Current) {
		line += ": " + b.Message
	}
	fmt.Fprintln(w, first+clean(line))
	for i, child := range b.Resources {
		if i == len(b.Resources)-1 {
			draw(w, child, rest+"└── ", rest+"    ")
			continue
		}
		draw(w, child, rest+"├── ", rest+"│   ")
	}
}
