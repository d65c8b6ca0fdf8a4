package cli

import (
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"headwater.dev/client"
)

// reconcile asks a cluster to look at a source at once.
func (s *session) reconcile() *cobra.Command {
	var t target
	var name string
	var noWait bool
	cmd := &cobra.Command{
		Use: "reconcile", Short: "Look at the source of a configuration at once, and apply it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.hub()
			if err != nil {
				return err
			}
			cluster, err := t.id(c)
			if err != nil {
				return err
			}
			p, err := client.Reconcile[object](cmd.Context(), c, client.ConfigurationID(cluster, name), client.VersionPreview)
			return s.finish(cmd, p, err, noWait, fluxColumns())
		},
	}
	t.flags(s, cmd)
	nameFlag(cmd, &name, "configuration")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until every object has been looked at")
	return cmd
}

// kustomizationSuspend stops one kustomization, or lets it go on.
func (s *session) kustomizationSuspend(suspend bool) *cobra.Command {
	var o one
	var noWait bool
	cmd := &cobra.Command{Use: "resume", Short: "Let a suspended kustomization of a configuration go on", Args: cobra.NoArgs}
	if suspend {
		cmd.Use, cmd.Short = "suspend", "Stop one kustomization of a configuration; the others go on"
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, id, all, err := s.read(cmd, o)
		if err != nil {
			return err
		}
		if _, exists := all[o.name]; !exists {
			return o.missing()
		}
		p, err := client.Patch[object](cmd.Context(), c, id, client.VersionPreview,
			object{"properties": object{"kustomizations": object{o.name: object{"suspend": suspend}}}})
		return s.finish(cmd, p, err, noWait, fluxColumns())
	}
	o.flags(s, cmd, true)
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the cluster has taken it")
	return cmd
}

func typeColumns() []column {
	return []column{{"Name", "name"}, {"Publisher", "publisher"}, {"Description", "description"}}
}

func versionColumns() []column { return []column{{"Version", "version"}} }

// extensionTypes has the words that look into the catalogue of extensions, by
// cluster and by location.
func (s *session) extensionTypes() *cobra.Command {
	return groupOf("extension-types", "Which extensions there are",
		s.catalogue("list-by-cluster", "List the types of extensions for a cluster", false, false, false),
		s.catalogue("show-by-cluster", "Show a type of extensions for a cluster", false, true, false),
		s.catalogue("list-versions-by-cluster", "List the versions of an extension for a cluster", false, true, true),
		s.catalogue("list-by-location", "List the types of extensions at a location", true, false, false),
		s.catalogue("show-by-location", "Show a type of extensions at a location", true, true, false),
		s.catalogue("list-versions-by-location", "List the versions of an extension at a location", true, true, true))
}

// lookup is what one of those words asks for.
type lookup struct {
	target
	location, kind, train, major string
	located, latest              bool
}

// base is the path of the catalogue, of a cluster or of a location.
func (l *lookup) base(c *client.Client) (string, error) {
	if l.located {
		return "/subscriptions/" + c.SubscriptionID() + "/providers/Microsoft.KubernetesConfiguration/locations/" + l.location + "/extensionTypes", nil
	}
	cluster, err := l.target.id(c)
	return cluster + "/providers/Microsoft.KubernetesConfiguration/extensionTypes", err
}

// versions is the list of versions, with its query.
func (l *lookup) versions(base string) string {
	query := url.Values{"api-version": {client.VersionCatalogue}, "showLatest": {strconv.FormatBool(l.latest)}}
	if l.train != "" {
		query.Set("releaseTrain", l.train)
	}
	if l.major != "" {
		query.Set("majorVersion", l.major)
	}
	return base + "/" + l.kind + "/versions?" + query.Encode()
}

func (l *lookup) flags(s *session, cmd *cobra.Command, oneType, versions bool) {
	f := cmd.Flags()
	if l.located {
		f.StringVarP(&l.location, "location", "l", "", "location (required)")
		required(cmd, "location")
	} else {
		l.target.flags(s, cmd)
	}
	if oneType {
		f.StringVar(&l.kind, "extension-type", "microsoft.flux", "type of the extension")
	}
	if versions {
		f.StringVar(&l.train, "release-train", "", "release train (default stable)")
		f.StringVar(&l.major, "major-version", "", "one major version only")
		f.BoolVar(&l.latest, "show-latest", false, "the newest version only")
	}
}

// catalogue is one of those words: at a location or for a cluster, about one
// type or all, about its versions or itself.
func (s *session) catalogue(use, short string, located, oneType, versions bool) *cobra.Command {
	l := &lookup{located: located}
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := s.hub()
		if err != nil {
			return err
		}
		base, err := l.base(c)
		if err != nil {
			return err
		}
		if oneType && !versions {
			o, err := client.Get[object](cmd.Context(), c, base+"/"+l.kind, client.VersionCatalogue)
			if err != nil {
				return err
			}
			return s.show(cmd, o, typeColumns())
		}
		path, version, columns := base, client.VersionCatalogue, typeColumns()
		if versions {
			path, version, columns = l.versions(base), "", versionColumns()
		}
		all, err := client.List[object](cmd.Context(), c, path, version)
		if err != nil {
			return err
		}
		return s.list(cmd, all, columns)
	}
	l.flags(s, cmd, oneType, versions)
	return cmd
}
