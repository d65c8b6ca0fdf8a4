package extension

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

// step brings the cluster nearer to what is desired. It returns an error when
// it is worth trying again soon.
func (m *Manager) step(ctx context.Context) error {
	desired := m.snapshot()
	var items []link.Item
	for _, item := range desired.Items {
		if item.Extension != nil {
			items = append(items, item)
		}
	}
	slices.SortFunc(items, func(a, b link.Item) int { return strings.Compare(a.ID, b.ID) })
	m.forget(items)
	owner := ""
	for _, item := range items {
		if !item.Delete && isFlux(item) && owner == "" {
			owner = item.ID
		}
	}
	var failures []error
	for _, item := range items {
		var err error
		if item.Delete {
			err = m.remove(ctx, item, owner != "", desired)
		} else {
			err = m.ensure(ctx, item, owner)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("extension %s: %w", item.Name, err))
		}
	}
	return errors.Join(failures...)
}

// forget drops what is known of items that are no longer desired.
func (m *Manager) forget(items []link.Item) {
	wanted := map[string]bool{}
	for _, item := range items {
		wanted[item.ID] = true
	}
	for id := range m.reported {
		if !wanted[id] {
			delete(m.reported, id)
			delete(m.begun, id)
		}
	}
}

func isFlux(item link.Item) bool {
	return strings.EqualFold(item.Extension.ExtensionType, resource.ExtensionFlux)
}

// check refuses what can never be installed.
func (m *Manager) check(item link.Item, owner string) error {
	e := item.Extension
	switch {
	case !isFlux(item):
		return phase.Stalled("ExtensionTypeNotSupported", fmt.Errorf("extension type %q is not known; this cluster can have %s", e.ExtensionType, resource.ExtensionFlux))
	case e.Scope != nil && e.Scope.Namespace != nil:
		return phase.Stalled("ScopeNotSupported", errors.New("extension microsoft.flux is installed for the whole cluster: scope.namespace is not possible, use scope.cluster"))
	case e.Scope != nil && e.Scope.Cluster != nil && e.Scope.Cluster.ReleaseNamespace != "" && e.Scope.Cluster.ReleaseNamespace != Namespace:
		return phase.Stalled("ScopeNotSupported", fmt.Errorf("extension microsoft.flux is installed in namespace %s: releaseNamespace %q is not possible", Namespace, e.Scope.Cluster.ReleaseNamespace))
	case item.ID != owner:
		return phase.Stalled("ExtensionAlreadyInstalled", errors.New("another extension of type microsoft.flux is installed in this cluster; there can be only one"))
	}
	return nil
}

// ensure installs or upgrades the extension and reports how it is.
func (m *Manager) ensure(ctx context.Context, item link.Item, owner string) error {
	state := observation{item: item}
	state.failure = m.check(item, owner)
	if state.failure == nil {
		state.failure = m.install(ctx, item, &state)
	}
	if item.ID == owner {
		state.failure = cmp.Or(state.failure, m.look(ctx, &state))
	}
	state.failure = withhold(state.failure, state.secrets)
	var late bool
	state.since, late = m.trouble(item, state.good())
	o := withholdFrom(state.observed(m.config.Version, late), state.secrets)
	if last := m.reported[item.ID]; last.Generation == item.Generation && last.OperationID == item.OperationID && last.Extension != nil {
		// What has been accepted stays so, whatever happens to it later.
		o.Extension.AcceptedGeneration = max(o.Extension.AcceptedGeneration, last.Extension.AcceptedGeneration)
	}
	m.report(o)
	switch {
	case state.failure != nil && phase.Classify(state.failure).Class == phase.ClassStalled:
		m.config.Log.Info("extension refused", "id", item.ID, "error", state.failure.Error())
		return nil
	case state.failure == nil && !state.rolled && !late:
		return errNotAvailable // Look again, lest the deadline passes unseen.
	default:
		return state.failure
	}
}

var errNotAvailable = errors.New("its controllers are not available yet")

// install makes kinds and release as desired; it writes nothing when they are.
func (m *Manager) install(ctx context.Context, item link.Item, state *observation) error {
	if err := m.ensureNamespace(ctx); err != nil {
		return err
	}
	if err := m.config.Settings.Keep(ctx, Namespace, secretName, item.ProtectedVersion, item.Sealed); err != nil {
		return permitted(err)
	}
	state.protected = item.ProtectedVersion
	last, err := m.releases.Last(ctx, releaseName, Namespace)
	if err != nil && !errors.Is(err, release.ErrNotFound) {
		return err
	}
	edition, err := m.edition(item.Extension, last)
	if err != nil {
		return err
	}
	state.kept = edition.kept
	protected, err := m.protected(ctx, item)
	if err != nil {
		return err
	}
	state.secrets = secretsOf(protected)
	values, warnings, err := m.values(item, protected, edition)
	if err != nil {
		return err
	}
	state.warnings = warnings
	if err := m.ensureKinds(ctx); err != nil {
		return err
	}
	if last != nil {
		good, err := m.upToDate(ctx, last, values, edition.digest)
		if err != nil {
			return err
		}
		if good {
			state.release, state.installed = last, versionOf(last)
			return nil
		}
	}
	m.config.Log.Info("applying the extension", "version", edition.chart.Metadata.Version, "generation", item.Generation)
	state.release, err = m.releases.Apply(ctx, release.Request{
		Name: releaseName, Namespace: Namespace, Chart: edition.chart, Values: values,
		Options: release.Options{CRDs: release.CRDsSkip, MaxHistory: 3, TakeOwnership: true, Labels: map[string]string{chartLabel: edition.digest}},
	}, 0)
	if err == nil {
		state.installed = versionOf(state.release)
	}
	return err
}

// protected are the protected settings of an item.
func (m *Manager) protected(ctx context.Context, item link.Item) (map[string]string, error) {
	if item.ProtectedVersion == "" {
		return nil, nil
	}
	return m.config.Settings.Read(ctx, Namespace, secretName)
}

// values are those of the settings, protected ones included, and the image.
func (m *Manager) values(item link.Item, protected map[string]string, edition edition) (map[string]any, []string, error) {
	settings := map[string]string{}
	maps.Copy(settings, item.Extension.ConfigurationSettings)
	maps.Copy(settings, protected)
	if err := m.within(settings); err != nil {
		return nil, nil, err
	}
	usual, _ := edition.chart.Values["resources"].(map[string]any)
	values, warnings, err := Values(settings, usual)
	var wrong *settingError
	if errors.As(err, &wrong) && protected[wrong.key] != "" {
		err = fmt.Errorf("configuration protected setting %s: its value is not possible, and is not shown here", wrong.key)
	}
	if err != nil {
		return nil, nil, phase.Stalled("ValidationFailed", err)
	}
	repository, tag := m.config.Image.Reference, ""
	if at := strings.LastIndex(repository, ":"); at > strings.LastIndex(repository, "/") {
		repository, tag = repository[:at], repository[at+1:]
	}
	image := map[string]any{"repository": repository, "tag": tag}
	if m.config.Image.PullPolicy != "" {
		image["pullPolicy"] = m.config.Image.PullPolicy
	}
	values["image"] = image
	if edition.kept != "" && edition.image != nil {
		values["image"] = edition.image
	}
	return values, warnings, nil
}

// within refuses settings that would lift the bounds that the owner of the cluster
// has set to the hub: controllers that act as administrator, with arguments or
// variables of the hub's choice, heed none.
func (m *Manager) within(settings map[string]string) error {
	if !m.config.Bounded {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		enforced, err := boolean(strings.TrimSpace(settings[key]))
		switch {
		case key == "multiTenancy.enforce" && err == nil && !enforced, key == "extraArgs" || key == "env":
			return phase.Stalled("NotAllowed", fmt.Errorf("configuration setting %s is not possible here: the owner of the cluster bounds what the hub may do (guard of the agent's chart)", key))
		}
	}
	return nil
}

func (m *Manager) ensureNamespace(ctx context.Context) error {
	api := m.kube.CoreV1().Namespaces()
	if _, err := api.Get(ctx, Namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	_, err := api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", Namespace, err)
	}
	return nil
}

// permitted says what to do when the agent has lost its rights.
func permitted(err error) error {
	if !apierrors.IsForbidden(err) {
		return err
	}
	return fmt.Errorf("the agent has no rights in namespace %s, which go when the namespace is deleted: install the agent's chart again, as \"headwater connectedk8s connect\" does: %w", Namespace, err)
}
