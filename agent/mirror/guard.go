package mirror

import (
	"fmt"
	"path"

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
	// NamespaceScopeOnly refuses configurations of scope cluster.
	NamespaceScopeOnly bool
}

// check returns a stalled error when an item goes beyond what is allowed.
func (g Guard) check(item link.Item) error {
	p := item.Configuration
	if p.Namespace == g.Own {
		return phase.Stalled("NotAllowed", fmt.Errorf("configuration %s may not live in namespace %s, which holds the cluster's identity: choose another namespace", item.Name, p.Namespace))
	}
	if g.NamespaceScopeOnly && p.Scope != resource.ScopeNamespace {
		return phase.Stalled("NotAllowed", fmt.Errorf("configuration %s has scope %s, but the owner of the cluster allows scope namespace only", item.Name, p.Scope))
	}
	if len(g.Namespaces) == 0 {
		return nil
	}
	for _, pattern := range g.Namespaces {
		if ok, err := path.Match(pattern, p.Namespace); err == nil && ok {
			return nil
		}
	}
	return phase.Stalled("NotAllowed", fmt.Errorf("configuration %s may not live in namespace %s: the owner of the cluster allows only %q", item.Name, p.Namespace, g.Namespaces))
}
