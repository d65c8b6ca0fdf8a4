package hub

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"headwater.dev/kernel/process"
	"headwater.dev/kernel/trace"
)

// NewCommand is the hub's command line.
func NewCommand(version string) *cobra.Command {
	root := &cobra.Command{
		Use: "hub", Short: "The control plane of Headwater", Version: version,
		SilenceUsage: true, SilenceErrors: true,
	}
	for _, c := range []*cobra.Command{newServeCommand(), newCheckCommand(), newBackupCommand(), newCompactCommand(), newRecoverCommand()} {
		settings(c, os.Getenv)
		root.AddCommand(c)
	}
	root.AddCommand(newShowCommand(), newRestoreCommand(), newAuthorityCommand())
	return root
}

func newServeCommand() *cobra.Command {
	var c Config
	var level, format string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve users and agents",
		Long: `Serve users (Azure Resource Manager API) and agents over TLS.

The first start makes a certificate authority (ca.crt), an administrator
(admin.json) and a subscription in the data directory.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := process.Logger(os.Stderr, level, format)
			if err != nil {
				return err
			}
			c.Logger = log
			mindMemory(cmd.Context())
			traces, stop, err := trace.Start(cmd.Context(), "headwater-hub", process.Version())
			if err != nil {
				return err
			}
			defer stop()
			c.Traces = traces
			h, err := New(cmd.Context(), c)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "hub is ready at %s\n", h.URL())
			return h.Run(cmd.Context())
		},
	}
	serveFlags(cmd, &c)
	processFlags(cmd, &level, &format)
	return cmd
}

// processFlags are the settings of the process rather than of the hub in it.
func processFlags(cmd *cobra.Command, level, format *string) {
	f := cmd.Flags()
	f.StringVar(level, "log-level", "info", "debug, info or error")
	f.StringVar(format, "log-format", "json", "json or text")
}

// serveFlags are the settings of a hub.
func serveFlags(cmd *cobra.Command, c *Config) {
	f := cmd.Flags()
	storageFlags(cmd, c)
	f.StringVar(&c.KeysFrom, "keys-from", "", "directory with vault.key, signing.key, ca.crt and ca.key that replicas share; what is there is copied to --data-dir at the start")
	f.Int64Var(&c.EtcdQuota, "etcd-quota", 8<<30, "most bytes that the embedded etcd's database may have; beyond them writes are refused until space is made")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:8443", "address to serve users and agents on; port 0 chooses one")
	f.StringVar(&c.ExternalURL, "external-url", "", "https://host[:port] by which users and agents know this hub (default that of --listen)")
	f.StringSliceVar(&c.Hostnames, "hostname", nil, "further names and addresses for the generated certificate")
	f.StringVar(&c.TLSCert, "tls-cert", "", "PEM file with the certificate to serve instead of a generated one; read again when it changes")
	f.StringVar(&c.TLSKey, "tls-key", "", "PEM file with the key of --tls-cert")
	f.StringArrayVar(&c.KeeperURLs, "kms-url", nil, "key that wraps protected settings, as a gocloud.dev/secrets URL (awskms, azurekeyvault, gcpkms, hashivault); repeat for former keys, which unwrap only (default the file vault.key in the data directory)")
	f.StringVar(&c.MetricsListen, "metrics-listen", "127.0.0.1:0", "address of /metrics, plain HTTP; empty for none")
	f.BoolVar(&c.Profiling, "profiling", false, "serve profiles at /debug/pprof/ of --metrics-listen")
	f.StringVar(&c.TenantID, "tenant-id", "", "id of the tenant (default generated at the first start)")
	f.StringVar(&c.SubscriptionID, "subscription-id", "", "id of the subscription (default generated at the first start)")
	f.BoolVar(&c.Unregistered, "unregistered", false, "leave the resource providers of a new subscription unregistered, as Azure does")
	f.BoolVar(&c.ImportSources, "import-source-control-configurations", false, "admit the import of configurations of Flux v1, for \"headwater migrate\"")
	f.StringSliceVar(&c.ExtensionVersions, "extension-versions", nil, "versions of the extension microsoft.flux that are out (default this program's own)")
	f.StringSliceVar(&c.Locations, "locations", []string{"local"}, "locations that are offered to clients")
	c.People.flags(f)
	if err := cmd.MarkFlagRequired("data-dir"); err != nil {
		panic(err) // the flag is defined above
	}
}

// storageFlags are the words that say where a hub's storage is.
func storageFlags(cmd *cobra.Command, c *Config) {
	f := cmd.Flags()
	f.StringVar(&c.DataDir, "data-dir", "", "directory of records, keys and certificates (required)")
	f.StringSliceVar(&c.EtcdEndpoints, "etcd-endpoints", nil, "URLs of an external etcd (default embedded)")
	f.StringVar(&c.EtcdCA, "etcd-ca", "", "PEM file with the authority of the external etcd")
	f.StringVar(&c.EtcdCert, "etcd-cert", "", "PEM file with the client certificate for the external etcd")
	f.StringVar(&c.EtcdKey, "etcd-key", "", "PEM file with the key of --etcd-cert")
}
