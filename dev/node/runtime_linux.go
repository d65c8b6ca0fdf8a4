package node

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"text/template"

	"golang.org/x/sync/errgroup"

	"headwater.dev/dev/image"
)

const socket = "/run/containerd/containerd.sock"

// pause is the program that holds the namespaces of every pod.
func pause() image.Program { return image.Program{Name: "pause", Package: "./dev/node/pause"} }

// containerd 1 and 2 name the same settings differently.
//
//go:embed containerd.toml.tmpl
var containerdTemplate string

var containerdVersion = regexp.MustCompile(`\bv?([0-9]+)\.[0-9]+\.[0-9]+`)

// startRuntime starts containerd and imports all images, which are built meanwhile.
func (n *Node) startRuntime(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	archives := make([]string, len(n.cfg.Programs)+1)
	for i, p := range append([]image.Program{pause()}, n.cfg.Programs...) {
		group.Go(func() (err error) {
			archives[i], err = n.archive(groupCtx, p)
			return err
		})
	}
	group.Go(func() error { return n.startContainerd(groupCtx) })
	if err := group.Wait(); err != nil {
		return err
	}
	for _, file := range append(archives, n.cfg.Archives...) {
		if err := n.Import(ctx, file); err != nil {
			return err
		}
	}
	n.say("images are imported")
	return nil
}

// archive builds the image of a program, for this machine only.
func (n *Node) archive(ctx context.Context, p image.Program) (string, error) {
	platform := "linux/" + runtime.GOARCH
	img, err := image.Build(ctx, p, image.Options{Root: n.cfg.Root, Version: n.version(), Platforms: []string{platform}, Fast: true})
	if err != nil {
		return "", err
	}
	file := n.state.path("images", p.Name+".tar")
	return file, img.WriteArchive(file, platform)
}

func (n *Node) version() string {
	if n.cfg.Version == "" {
		return "dev"
	}
	return n.cfg.Version
}

// Import makes the images of a file known to the node.
func (n *Node) Import(ctx context.Context, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("import images: %w", err)
	}
	if _, err := n.ctr(ctx, "images", "import", file); err != nil {
		return fmt.Errorf("import images of %s: %w", file, err)
	}
	return nil
}

func (n *Node) ctr(ctx context.Context, args ...string) (string, error) {
	line := append(n.launch(enterAll), "ctr", "--address="+socket, "--namespace=k8s.io")
	line = append(line, args...)
	out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

func (n *Node) startContainerd(ctx context.Context) error {
	if err := n.writeCNI(); err != nil {
		return err
	}
	if err := n.writeRegistries(); err != nil {
		return err
	}
	config, err := n.containerdConfig(ctx)
	if err != nil {
		return err
	}
	file := n.state.path("containerd.toml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return fmt.Errorf("configure containerd: %w", err)
	}
	c, err := n.run("containerd", enterAll, "containerd", "--config", file)
	if err != nil {
		return err
	}
	return c.Await(ctx, startTimeout, func(ctx context.Context) error {
		_, err := n.ctr(ctx, "version")
		return err
	})
}

func (n *Node) containerdConfig(ctx context.Context) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "containerd", "--version").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ask containerd for its version: %w: %s", err, bytes.TrimSpace(out))
	}
	format := 2
	if m := containerdVersion.FindSubmatch(out); m != nil && string(m[1]) != "1" {
		format = 3
	}
	config := &bytes.Buffer{}
	t, err := template.New("containerd").Parse(containerdTemplate)
	if err != nil {
		return nil, fmt.Errorf("parse containerd's configuration: %w", err)
	}
	err = t.Execute(config, map[string]any{
		"Version": format, "Dir": n.state.Dir, "Socket": socket, "CNI": cniFolder(),
		"Pause": image.Repository + "/" + pause().Name + ":" + n.version(),
	})
	return config.Bytes(), err
}

// writeCNI describes the pods' network: a bridge, with ports of the node for pods that ask for them.
func (n *Node) writeCNI() error {
	config, err := json.Marshal(map[string]any{
		"cniVersion": "0.4.0", "name": "headwater",
		"plugins": []map[string]any{
			{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
				"ipam": map[string]any{
					"type": "host-local", "dataDir": n.state.path("cni", "addresses"),
					"ranges": [][]map[string]string{{{"subnet": podNetwork}}},
				},
			},
			{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	})
	if err != nil {
		return fmt.Errorf("encode the pods' network: %w", err)
	}
	if err := os.WriteFile(n.state.path("cni", "10-headwater.conflist"), config, 0o600); err != nil {
		return fmt.Errorf("configure the pods' network: %w", err)
	}
	return nil
}

// writeRegistries names the registries that speak plain HTTP.
func (n *Node) writeRegistries() error {
	for _, host := range n.cfg.Registries {
		if strings.ContainsAny(host, "/\"\\ ") {
			return fmt.Errorf("registry %q is not a host with a port", host)
		}
		dir := n.state.path("registries", host)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("configure registry %s: %w", host, err)
		}
		text := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", host, host)
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
			return fmt.Errorf("configure registry %s: %w", host, err)
		}
	}
	return nil
}
