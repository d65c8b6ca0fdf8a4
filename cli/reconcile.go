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

// catalogue is one of those words: at a location or for a cluster, about one
// type or all, about its versions or itself.
func (s *session) catalogue(use, short string, located, oneType, versions bool) *cobra.Command {
	var t target
	var location, kind, train, major string
	var latest bool
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := s.hub()
		if err != nil {
			return err
		}
		base := "/subscriptions/" + c.SubscriptionID() + "/providers/Microsoft.KubernetesConfiguration/locations/" + location
		if !located {
			cluster, err := t.id(c)
			if err != nil {
				return err
			}
			base = cluster + "/providers/Microsoft.KubernetesConfiguration"
		}
		base += "/extensionTypes"
		switch {
		case versions:
			query := url.Values{"api-version": {client.VersionCatalogue}, "showLatest": {strconv.FormatBool(latest)}}
			if train != "" {
				query.Set("releaseTrain", train)
			}
			if major != "" {
				query.Set("majorVersion", major)
			}
			all, err := client.List[object](cmd.Context(), c, base+"/"+kind+"/versions?"+query.Encode(), "")
			if err != nil {
				return err
			}
			return s.list(cmd, all, versionColumns())
		case oneType:
			o, err := client.Get[object](cmd.Context(), c, base+"/"+kind, client.VersionCatalogue)
			if err != nil {
				return err
			}
			return s.show(cmd, o, typeColumns())
		}
		all, err := client.List[object](cmd.Context(), c, base, client.VersionCatalogue)
		if err != nil {
			return err
		}
		return s.list(cmd, all, typeColumns())
	}
	f := cmd.Flags()
	if located {
		f.StringVarP(&location, "location", "l", "", "location (required)")
		required(cmd, "location")
	} else {
		t.flags(s, cmd)
	}
	if oneType {
		f.StringVar(&kind, "extension-type", "microsoft.flux", "type of the extension")
	}
	if versions {
		f.StringVar(&train, "release-train", "", "release train (default stable)")
		f.StringVar(&major, "major-version", "", "one major version only")
		f.BoolVar(&latest, "show-latest", false, "the newest version only")
	}
	return cmd
}
