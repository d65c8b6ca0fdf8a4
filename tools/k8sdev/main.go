// Command k8sdev is every Kubernetes component, etcd, kwok and a small cluster
// DNS server in one binary. The first argument chooses the component, or the
// name the binary is called by. One link instead of nine, and processes of it
// share their text pages.
//
// It is a module of its own so that k8s.io/kubernetes never enters the
// product's go.mod. The development tools build it once and cache the result.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"

	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"headwater.dev/tools/k8sdev/minidns"
)

func main() {
	name := filepath.Base(os.Args[0])
	if _, known := components()[name]; !known && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	run, ok := components()[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "k8sdev: unknown component %q; one of etcd, kube-apiserver, kube-controller-manager, "+
			"kube-scheduler, kubelet, kube-proxy, kubectl, kwok, minidns\n", name)
		os.Exit(2)
	}
	os.Exit(run())
}

// components maps a name to the function that runs the component with os.Args
// and returns its exit code. Some components call os.Exit themselves.
func components() map[string]func() int {
	return map[string]func() int{
		"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
		"kube-apiserver":          kubernetes(apiserver.NewAPIServerCommand),
		"kube-controller-manager": kubernetes(controllermanager.NewControllerManagerCommand),
		"kube-scheduler":          kubernetes(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
		"kubelet":                 kubernetes(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
		"kube-proxy":              kubernetes(proxy.NewProxyCommand),
		"kubectl":                 runKubectl,
		"kwok":                    runKwok,
		"minidns":                 func() int { return minidns.Main(os.Args[1:]) },
	}
}

func kubernetes(command func() *cobra.Command) func() int {
	return func() int { return cli.Run(command()) }
}

func runKubectl() int {
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
	return 0
}
