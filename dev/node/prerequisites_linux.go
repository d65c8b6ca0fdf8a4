package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// need is a program, or a file in a CNI folder, and the Debian package that has it.
type need struct {
	program, pkg string
	cni          bool
}

func needs() []need {
	return []need{
		{program: "containerd", pkg: "containerd"}, {program: "containerd-shim-runc-v2", pkg: "containerd"}, {program: "ctr", pkg: "containerd"},
		{program: "runc", pkg: "runc"}, {program: "ip", pkg: "iproute2"}, {program: "iptables", pkg: "iptables"}, {program: "nft", pkg: "nftables"},
		{program: "conntrack", pkg: "conntrack"}, {program: "nsenter", pkg: "util-linux"},
		{program: "bridge", pkg: "containernetworking-plugins", cni: true}, {program: "host-local", pkg: "containernetworking-plugins", cni: true},
		{program: "loopback", pkg: "containernetworking-plugins", cni: true}, {program: "portmap", pkg: "containernetworking-plugins", cni: true},
	}
}

// cniFolders are where distributions keep the CNI plugins.
func cniFolders() []string { return []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"} }

// cniFolder is the first folder that has the plugins, or empty.
func cniFolder() string {
	i := slices.IndexFunc(cniFolders(), func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "bridge"))
		return err == nil
	})
	if i < 0 {
		return ""
	}
	return cniFolders()[i]
}

// Check reports whether a real node can run here. Its error wraps ErrUnsupported, names everything that is missing and
// how to get it.
func Check() error {
	return check(os.Geteuid(), func(n need) bool {
		if n.cni {
			_, err := os.Stat(filepath.Join(cniFolder(), n.program))
			return cniFolder() != "" && err == nil
		}
		_, err := exec.LookPath(n.program)
		return err == nil
	})
}

func check(uid int, has func(need) bool) error {
	if uid != 0 {
		return fmt.Errorf("%w: it needs root (namespaces, mounts, cgroups); run this as root, or use simulated nodes", ErrUnsupported)
	}
	var missing, packages []string
	for _, n := range needs() {
		if has(n) {
			continue
		}
		missing = append(missing, n.program)
		if !slices.Contains(packages, n.pkg) {
			packages = append(packages, n.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w: missing %s; on Debian or Ubuntu: apt-get install --no-install-recommends %s",
		ErrUnsupported, strings.Join(missing, ", "), strings.Join(packages, " "))
}
