package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"headwater.dev/api/arm"
	"headwater.dev/client"
	"headwater.dev/kernel/process"
)

// Streams are what a command reads and writes. The result goes to Out; what is
// said beside it, and errors, to Err.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exit codes of Run.
const (
	exitOK       = 0
	exitFailure  = 1
	exitNotFound = 3
)

// Run executes the command line args (without the program's name) in the
// environment env and returns the exit code: 0, 3 when what was asked for does
// not exist, or 1 for every other failure, which Err tells with the way out.
func Run(ctx context.Context, args []string, streams Streams, env func(string) string) int {
	root := newRoot(streams, env)
	root.SetArgs(Words(args))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var own *coded
	if errors.As(err, &own) && own.err == nil {
		return own.code
	}
	for i, line := range strings.Split(explain(err).Error(), "\n") { // errors quote what others wrote
		if i == 0 {
			line = "error: " + line
		}
		fmt.Fprintln(streams.Err, clean(line))
	}
	if own != nil {
		return own.code
	}
	if client.IsNotFound(err) || errors.Is(err, errMissing) {
		return exitNotFound
	}
	return exitFailure
}

// errMissing marks errors about parts of a resource that do not exist.
var errMissing = errors.New("not found")

// session is what all commands share.
type session struct {
	env          func(string) string
	output       string
	subscription string
}

// New is the whole command line in the environment of the process. Its
// arguments are those that Words returns.
func New(streams Streams) *cobra.Command { return newRoot(streams, os.Getenv) }

func newRoot(streams Streams, env func(string) string) *cobra.Command {
	s := &session{env: env}
	root := &cobra.Command{
		Use:   "headwater",
		Short: "GitOps for fleets of Kubernetes clusters",
		Long: `Headwater brings what is in Git to fleets of Kubernetes clusters.

Log in with "headwater login", or set HEADWATER_HUB, HEADWATER_CA, AZURE_TENANT_ID,
AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_SUBSCRIPTION_ID. RESOURCE_GROUP is
the default of --resource-group. A value that begins with @ is read from the file
of that name, @- from standard input; give secrets that way.`,
		Version: process.Version(), SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if !slices.Contains(formats(), s.output) {
				return fmt.Errorf("--output is %q; use json, yaml, table or none", s.output)
			}
			return nil
		},
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(canonicalFlag(name))
	})
	root.PersistentFlags().StringVarP(&s.output, "output", "o", "json", "json, yaml, table or none")
	root.PersistentFlags().StringVar(&s.subscription, "subscription", "", "subscription id (default that of the login)")
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined above
	}
	root.AddCommand(s.login(), s.logout(), s.account(), s.group(), s.connectedk8s(), s.extension(), s.configuration(), s.migrate(), s.rest(), s.version(),
		s.buildCommand(), s.diffCommand(), s.treeCommand())
	root.AddCommand(s.rights()...)
	return root
}

// formats are the values of --output.
func formats() []string { return []string{"json", "yaml", "table", "none"} }

// canonicalFlag gives the one name of a flag that az knows by several.
func canonicalFlag(name string) string {
	switch name {
	case "ns":
		return "namespace"
	case "sync-interval":
		return "interval"
	case "local-ref":
		return "local-auth-ref"
	case "cluster-rp":
		return "cluster-resource-provider"
	case "config":
		return "configuration-settings"
	case "config-protected":
		return "configuration-protected-settings"
	case "config-file":
		return "configuration-settings-file"
	case "config-protected-file":
		return "configuration-protected-settings-file"
	case "managed-identity-client-id":
		return "mi-client-id"
	case "oci-media-type":
		return "oci-layer-selector-media-type"
	case "oci-operation":
		return "oci-layer-selector-operation"
	case "depends", "depends-on":
		return "dependencies"
	case "uri":
		return "url"
	}
	if short, ok := strings.CutPrefix(name, "service-principal-"); ok {
		return "sp-" + strings.Replace(strings.Replace(short, "client-certificate", "client-cert", 1), "certificate-", "cert-", 1)
	}
	return name
}

// groupOf is a command that only holds others.
func groupOf(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(commands...)
	return cmd
}

// hub is the client for the profile of this session.
func (s *session) hub() (*client.Client, error) {
	p, err := s.loadProfile()
	if err != nil {
		return nil, err
	}
	return p.client()
}

// explain adds the way out to errors that have one.
func explain(err error) error {
	var login *client.LoginError
	var hub *client.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &login):
		return fmt.Errorf("%w\nlog in anew with \"headwater login\", or check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET", err)
	case errors.As(err, &hub):
		return fmt.Errorf("%s%s", describe(hub.Detail), advice(hub.Detail.Code))
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted: %w\nwhat the hub has taken goes on; the show commands tell how far it is", err)
	case strings.Contains(err.Error(), "x509:"):
		return fmt.Errorf("%w\nthe hub's certificate is not trusted: give its authority with \"headwater login --ca FILE\" or HEADWATER_CA", err)
	}
	return err
}

// describe lists an error with all its details, a line each.
func describe(e arm.Error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "(%s) %s", e.Code, clean(e.Message))
	if len(e.Details) > 1 {
		for _, d := range e.Details {
			fmt.Fprintf(&b, "\n  %s: %s", clean(d.Target), clean(d.Message))
		}
	}
	return b.String()
}

func advice(code string) string {
	switch code {
	case arm.CodeGroupNotFound:
		return "\nmake it with \"headwater group create -n NAME -l LOCATION\""
	case arm.CodeForbidden:
		return "\nask an owner of the scope for a role"
	case arm.CodeScopeLocked:
		return "\n\"headwater lock list\" shows the locks, \"headwater lock delete\" removes one"
	case arm.CodeNotFound:
		return "\n\"headwater connectedk8s list\" and the list command of what you look for show what there is"
	case arm.CodeAgentTimeout:
		return "\n\"headwater connectedk8s show\" tells whether the cluster is connected"
	}
	return ""
}

// target is the cluster that a command is about.
type target struct {
	group, cluster, kind, rp string
}

// flags adds -g, -c, -t and --cluster-resource-provider.
func (t *target) flags(s *session, cmd *cobra.Command) {
	groupFlag(s, cmd, &t.group)
	f := cmd.Flags()
	f.StringVarP(&t.cluster, "cluster-name", "c", "", "name of the cluster (required)")
	f.StringVarP(&t.kind, "cluster-type", "t", "connectedClusters", "connectedClusters, managedClusters or provisionedClusters")
	f.StringVar(&t.rp, "cluster-resource-provider", "", "resource provider of the cluster (default by its type)")
	required(cmd, "cluster-name")
	complete(cmd, "cluster-type", "connectedClusters", "managedClusters", "provisionedClusters")
}

// id is the cluster's ARM id.
func (t *target) id(c *client.Client) (string, error) {
	if t.group == "" {
		return "", errNoGroup
	}
	rp, kind := t.rp, t.kind
	switch strings.ToLower(t.kind) {
	case "connectedclusters":
		kind, rp = "connectedClusters", either(rp, "Microsoft.Kubernetes")
	case "managedclusters":
		kind, rp = "managedClusters", either(rp, "Microsoft.ContainerService")
	case "provisionedclusters":
		if rp == "" {
			return "", errors.New("--cluster-type provisionedClusters needs --cluster-resource-provider")
		}
	default:
		return "", fmt.Errorf("--cluster-type is %q; use connectedClusters, managedClusters or provisionedClusters", t.kind)
	}
	return c.ClusterID(t.group, rp, kind, t.cluster), nil
}

var errNoGroup = errors.New("there is no resource group: give --resource-group or set RESOURCE_GROUP")

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func groupFlag(s *session, cmd *cobra.Command, group *string) {
	cmd.Flags().StringVarP(group, "resource-group", "g", s.env("RESOURCE_GROUP"), "resource group (default $RESOURCE_GROUP)")
}

func required(cmd *cobra.Command, names ...string) {
	for _, n := range names {
		if err := cmd.MarkFlagRequired(n); err != nil {
			panic(err) // a flag that was not defined is a mistake in this package
		}
	}
}

func complete(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // a flag that was not defined is a mistake in this package
	}
}
