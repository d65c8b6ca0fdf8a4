package image

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"headwater.dev/kernel/process"
)

type commandOptions struct {
	output, version, push string
	platforms             []string
	fast                  bool
}

// NewCommand returns the command `images [PROGRAM...]`.
func NewCommand() *cobra.Command {
	var o commandOptions
	cmd := &cobra.Command{
		Use:   "images [agent] [hub]",
		Short: "Build OCI images without a container engine",
		Long: "Builds the images of the programs that run in clusters (all, or those named) from scratch.\n" +
			"The output folder gets an OCI layout with all platforms (oci/) and one archive for each image and platform,\n" +
			"which docker load, podman load and ctr images import read.",
		Example: "  dev images\n  dev images agent --platform=linux/arm64\n  dev images --push=registry.example.org/team",
		RunE:    func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "out", "o", "dist", "folder for the results")
	f.StringVar(&o.version, "version", process.Version(), "version of the images")
	f.StringSliceVar(&o.platforms, "platform", Platforms(), "platforms to build for")
	f.StringVar(&o.push, "push", "", "registry and path to push to as well, like registry.example.org/team")
	f.BoolVar(&o.fast, "fast", false, "build quickly rather than small")
	return cmd
}

func (o *commandOptions) run(cmd *cobra.Command, args []string) error {
	root, err := FindRoot(".")
	if err != nil {
		return err
	}
	programs, err := choose(args)
	if err != nil {
		return err
	}
	for _, p := range programs {
		img, err := Build(cmd.Context(), p, Options{
			Root: root, Version: o.version, Platforms: o.platforms, Fast: o.fast,
			Progress: func(step string) { cmd.PrintErrln(step) },
		})
		if err != nil {
			return err
		}
		if err := o.write(cmd, p, img); err != nil {
			return err
		}
	}
	return nil
}

func (o *commandOptions) write(cmd *cobra.Command, p Program, img *Image) error {
	oci := filepath.Join(o.output, "oci")
	if err := img.WriteLayout(oci); err != nil {
		return err
	}
	cmd.Printf("%s in %s\n", img.Reference, oci)
	for _, platform := range o.platforms {
		file := filepath.Join(o.output, p.Name+"-"+o.version+"-"+strings.ReplaceAll(platform, "/", "-")+".tar")
		if err := img.WriteArchive(file, platform); err != nil {
			return err
		}
		cmd.Printf("%s for %s in %s\n", img.Reference, platform, file)
	}
	if o.push == "" {
		return nil
	}
	pushed, err := img.Push(cmd.Context(), o.push)
	if err != nil {
		return err
	}
	cmd.Printf("pushed %s\n", pushed)
	return nil
}

// choose returns the programs with these names, all without names.
func choose(names []string) ([]Program, error) {
	if len(names) == 0 {
		return Programs(), nil
	}
	var chosen []Program
	for _, n := range names {
		i := slices.IndexFunc(Programs(), func(p Program) bool { return p.Name == n })
		if i < 0 {
			var known []string
			for _, p := range Programs() {
				known = append(known, p.Name)
			}
			return nil, fmt.Errorf("there is no image of %q; one of %s", n, strings.Join(known, ", "))
		}
		chosen = append(chosen, Programs()[i])
	}
	return chosen, nil
}
