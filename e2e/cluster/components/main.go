// Command cluster is a whole Kubernetes in one executable.
//
// Linking every component into one program lets them share one build, one copy of
// client-go and one cache entry: a cold build of the parts on their own takes three times
// as long. The first argument, or the name under which the program is called (kubectl is a
// link to it), chooses the component; all other arguments are the component's own.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

// components maps the name of a component to what runs it with os.Args as its command line.
var components = map[string]func(){
	"coredns":                 runCoreDNS,
	"etcd":                    func() { etcdmain.Main(os.Args) },
	"kube-apiserver":          func() { runCommand(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() { runCommand(controllermanager.NewControllerManagerCommand()) },
	"kube-proxy":              func() { runCommand(proxy.NewProxyCommand()) },
	"kube-scheduler":          func() { runCommand(scheduler.NewSchedulerCommand()) },
	"kubectl":                 runKubectl,
	// The command itself stops on signals; a context that does so too would install
	// Kubernetes' one-shot handler twice, which panics.
	"kubelet": func() { runCommand(kubelet.NewKubeletCommand(context.Background())) },
}

func main() {
	name := filepath.Base(os.Args[0])
	run, found := components[name]
	if !found && len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = slices.Concat([]string{name}, os.Args[2:])
		run, found = components[name]
	}
	if !found {
		fmt.Fprintf(os.Stderr, "cluster: no component %q; there are: %s\n", name, componentNames())
		os.Exit(2)
	}
	run()
}

func runCommand(command *cobra.Command) {
	os.Exit(cli.Run(command))
}

func runKubectl() {
	// kubectl words its own errors, so the command must not print them a second time.
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

func runCoreDNS() {
	// The order in which a query passes the plugins; CoreDNS' own list names fifty more.
	dnsserver.Directives = []string{"errors", "health", "ready", "cache", "kubernetes"}
	coremain.Run()
}

func componentNames() string {
	names := make([]string, 0, len(components))
	for name := range components {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
