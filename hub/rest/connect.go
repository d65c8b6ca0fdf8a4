package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/versions"
	"headwater.dev/hub/auth"
)

// Joining is a cluster that somebody lets in without having asked himself: its
// agent did.
type Joining struct {
	// Who lets it in. He needs the right to make the cluster.
	Who auth.Principal
	// ID of the cluster, which must not be there yet.
	ID arm.ID
	// Location is that of the resource group when empty.
	Location string
	Tags     map[string]string
	// PublicKey is the cluster's agentPublicKeyCertificate.
	PublicKey string
	// From is the address of the agent, Correlation names what led to it; both
	// are for the activity log.
	From, Correlation string
}

// Connect makes the record of a cluster. It passes the gates, the rights of who
// lets the cluster in, and the locks, like a PUT at the door; a cluster that is
// there is never touched, but an error with arm.CodePreconditionFailed.
func (s *Server) Connect(ctx context.Context, j Joining) error {
	rt := route{typ: resource.TypeConnectedCluster, verb: "write", depth: ofCluster}
	w := &unheard{header: http.Header{}}
	w.header.Set(arm.HeaderCorrelationID, j.Correlation)
	w.header.Set(arm.HeaderRequestID, s.newID())
	c := &call{server: s, w: w, id: j.ID.Recase(canon), version: versions.Of(rt.typ)[0], who: j.Who, now: s.clock().UTC()}
	if j.Location == "" {
		group, err := load[resource.ResourceGroupProperties](ctx, s.store, c.id.Parent().Key())
		if err != nil {
			return err
		}
		j.Location = group.Location
	}
	body, err := json.Marshal(map[string]any{"location": j.Location, "tags": tagsOf(j.Tags), "identity": map[string]string{"type": "SystemAssigned"},
		"properties": map[string]string{"agentPublicKeyCertificate": j.PublicKey, "distribution": "auto", "infrastructure": "auto"}})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, "https://hub", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.URL.Path, r.RemoteAddr = c.id.String(), j.From
	r.Header.Set("If-None-Match", "*")
	c.r = r.WithContext(withCondition(ctx, r, c.id.Key(), w.header))
	a := s.attempt(w, c.r, j.Who, action(rt, c.r), c.id.String())
	return s.carry(w, c.r, a, func() error { return c.admit(rt) }, func() error { return s.clusters(rt.typ).put(c) })
}

// unheard is an answer that nobody waits for.
type unheard struct{ header http.Header }

func (w *unheard) Header() http.Header         { return w.header }
func (w *unheard) Write(b []byte) (int, error) { return len(b), nil }
func (w *unheard) WriteHeader(int)             {}
