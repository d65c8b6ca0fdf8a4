package gateway_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/gateway"
	"headwater.dev/hub/store/etcd"
)

func fingerprint(key *rsa.PublicKey) string {
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(key))
	return hex.EncodeToString(sum[:])
}

// introduce hands over from the agent's key to another one; edit changes the
// claims of the handover.
func (a *agent) introduce(to *rsa.PrivateKey, edit func(jwt.MapClaims)) (int, string) {
	a.t.Helper()
	claims := jwt.MapClaims{"iss": a.id, "sub": a.id, "aud": a.server.URL + link.PathKey, "jti": uuid.NewString(),
		"iat": a.now().Unix(), "exp": a.now().Add(2 * time.Minute).Unix(), "nky": fingerprint(&to.PublicKey)}
	if edit != nil {
		edit(claims)
	}
	next := link.NextKey{PublicKey: certificate(&to.PublicKey),
		Handover: a.signed(jwt.SigningMethodRS256, a.key, claims).Get("client_assertion"),
		Proof:    a.signed(jwt.SigningMethodRS256, to, claims).Get("client_assertion")}
	return a.hand(next)
}

func (a *agent) hand(next link.NextKey) (int, string) {
	a.t.Helper()
	body, err := json.Marshal(next)
	if err != nil {
		a.t.Fatal(err)
	}
	resp, err := a.server.Client().Post(a.server.URL+link.PathKey, "application/json", bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	status, answer := read(a.t, resp)
	return status, string(answer)
}

// holding is the same cluster's agent with another key, and no token yet.
func (a *agent) holding(key *rsa.PrivateKey) *agent {
	b := *a
	b.key = key
	return &b
}

// onEtcd is a hub on the store that hubs really use.
func onEtcd(t *testing.T) *hub {
	t.Helper()
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: filepath.Join(t.TempDir(), "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	h := newHub(t, s)
	t.Cleanup(h.stop)
	return h
}

// TestA85KeyIsReplaced follows a rotation step by step: both keys are good until
// the new one is used, then the old one dies at once, with its streams; what is
// sealed to it still arrives.
func TestA85KeyIsReplaced(t *testing.T) {
	h := onEtcd(t)
	former, present := clusterKeys()[0], clusterKeys()[1]
	version, err := h.vault.Keep(t.Context(), key(configID(edgeID, "apps")), map[string]string{"k": "v"}, &former.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.ProtectedVersion = version })
	old := h.edge()
	f := old.follow()
	f.next()
	for range 2 { // the agent may ask again after a crash
		if status, body := old.introduce(present, nil); status != http.StatusOK {
			t.Fatalf("the next key: %d %s", status, body)
		}
	}
	if status, body := old.request(old.form(nil)); status != http.StatusOK {
		t.Fatalf("the present key before the next was used: %d %s", status, body)
	}
	next := h.agent(edgeID, present)
	next.session = old.session
	f.ended("its key was replaced")
	if status, _ := old.poll("revision=0"); status != http.StatusUnauthorized {
		t.Errorf("a token of the former key: %d", status)
	}
	if status, body := old.request(old.form(nil)); status != http.StatusUnauthorized || !strings.Contains(string(body), "was replaced") {
		t.Errorf("the former key: %d %s", status, body)
	}
	if status, d := next.poll("revision=0"); status != http.StatusOK || len(d.Items) != 1 || len(d.Items[0].Sealed) == 0 {
		t.Errorf("what was sealed to the former key: %d %+v", status, d)
	}
	if status, code := next.report(&link.Heartbeat{AgentVersion: "1"}); status != http.StatusOK {
		t.Errorf("the new key's report: %d %s", status, code)
	}
	if status, body := next.introduce(former, nil); status != http.StatusBadRequest || !strings.Contains(body, "replaced before") {
		t.Errorf("back to the former key: %d %s", status, body)
	}
	h.putCluster(edgeID, &former.PublicKey) // as when the same model is put once more
	if status, _ := next.poll("revision=0"); status != http.StatusOK {
		t.Errorf("a repeated registration undoes the rotation: %d", status)
	}
}

// TestA85RefusedHandovers tries to bring in a key without the right to.
func TestA85RefusedHandovers(t *testing.T) {
	h := newHub(t, nil)
	keys := clusterKeys()
	a := h.edge()
	claims := jwt.MapClaims{"iss": a.id, "sub": a.id, "aud": h.server.URL + link.PathKey, "jti": "one",
		"exp": h.now().Add(time.Minute).Unix(), "nky": fingerprint(&keys[1].PublicKey)}
	handover := a.signed(jwt.SigningMethodRS256, keys[0], claims).Get("client_assertion")
	edit := func(name string, value any) func(jwt.MapClaims) { return func(c jwt.MapClaims) { c[name] = value } }
	for why, try := range map[string]func() (int, string){
		"signed by the new key only": func() (int, string) { return a.holding(keys[1]).introduce(keys[1], nil) },
		"for a token":                func() (int, string) { return a.introduce(keys[1], edit("aud", h.server.URL+link.PathToken)) },
		"about another key":          func() (int, string) { return a.introduce(keys[1], edit("nky", fingerprint(&keys[0].PublicKey))) },
		"of another cluster":         func() (int, string) { return a.introduce(keys[1], edit("iss", otherID)) },
		"the present key":            func() (int, string) { return a.introduce(keys[0], nil) },
		"without proof": func() (int, string) {
			return a.hand(link.NextKey{PublicKey: certificate(&keys[1].PublicKey), Handover: handover})
		},
		"nothing": func() (int, string) { return a.hand(link.NextKey{}) },
	} {
		if status, body := try(); status != http.StatusBadRequest && status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", why, status, body)
		}
	}
	if r, _ := h.get(edgeID); bytes.Contains(r.Observed, []byte(`"next"`)) {
		t.Errorf("a key was taken: %s", r.Observed)
	}
	if status, _ := a.request(a.holding(keys[1]).form(nil)); status != http.StatusUnauthorized {
		t.Errorf("and is good for a token: %d", status)
	}
}

// TestA87CopyKeepsTheFormerKey is a copy of a cluster from before a rotation: it
// is named in the record and in the activity log, and hurts nobody.
func TestA87CopyKeepsTheFormerKey(t *testing.T) {
	var mu sync.Mutex
	var codes []string
	h := newHubWith(t, nil, func(c *gateway.Config) {
		c.Happened = func(_ context.Context, what gateway.Happening) {
			mu.Lock()
			defer mu.Unlock()
			codes = append(codes, what.Cluster+" "+what.Code)
		}
	})
	keys := clusterKeys()
	copied := h.edge()
	if status, body := copied.introduce(keys[1], nil); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	right := h.agent(edgeID, keys[1])
	kept := func() bool {
		r, _ := h.get(edgeID)
		var o resource.ClusterObserved
		if err := json.Unmarshal(r.Observed, &o); err != nil {
			t.Fatal(err)
		}
		return o.Keys.Kept()
	}
	copied.request(copied.form(nil)) // a process that was caught by the rotation
	if kept() {
		t.Error("one late request is taken for a copy")
	}
	for range 3 {
		h.advance(20 * time.Second)
		if status, _ := copied.request(copied.form(nil)); status != http.StatusUnauthorized {
			t.Fatalf("the copy is let in: %d", status)
		}
		if status, code := right.report(&link.Heartbeat{AgentVersion: "1"}); status != http.StatusOK {
			t.Fatalf("the right one pays for the copy: %d %s", status, code)
		}
	}
	if !kept() {
		t.Error("the copy is not noticed")
	}
	mu.Lock()
	defer mu.Unlock()
	if want := edgeID + " , " + edgeID + " FormerKeyUsed"; strings.Join(codes, ", ") != want {
		t.Errorf("the activity log gets %q, want %q", codes, want)
	}
}

// TestRotationIsAskedForUntilItIsDone is the operator's wish.
func TestRotationIsAskedForUntilItIsDone(t *testing.T) {
	h := newHub(t, nil)
	a := h.edge()
	put(h, resource.Desired[resource.ClusterProperties]{ID: edgeID, RotateKeyAt: h.now(),
		Properties: resource.ClusterProperties{AgentPublicKeyCertificate: certificate(&clusterKeys()[0].PublicKey)}})
	if _, d := a.poll("revision=0"); !d.RotateKey {
		t.Error("the agent is not asked for a new key")
	}
	if status, body := a.introduce(clusterKeys()[1], nil); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	if _, d := a.poll("revision=0"); !d.RotateKey {
		t.Error("it is not asked any more before the new key is used")
	}
	if _, d := h.agent(edgeID, clusterKeys()[1]).poll("revision=0"); d.RotateKey {
		t.Error("it is asked again and again")
	}
}

// TestA81PassiveThief is a thief who only reads what is desired, with and without
// a name, while the right agent works: at the latest with his second question he
// is noticed.
func TestA81PassiveThief(t *testing.T) {
	for why, session := range map[string]string{"with a name": "thief", "without a name": ""} {
		t.Run(why, func(t *testing.T) {
			h := newHub(t, nil)
			right := h.edge()
			thief := h.edge()
			thief.session = session
			ask := func(a *agent) int { status, _ := a.asks("revision=0"); return status }
			ask(right)
			shut := 0
			for minute := 0; minute < 60 && shut == 0; minute++ {
				if minute%14 == 0 {
					right, thief = &agent{hub: h, id: edgeID, key: right.key, session: right.session, sequence: right.sequence, token: h.edge().token},
						&agent{hub: h, id: edgeID, key: thief.key, session: session, token: h.edge().token}
					if status := ask(thief); status == http.StatusForbidden {
						shut = minute
					}
				}
				if status, _ := right.report(&link.Heartbeat{AgentVersion: "1"}); status == http.StatusForbidden {
					shut = minute
				}
				h.advance(time.Minute)
			}
			if shut == 0 || shut > 30 {
				t.Errorf("the thief is noticed in minute %d, want with its third visit", shut)
			}
			if status, _ := right.request(right.form(nil)); status != http.StatusForbidden {
				t.Errorf("the key is still good for a token: %d", status)
			}
		})
	}
}

// TestAgentsOfAFormerVersionAreOneProcess names itself in reports only.
func TestAgentsOfAFormerVersionAreOneProcess(t *testing.T) {
	h := newHub(t, nil)
	a := h.edge()
	for range 120 {
		if status, _ := a.poll("revision=0"); status != http.StatusOK {
			t.Fatalf("its question: %d", status)
		}
		if status, code := a.report(&link.Heartbeat{AgentVersion: "1"}); status != http.StatusOK {
			t.Fatalf("its report: %d %s", status, code)
		}
		h.advance(30 * time.Second)
		a.token = h.edge().token
	}
}

// TestA84GuessedClusters guesses ids and keys from one address: that ends soon,
// and agents who were let in before go on.
func TestA84GuessedClusters(t *testing.T) {
	h := newHub(t, nil)
	right := h.edge()
	guess := &agent{hub: h, id: group + "guess", key: clusterKeys()[1]}
	// 200 are looked at, and more as time goes by.
	const least, most = 190, 2000
	looked := 0
	for ; looked < most; looked++ {
		if status, _ := guess.request(guess.form(nil)); status == http.StatusTooManyRequests {
			break
		}
	}
	if looked < least || looked == most {
		t.Errorf("%d guesses were looked at before one was refused, want %d to %d", looked, least, most)
	}
	if status, body := right.request(right.form(nil)); status != http.StatusOK {
		t.Errorf("an agent of the same address that is known: %d %s", status, body)
	}
	h.advance(time.Minute)
	if status, _ := guess.request(guess.form(nil)); status != http.StatusUnauthorized {
		t.Errorf("a minute later: %d", status)
	}
}
