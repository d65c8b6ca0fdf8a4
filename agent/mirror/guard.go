package mirror

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
)

// Guard is what the cluster's owner lets the hub do, whatever the hub wants.
type Guard struct {
	// Own is the agent's namespace: it holds the cluster's key, and no
	// configuration may live there.
	Own string
	// Namespaces are patterns (as of path.Match) of the namespaces that
	// configurations may live in; empty means all.
	Namespaces []string
	// ServiceAccounts are patterns (as of path.Match) of the service accounts that
	// configurations may name, for whatever; empty means all. What a configuration
	// runs as when it names none is not bounded by this.
	ServiceAccounts []string
	// NamespaceScopeOnly refuses configurations of scope cluster.
	NamespaceScopeOnly bool
}

// Bounds says whether the owner bounds the hub at all.
func (g Guard) Bounds() bool {
	return g.NamespaceScopeOnly || len(g.Namespaces) > 0 || len(g.ServiceAccounts) > 0
}

// extensionNamespace and extensionName are those of the Secret with the extension's
// own protected settings, which a configuration must not replace.
const extensionNamespace, extensionName = "flux-system", "flux-extension"

// reserved returns a stalled error for a configuration whose place is the agent's,
// or whose Secret would be another's.
func (g Guard) reserved(item link.Item) error {
	namespace := item.Configuration.Namespace
	if namespace == g.Own {
		return phase.Stalled("NotAllowed", fmt.Errorf("configuration %s may not live in namespace %s, which holds the cluster's identity: choose another namespace", item.Name, namespace))
	}
	if namespace == extensionNamespace && item.Name == extensionName {
		return phase.Stalled("NotAllowed", fmt.Errorf("a configuration in namespace %s may not be called %s: Secret %s holds the extension's settings: choose another name or namespace",
			namespace, item.Name, secretName(item.Name)))
	}
	return nil
}

// check returns a stalled error when an item goes beyond what is allowed.
func (g Guard) check(item link.Item) error {
	p := item.Configuration
	if err := g.reserved(item); err != nil {
		return err
	}
	if g.NamespaceScopeOnly && p.Scope != resource.ScopeNamespace {
		return phase.Stalled("NotAllowed", fmt.Errorf("configuration %s has scope %s, but the owner of the cluster allows scope namespace only", item.Name, p.Scope))
	}
	if !matches(g.Namespaces, p.Namespace) {
		return phase.Stalled("NotAllowed", fmt.Errorf("configuration %s may not live in namespace %s: the owner of the cluster allows only %q", item.Name, p.Namespace, g.Namespaces))
	}
	return g.checkAccounts(item)
}

// matches reports whether one of the patterns has the name; no patterns have all.
func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if ok, err := path.Match(pattern, name); err == nil && ok {
			return true
		}
	}
	return len(patterns) == 0
}

// checkAccounts looks for service accounts wherever a configuration can name one:
// its source, its identities, and what is laid over the Flux objects.
func (g Guard) checkAccounts(item link.Item) error {
	if len(g.ServiceAccounts) == 0 {
		return nil
	}
	raw, err := json.Marshal(item.Configuration)
	if err != nil {
		return fmt.Errorf("read configuration %s: %w", item.Name, err)
	}
	var tree any
	if err := json.Unmarshal(raw, &tree); err != nil {
		return fmt.Errorf("read configuration %s: %w", item.Name, err)
	}
	for _, name := range accounts(tree) {
		if !matches(g.ServiceAccounts, name) {
			return phase.Stalled("NotAllowed", fmt.Errorf("configuration %s may not use service account %q: the owner of the cluster allows only %q", item.Name, name, g.ServiceAccounts))
		}
	}
	return nil
}

// accounts are the values of all fields serviceAccountName in a JSON value.
func accounts(v any) []string {
	var names []string
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if name, ok := v[key].(string); ok && name != "" && strings.EqualFold(key, "serviceAccountName") {
				names = append(names, name)
			}
			names = append(names, accounts(v[key])...)
		}
	case []any:
		for _, one := range v {
			names = append(names, accounts(one)...)
		}
	}
	return names
}
