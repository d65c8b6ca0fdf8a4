package agent

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/agent/uplink"
)

const (
	// rotationKey is what the identity Secret holds besides the present key.
	rotationKey = "rotation.json"
	// defaultRotateEvery is how often the key is replaced, leastRotateEvery how often
	// at most. It is a tenth earlier or later, so that a fleet does not do it at once.
	defaultRotateEvery, leastRotateEvery = 30 * 24 * time.Hour, time.Hour
	// formerKept is how long a former key is kept at least: the hub keeps what was
	// sealed to it for 48 hours. The last one is kept for longer, for a hub that is
	// restored from a backup from before the rotation.
	formerKept = 49 * time.Hour
	// maxFormer bounds the former keys.
	maxFormer = 8
)

// rotation is what the identity Secret says of keys before and after the present
// one. It counts only together with that.
type rotation struct {
	// Of is the fingerprint of the present key, which counts since Since.
	Of    string    `json:"of"`
	Since time.Time `json:"since"`
	// Next is the next key in PEM; empty for none.
	Next []byte `json:"next,omitempty"`
	// Former are those before, the newest first.
	Former []formerKey `json:"former,omitempty"`
}

// formerKey is one that counted until End, in PEM.
type formerKey struct {
	Key []byte    `json:"key"`
	End time.Time `json:"end"`
}

// readRotation reads what a Secret says beside its key. What it says of another
// key is let go: the cluster was connected anew.
func readRotation(secret *corev1.Secret, present *rsa.PrivateKey) (rotation, error) {
	begin := rotation{Of: fingerprintOf(present), Since: secret.CreationTimestamp.UTC()}
	raw := secret.Data[rotationKey]
	if len(raw) == 0 {
		return begin, nil
	}
	var r rotation
	if err := json.Unmarshal(raw, &r); err != nil {
		return rotation{}, fmt.Errorf("it is not what the agent wrote; remove it: %w", err)
	}
	if r.Of != begin.Of {
		return begin, nil
	}
	_, err := r.keys(present)
	return r, err
}

// keys are all in their order.
func (r rotation) keys(present *rsa.PrivateKey) (uplink.Keys, error) {
	k := uplink.Keys{Present: present}
	var err error
	if len(r.Next) > 0 {
		if k.Next, err = parseKey(r.Next); err != nil {
			return k, fmt.Errorf("the next key: %w", err)
		}
	}
	for _, f := range r.Former {
		key, err := parseKey(f.Key)
		if err != nil {
			return k, fmt.Errorf("a former key: %w", err)
		}
		k.Former = append(k.Former, key)
	}
	return k, nil
}

// settled is what follows when the next key is the present one, and present was.
func (r rotation) settled(present []byte, next *rsa.PrivateKey, now time.Time) rotation {
	s := rotation{Of: fingerprintOf(next), Since: now, Former: []formerKey{{Key: present, End: now}}}
	for _, f := range r.Former {
		if now.Sub(f.End) < formerKept && len(s.Former) < maxFormer {
			s.Former = append(s.Former, f)
		}
	}
	return s
}

// due is when the present key should be replaced. The same key gets the same
// answer after each restart.
func (r rotation) due(every time.Duration) time.Time {
	if every <= 0 {
		return time.Time{}
	}
	sum := sha256.Sum256([]byte(r.Of))
	share := float64(binary.BigEndian.Uint32(sum[:4])) / (1 << 32) // of one
	return r.Since.Add(time.Duration(float64(every) * (0.9 + 0.2*share)))
}

// rotateEvery reads how often the key is replaced.
func rotateEvery(text string) (time.Duration, error) {
	if text == "" {
		return defaultRotateEvery, nil
	}
	every, err := time.ParseDuration(text)
	if err != nil || every < 0 || every > 0 && every < leastRotateEvery {
		return 0, fmt.Errorf("%q is not a duration of %v or more, such as 720h, nor 0 for never", text, leastRotateEvery)
	}
	return every, nil
}

func fingerprintOf(key *rsa.PrivateKey) string {
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	return hex.EncodeToString(sum[:])
}

// keyring keeps the cluster's keys in the identity Secret. It is written before
// the hub is told of a next key; so whenever the agent ends, the Secret has a key
// that the hub takes.
type keyring struct {
	kube      kubernetes.Interface
	namespace string
	every     time.Duration
	now       func() time.Time

	mu       sync.Mutex
	rotation rotation
	held     uplink.Keys
	// unkept says that the hub takes the present key, and the Secret has it as the
	// next one still.
	unkept bool
}

// newKeyring begins with what was read.
func newKeyring(kube kubernetes.Interface, c Config) (*keyring, error) {
	k := &keyring{kube: kube, namespace: c.Namespace, every: c.RotateEvery, now: time.Now, rotation: c.Rotation}
	var err error
	if c.Key == nil {
		return nil, errors.New("an agent needs the cluster's private key")
	}
	if k.held, err = c.Rotation.keys(c.Key); err != nil {
		return nil, fmt.Errorf("use the cluster's keys: %w", err)
	}
	return k, nil
}

// Keys are all that there are.
func (k *keyring) Keys() uplink.Keys {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held
}

// all are the keys that something may be sealed to.
func (k *keyring) all() []*rsa.PrivateKey {
	keys := k.Keys()
	all := []*rsa.PrivateKey{keys.Present}
	if keys.Next != nil {
		all = append(all, keys.Next)
	}
	return append(all, keys.Former...)
}

// Due is when the present key should be replaced; zero for never.
func (k *keyring) Due() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rotation.due(k.every)
}

// Renew makes a next key and keeps it, unless there is one.
func (k *keyring) Renew(ctx context.Context) error {
	if err := k.Settle(ctx, k.Keys().Present); err != nil {
		return err
	}
	if _, err := k.Reload(ctx); err != nil {
		return err
	}
	if k.Keys().Next != nil {
		return nil
	}
	text, err := newKey()
	if err != nil {
		return err
	}
	return k.change(ctx, func(secret *corev1.Secret, present *rsa.PrivateKey, r rotation) (rotation, error) {
		if len(r.Next) == 0 {
			r.Next = text
		}
		return r, nil
	})
}

// Settle makes next the present key, in memory in any case. To be called again with
// the present key when that was not kept.
func (k *keyring) Settle(ctx context.Context, next *rsa.PrivateKey) error {
	k.mu.Lock()
	if !k.held.Present.Equal(next) {
		k.held = uplink.Keys{Present: next, Former: append([]*rsa.PrivateKey{k.held.Present}, k.held.Former...)}
		k.rotation = rotation{Of: fingerprintOf(next), Since: k.now().UTC()}
		k.unkept = true
	}
	unkept := k.unkept
	k.mu.Unlock()
	if !unkept {
		return nil
	}
	return k.change(ctx, func(secret *corev1.Secret, present *rsa.PrivateKey, r rotation) (rotation, error) {
		kept, err := r.keys(present)
		if err != nil || present.Equal(next) || kept.Next == nil || !kept.Next.Equal(next) {
			return r, err // somebody else has settled it, or connected anew
		}
		was := secret.Data["tls.key"]
		secret.Data["tls.key"] = r.Next
		return r.settled(was, next, k.now().UTC()), nil
	})
}

// Reload reads the Secret again. Keys that are only in memory stay there until the
// Secret has got something new.
func (k *keyring) Reload(ctx context.Context) (bool, error) {
	secret, err := k.read(ctx)
	if err != nil {
		return false, err
	}
	return k.adopt(secret)
}

func (k *keyring) read(ctx context.Context) (*corev1.Secret, error) {
	secret, err := k.kube.CoreV1().Secrets(k.namespace).Get(ctx, identitySecret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", k.namespace, identitySecret, err)
	}
	return secret, nil
}

// parse reads the keys of a Secret.
func parse(secret *corev1.Secret) (*rsa.PrivateKey, rotation, error) {
	present, err := parseKey(secret.Data["tls.key"])
	if err != nil {
		return nil, rotation{}, fmt.Errorf("tls.key of Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	r, err := readRotation(secret, present)
	if err != nil {
		return nil, rotation{}, fmt.Errorf("%s of Secret %s/%s: %w", rotationKey, secret.Namespace, secret.Name, err)
	}
	return present, r, nil
}

// adopt takes over what a Secret holds and reports whether that is another present
// key. While the hub takes the next key, and that could not be kept, it stays
// the present one.
func (k *keyring) adopt(secret *corev1.Secret) (bool, error) {
	present, r, err := parse(secret)
	if err != nil {
		return false, err
	}
	keys, err := r.keys(present)
	if err != nil {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if keys.Next != nil && keys.Next.Equal(k.held.Present) {
		return false, nil
	}
	k.unkept = false
	changed := !present.Equal(k.held.Present)
	if keys.Next != nil && k.held.Next != nil && keys.Next.Equal(k.held.Next) {
		keys.Next = k.held.Next // the same value
	}
	k.held, k.rotation = keys, r
	return changed, nil
}

// change writes the Secret anew, from what it holds at that moment.
func (k *keyring) change(ctx context.Context, become func(*corev1.Secret, *rsa.PrivateKey, rotation) (rotation, error)) error {
	secret, err := k.read(ctx)
	if err != nil {
		return err
	}
	present, r, err := parse(secret)
	if err != nil {
		return err
	}
	was := maps.Clone(secret.Data)
	if r, err = become(secret, present, r); err != nil {
		return err
	}
	if secret.Data[rotationKey], err = json.Marshal(r); err != nil {
		return fmt.Errorf("encode the keys: %w", err)
	}
	if !maps.EqualFunc(was, secret.Data, bytes.Equal) {
		// Of two that write at once the second is refused: it read before the first.
		if secret, err = k.kube.CoreV1().Secrets(k.namespace).Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write Secret %s/%s: %w", k.namespace, identitySecret, err)
		}
	}
	_, err = k.adopt(secret)
	return err
}
