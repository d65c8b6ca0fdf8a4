package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/agent/uplink"
)

// Names of the ConfigMap in which the agent keeps what it must not forget, and
// of what is in it. It holds no secret.
const (
	stateMap       = "headwater-agent-state"
	stateOf        = "of"
	stateEpoch     = "epoch"
	stateRevision  = "revision"
	stateEnrolment = "enrolment"
	// savePatience bounds a write.
	savePatience = 10 * time.Second
)

// state keeps over restarts how far the hub's wishes had come, so that nobody
// makes the agent go back to older ones by restarting it.
type state struct {
	kube      kubernetes.Interface
	namespace string
	// of names the hub and the cluster: a mark of others means nothing.
	of string
}

func newState(kube kubernetes.Interface, namespace, of string) *state {
	return &state{kube: kube, namespace: namespace, of: of}
}

// load reads the mark; zero when there is none of this cluster. What cannot be
// read is an error: an agent must not forget because of a mishap.
func (s *state) load(ctx context.Context) (uplink.Mark, error) {
	m, err := s.kube.CoreV1().ConfigMaps(s.namespace).Get(ctx, stateMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return uplink.Mark{}, nil
	}
	if err != nil {
		return uplink.Mark{}, fmt.Errorf("read ConfigMap %s/%s: %w", s.namespace, stateMap, err)
	}
	if m.Data[stateOf] != s.of || m.Data[stateRevision] == "" {
		return uplink.Mark{}, nil
	}
	epoch, err1 := strconv.ParseInt(m.Data[stateEpoch], 10, 64)
	revision, err2 := strconv.ParseInt(m.Data[stateRevision], 10, 64)
	if err1 != nil || err2 != nil {
		return uplink.Mark{}, fmt.Errorf("%w: epoch %q and revision %q of ConfigMap %s/%s are no numbers: delete it to begin anew",
			errIdentity, m.Data[stateEpoch], m.Data[stateRevision], s.namespace, stateMap)
	}
	return uplink.Mark{Epoch: epoch, Revision: revision}, nil
}

// recall fills in what the agent knew before it was started. It waits until that
// can be read.
func recall(ctx context.Context, kube kubernetes.Interface, c *Config) error {
	s := newState(kube, c.Namespace, identityOf(c.Hub, c.Cluster))
	return wait.PollUntilContextCancel(ctx, 2*time.Second, true, func(ctx context.Context) (bool, error) {
		var err error
		c.Known, err = s.load(ctx)
		if err != nil && !errors.Is(err, errIdentity) {
			c.Log.Info("what the agent knew cannot be read, will retry", "error", err.Error())
			return false, nil
		}
		return err == nil, err
	})
}

// remember keeps a newer mark: when it returns nil the mark is written, and no
// crash can lose it.
func (s *state) remember(ctx context.Context, m uplink.Mark) error {
	ctx, cancel := context.WithTimeout(ctx, savePatience)
	defer cancel()
	return s.write(ctx, map[string]string{stateOf: s.of, stateEpoch: strconv.FormatInt(m.Epoch, 10), stateRevision: strconv.FormatInt(m.Revision, 10)})
}

// write changes some of the ConfigMap; an empty value removes.
func (s *state) write(ctx context.Context, change map[string]string) error {
	api := s.kube.CoreV1().ConfigMaps(s.namespace)
	m, err := api.Get(ctx, stateMap, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return fmt.Errorf("read ConfigMap %s/%s: %w", s.namespace, stateMap, err)
	}
	if missing {
		m = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: stateMap, Namespace: s.namespace,
			Labels: map[string]string{"app.kubernetes.io/part-of": "headwater"}}}
	}
	was := maps.Clone(m.Data)
	if m.Data == nil {
		m.Data = map[string]string{}
	}
	for k, v := range change {
		if m.Data[k] = v; v == "" {
			delete(m.Data, k)
		}
	}
	switch {
	case maps.Equal(was, m.Data):
		return nil
	case missing:
		_, err = api.Create(ctx, m, metav1.CreateOptions{})
	default:
		_, err = api.Update(ctx, m, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write ConfigMap %s/%s: %w", s.namespace, stateMap, err)
	}
	return nil
}

// identityOf names whose mark it is.
func identityOf(hub, cluster string) string {
	return strings.ToLower(strings.TrimRight(hub, "/") + cluster)
}
