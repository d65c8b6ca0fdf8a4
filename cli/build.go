package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	yamlreader "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"headwater.dev/kernel/manifest"
)

// exitTrouble is the exit code of commands of which 1 has a meaning, such as
// diff.
const exitTrouble = 2

// localBuild is a Kustomization that is built from files of this machine.
type localBuild struct {
	fluxCluster
	path, root, file string
	strict           bool
}

func (o *localBuild) flags(cmd *cobra.Command) {
	o.fluxCluster.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.path, "path", "", "directory of the manifests (required)")
	f.StringVar(&o.root, "root", "", "directory that nothing is read outside of (default the Git work tree around --path)")
	f.StringVar(&o.file, "kustomization-file", "", "file that holds the Kustomization (default: the one in the cluster is read)")
	f.BoolVar(&o.strict, "strict-substitute", false, "fail when a variable is not set and has no default")
}

func (s *session) buildCommand() *cobra.Command {
	return groupOf("build", "Build what a cluster would be given", s.buildKustomization())
}

func (s *session) buildKustomization() *cobra.Command {
	var o localBuild
	var dry bool
	cmd := &cobra.Command{
		Use: "kustomization NAME", Aliases: []string{"ks"}, Short: "Build a Kustomization from files of this machine", Args: cobra.ExactArgs(1),
		Long: `Build a Kustomization from files of this machine, as the cluster would.

The Kustomization is read from the cluster, or from --kustomization-file. Variables
are read from the cluster; with --dry-run it is not asked for anything, and only
spec.postBuild.substitute is known. What is encrypted stays encrypted.`,
		Example: `  headwater build kustomization apps --path ./apps/production
  headwater build kustomization apps --path ./apps/production --kustomization-file ./clusters/production/apps.yaml --dry-run`,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dry && o.file == "" {
			return errors.New("--dry-run needs --kustomization-file: the cluster is not asked")
		}
		var access *fluxAccess
		if !dry {
			var err error
			if access, err = o.open(s); err != nil {
				return err
			}
		}
		k, err := o.kustomization(cmd, access, args[0])
		if err != nil {
			return err
		}
		built, err := o.build(cmd, access, k, nil)
		if err != nil {
			return err
		}
		return printObjects(cmd.OutOrStdout(), built.Objects)
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "do not ask the cluster for anything")
	return cmd
}

func printObjects(w io.Writer, objects []*unstructured.Unstructured) error {
	var b bytes.Buffer
	for _, u := range objects {
		text, err := yaml.Marshal(u.Object)
		if err != nil {
			return fmt.Errorf("print %s: %w", manifest.Name(u), err)
		}
		b.WriteString("---\n")
		b.Write(text)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// kustomization finds the Kustomization in the file or in the cluster.
func (o *localBuild) kustomization(cmd *cobra.Command, access *fluxAccess, name string) (*kustomizev1.Kustomization, error) {
	if o.file == "" {
		return access.kustomization(cmd.Context(), types.NamespacedName{Namespace: o.namespace, Name: name})
	}
	data, err := os.ReadFile(o.file)
	if err != nil {
		return nil, fmt.Errorf("read --kustomization-file: %w", err)
	}
	documents := yamlreader.NewYAMLReader(newBufferedReader(data))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: %s holds no Kustomization %s of %s", errMissing, o.file, name, kustomizev1.GroupVersion.Group)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", o.file, err)
		}
		k := &kustomizev1.Kustomization{}
		if err := yaml.Unmarshal(document, k); err != nil {
			return nil, fmt.Errorf("read %s: %w", o.file, err)
		}
		if k.Kind == kustomizev1.KustomizationKind && k.GroupVersionKind().Group == kustomizev1.GroupVersion.Group && k.Name == name {
			if k.Namespace == "" {
				k.Namespace = o.namespace
			}
			return k, nil
		}
	}
}

// build runs the kernel's build over the files of this machine.
func (o *localBuild) build(cmd *cobra.Command, access *fluxAccess, k *kustomizev1.Kustomization, keys manifest.Decrypter) (*manifest.Result, error) {
	root, path, err := o.place()
	if err != nil {
		return nil, err
	}
	vars, err := o.variables(cmd, access, k)
	if err != nil {
		return nil, err
	}
	spec := k.Spec.DeepCopy()
	spec.Path = path
	built, err := manifest.Build(cmd.Context(), manifest.Request{Root: root, Spec: spec, Variables: vars, Decrypt: keys, KeepEncrypted: keys == nil})
	if err != nil {
		return nil, fmt.Errorf("build Kustomization %s/%s: %w", k.Namespace, k.Name, err)
	}
	return built, nil
}

// place splits --path into the directory that a build sees and the path in it.
func (o *localBuild) place() (root, path string, err error) {
	if o.path == "" {
		return "", "", errors.New("--path is missing: give the directory of the manifests")
	}
	dir, err := filepath.Abs(o.path)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", "", fmt.Errorf("--path: %w", err)
	}
	root = dir
	if o.root != "" {
		if root, err = filepath.Abs(o.root); err == nil {
			root, err = filepath.EvalSymlinks(root)
		}
		if err != nil {
			return "", "", fmt.Errorf("--root: %w", err)
		}
	} else {
		for at := dir; ; at = filepath.Dir(at) {
			if _, err := os.Stat(filepath.Join(at, ".git")); err == nil {
				root = at
				break
			}
			if at == filepath.Dir(at) {
				break
			}
		}
	}
	path, err = filepath.Rel(root, dir)
	if err != nil || path == ".." || strings.HasPrefix(path, ".."+string(filepath.Separator)) {
		return "", "", fmt.Errorf("--path %s is not in --root %s", o.path, o.root)
	}
	return root, path, nil
}

// variables are those of spec.postBuild; without access those of other objects
// are not known.
func (o *localBuild) variables(cmd *cobra.Command, access *fluxAccess, k *kustomizev1.Kustomization) (*manifest.Variables, error) {
	post := k.Spec.PostBuild
	if post == nil {
		return nil, nil
	}
	var layers []map[string]string
	for _, ref := range post.SubstituteFrom {
		if access == nil {
			say(cmd, "without the cluster, the variables of %s %s are not known", ref.Kind, ref.Name)
			continue
		}
		values, err := access.variables(cmd, k.Namespace, ref)
		if err != nil {
			return nil, err
		}
		layers = append(layers, values)
	}
	return manifest.NewVariables(post, o.strict, layers...)
}

func (a *fluxAccess) variables(cmd *cobra.Command, ns string, ref kustomizev1.SubstituteReference) (map[string]string, error) {
	key := types.NamespacedName{Namespace: ns, Name: ref.Name}
	values := map[string]string{}
	var err error
	switch ref.Kind {
	case "ConfigMap":
		var cm corev1.ConfigMap
		err = a.Client.Get(cmd.Context(), key, &cm)
		values = cm.Data
	case "Secret":
		var secret corev1.Secret
		err = a.Client.Get(cmd.Context(), key, &secret)
		for name, value := range secret.Data {
			values[name] = string(value)
		}
	default:
		return nil, fmt.Errorf("spec.postBuild.substituteFrom: kind %q is not supported: use ConfigMap or Secret", ref.Kind)
	}
	if apierrors.IsNotFound(err) && ref.Optional {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the variables of %s %s: %w", ref.Kind, key, err)
	}
	return values, nil
}
