package enrolment

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"headwater.dev/api/arm"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/hub/vault"
)

const (
	// maxBody bounds what an agent sends, in bytes.
	maxBody = 32 << 10
	// maxProof is how far ahead a proof may expire.
	maxProof = 5 * time.Minute
)

func audience(url string) string { return strings.TrimRight(url, "/") + link.PathEnrol }

// refusal is a clean error for the agent. Its text never holds a secret.
type refusal struct {
	status        int
	code, message string
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

func refuse(status int, code, message string) error { return &refusal{status, code, message} }

// request is what an agent asks for and has proved.
type request struct {
	link.Enrolment
	id          arm.ID
	fingerprint string
	from        string
}

// name of the enrolment: one per cluster and key.
func (q request) name() string {
	sum := sha256.Sum256([]byte(q.id.Key() + "\n" + q.fingerprint))
	return hex.EncodeToString(sum[:16])
}

// Handler serves link.PathEnrol. Put it behind a limit by address.
func (d *Desk) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state, err := d.serve(w, r)
		if err == nil {
			status := http.StatusOK
			if state.State == link.EnrolmentPending {
				status = http.StatusAccepted
			}
			answer(w, status, state)
			return
		}
		var known *refusal
		if !errors.As(err, &known) {
			d.log.Error("enrolment failed", "error", err)
			w.Header().Set("Retry-After", "5")
			known = &refusal{http.StatusServiceUnavailable, "ServiceUnavailable", "the hub cannot reach its storage; try again"}
		} else {
			d.log.Warn("enrolment refused", "code", known.code, "from", r.RemoteAddr)
		}
		answer(w, known.status, arm.ErrorBody{Error: arm.Error{Code: known.code, Message: known.message}})
	})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the agent is gone: nobody to tell
}

func (d *Desk) serve(w http.ResponseWriter, r *http.Request) (link.Enrolled, error) {
	if r.Method != http.MethodPost {
		return link.Enrolled{}, refuse(http.StatusMethodNotAllowed, arm.CodeMethodNotAllowed, "send a POST")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience)) // else the server's own limit
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return link.Enrolled{}, refuse(http.StatusRequestEntityTooLarge, arm.CodeBodyTooLarge, "the body has more than 32 KiB, or could not be read")
	}
	q := request{from: auth.Address(r)}
	if json.Unmarshal(raw, &q.Enrolment) != nil {
		return link.Enrolled{}, refuse(http.StatusBadRequest, arm.CodeInvalidBody, "the body is no enrolment in JSON")
	}
	if err := d.prove(&q); err != nil {
		return link.Enrolled{}, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	return d.enrol(ctx, q)
}

// prove checks that the agent holds the key, for this hub, this cluster and this
// token.
func (d *Desk) prove(q *request) error {
	bad := func(message string) error { return refuse(http.StatusUnauthorized, "EnrolmentProofInvalid", message) }
	key, err := vault.ParsePublicKey(q.PublicKey)
	if err != nil {
		return bad("publicKey: " + strings.Replace(err.Error(), "agentPublicKeyCertificate", "it", 1))
	}
	id, err := arm.ParseID(q.Cluster)
	if err != nil || len(q.Cluster) > store.MaxKey/4 || !strings.EqualFold(id.Type(), resource.TypeConnectedCluster) || len(id.Segments()) != 3 {
		return refuse(http.StatusForbidden, "EnrolmentNotAllowed", "cluster is not the id of a connected cluster: /subscriptions/…/resourceGroups/…/providers/Microsoft.Kubernetes/connectedClusters/NAME")
	}
	q.id, q.fingerprint = d.canon(id), vault.Fingerprint(key)
	return d.signed(*q, key, bad)
}

func (d *Desk) signed(q request, key *rsa.PublicKey, bad func(string) error) error {
	parsed, err := jwt.ParseSigned(q.Proof, []jose.SignatureAlgorithm{jose.RS256})
	var claims struct {
		jwt.Claims
		TokenHash string `json:"tkh"`
	}
	if err == nil {
		err = parsed.Claims(key, &claims)
	}
	now := d.clock()
	switch {
	case err != nil:
		return bad("the proof is not signed with the key")
	case claims.Issuer != q.Cluster || claims.Subject != q.Cluster:
		return bad("the proof is for another cluster")
	case len(claims.Audience) != 1 || claims.Audience[0] != d.audience:
		return bad("the proof is for another audience than " + d.audience)
	case claims.TokenHash != hash(q.Token):
		return bad("the proof is for another token")
	case claims.Expiry == nil || now.After(claims.Expiry.Time().Add(auth.Skew)):
		return bad("the proof has expired; compare the clocks")
	case claims.Expiry.Time().After(now.Add(maxProof + auth.Skew)):
		return bad("the proof is good for more than five minutes; compare the clocks")
	}
	return nil
}

// enrol answers how far the enrolment of a cluster and key is, and begins one
// when the token allows that. Who holds the key of one that was begun needs no
// token any more.
func (d *Desk) enrol(ctx context.Context, q request) (link.Enrolled, error) {
	p := petition{ID: q.id.Parent().String() + "/providers/" + typeEnrolment + "/" + q.name(), Cluster: q.id.String(), PublicKey: strings.TrimSpace(q.PublicKey),
		Fingerprint: q.fingerprint, From: q.from, Asked: d.clock().UTC(), State: link.EnrolmentPending}
	there, err := d.registered(ctx, q.id)
	if err != nil {
		return link.Enrolled{}, err
	}
	if there == q.fingerprint {
		return link.Enrolled{Name: q.name(), State: link.EnrolmentApproved}, nil
	}
	now, err := d.petition(ctx, p.key())
	if err == nil && now.state() != link.EnrolmentPending {
		return tell(now), nil
	}
	begun := err == nil
	if err != nil && !missing(err) {
		return link.Enrolled{}, err
	}
	key, t, err := d.find(ctx, q.Token)
	var known *refusal
	if begun && errors.As(err, &known) {
		return tell(now), nil // it waits for a person, and its token has ended meanwhile
	}
	if err != nil {
		return link.Enrolled{}, err
	}
	if !begun {
		if now, err = d.begin(ctx, key, t, q, p, there); err != nil {
			return link.Enrolled{}, err
		}
	}
	if err := d.allowed(ctx, t, q.id); begun && errors.As(err, &known) {
		return tell(now), nil // the rule is of a token that is for something else by now
	} else if err != nil {
		return link.Enrolled{}, err
	}
	now, err = d.byRule(ctx, t, now)
	return tell(now), err
}

// begin uses a token and makes the enrolment.
func (d *Desk) begin(ctx context.Context, key string, t ticket, q request, p petition, there string) (petition, error) {
	if there != "" {
		return p, refuse(http.StatusConflict, "ClusterExists", "there is a cluster of this name with another key: choose another name, or have that one deleted first")
	}
	if err := d.allowed(ctx, t, q.id); err != nil {
		return p, err
	}
	token, err := arm.ParseID(t.ID)
	if err != nil {
		return p, err
	}
	p.Token, p.Location, p.Tags = token.Name(), t.Location, t.Tags
	if _, err := update(ctx, d.store, key, d.claim(p)); err != nil {
		if missing(err) {
			err = refuse(http.StatusUnauthorized, "EnrolmentTokenInvalid", "the enrolment token is not valid, or is no longer")
		}
		return p, err
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	_, err = d.store.Put(ctx, store.Put{Key: p.key(), Value: raw, TTL: p.life()})
	if errors.Is(err, store.ErrExists) {
		return d.petition(ctx, p.key())
	}
	if err == nil {
		d.log.Info("a cluster asks to be enrolled", "cluster", p.Cluster, "enrolment", p.ID, "token", p.Token, "from", p.From)
	}
	return p, err
}

// allowed checks what the token is for.
func (d *Desk) allowed(ctx context.Context, t ticket, id arm.ID) error {
	no := func(message string) error { return refuse(http.StatusForbidden, "EnrolmentNotAllowed", message) }
	if !auth.Within(id.Parent().String(), t.Scope) {
		return no("the enrolment token is not for this subscription or resource group")
	}
	if t.Pattern != "" {
		if ok, _ := path.Match(strings.ToLower(t.Pattern), strings.ToLower(id.Name())); !ok {
			return no("the enrolment token is for clusters named " + t.Pattern)
		}
	}
	if !properName.MatchString(id.Name()) {
		return no("the name of the cluster is not valid: use up to 63 letters, digits, '-', '_' and '.'")
	}
	since, err := d.scope(ctx, id.Parent().String())
	var coded *arm.Error
	switch {
	case errors.As(err, &coded):
		return no(coded.Message)
	case err != nil:
		return err
	case !t.GroupSince.IsZero() && !t.GroupSince.Equal(since):
		return no("the enrolment token is for a resource group that was deleted and made anew")
	}
	return nil
}

// claim takes one use of a token, unless the enrolment has it already.
func (d *Desk) claim(p petition) func(*ticket) (time.Duration, bool, error) {
	id, _ := arm.ParseID(p.ID)
	return func(t *ticket) (time.Duration, bool, error) {
		if slices.Contains(t.Claims, id.Name()) {
			return 0, false, nil
		}
		if len(t.Claims) >= t.MaxUses {
			return 0, false, refuse(http.StatusForbidden, "EnrolmentTokenUsed", "the enrolment token was used as often as it may be: have a new one made")
		}
		t.Claims = append(t.Claims, id.Name())
		return t.Expires.Sub(d.clock()) + time.Hour, true, nil
	}
}

// registered is the fingerprint of the key of a cluster that is there, "" when
// there is none.
func (d *Desk) registered(ctx context.Context, id arm.ID) (string, error) {
	r, err := d.store.Get(ctx, id.Key())
	if missing(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var c resource.Desired[resource.ClusterProperties]
	if err := json.Unmarshal(r.Desired, &c); err != nil {
		return "", err
	}
	key, err := vault.ParsePublicKey(c.Properties.AgentPublicKeyCertificate)
	if err != nil {
		return "none", nil // it is there, and no agent has its key
	}
	return vault.Fingerprint(key), nil
}

// tell is what the agent learns.
func tell(p petition) link.Enrolled {
	id, _ := arm.ParseID(p.ID) // it was written from one
	e := link.Enrolled{Name: id.Name(), State: p.state(), Message: p.Reason}
	if e.State == link.EnrolmentPending && e.Message == "" {
		e.Message = "waits for somebody to approve it: headwater enrolment approve -g " + id.ResourceGroup() + " -n " + id.Name()
	}
	return e
}
