package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

// serveObserved takes a report in, whole or not at all as far as its form goes:
// everything is checked before anything is written.
func (g *Gateway) serveObserved(w http.ResponseWriter, r *http.Request) {
	err := g.report(w, r)
	var known *refusal
	switch {
	case err == nil:
		g.metrics.reports.WithLabelValues("accepted").Inc()
		answer(w, http.StatusOK, struct{}{})
		return
	case errors.As(err, &known):
		g.metrics.reports.WithLabelValues("refused").Inc()
	default:
		g.metrics.reports.WithLabelValues("failed").Inc()
	}
	g.problem(w, r, err)
}

func (g *Gateway) report(w http.ResponseWriter, r *http.Request) error {
	_, c, err := g.caller(r)
	if err != nil {
		return err
	}
	if err := g.quotas.allow(c.record.Key, reportQuota, 1); err != nil {
		return err
	}
	if r.ContentLength < 0 {
		return &refusal{status: http.StatusLengthRequired, code: "LengthRequired", message: "a report needs a Content-Length"}
	}
	if err := g.quotas.allow(c.record.Key, bytesQuota, int(min(r.ContentLength, link.MaxReportBytes))); err != nil {
		return err
	}
	report, err := readReport(w, r)
	if err != nil {
		return err
	}
	checked, err := checkReport(c.record.Key, report)
	if err != nil {
		g.log.Warn("report refused", "cluster", c.record.Key, "reason", err)
		return err
	}
	h := g.sessions.enter(c.record.Key)
	defer h.Unlock()
	if !h.next(report.Session, report.Sequence) {
		return &refusal{status: http.StatusConflict, code: "SequenceNotIncreasing",
			message: "a report with this or a later sequence was taken already; begin a new session"}
	}
	if v := (visit{session: report.Session, now: g.clock().UTC()}); !met(c, v) {
		if err := g.introduce(r.Context(), c, v, nil, false); err != nil {
			return err
		}
	}
	for _, o := range checked {
		if err := g.take(r.Context(), o); err != nil {
			return err
		}
	}
	var facts func(*resource.ClusterObserved)
	if report.Heartbeat != nil {
		facts = factsOf(*report.Heartbeat)
	}
	return g.seen(r.Context(), c, facts, false)
}

// readReport reads the body: one JSON document, not too large. Fields that this hub
// does not know are those of an agent that is newer, and are let go.
func readReport(w http.ResponseWriter, r *http.Request) (link.Report, error) {
	var report link.Report
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return report, &refusal{status: http.StatusUnsupportedMediaType, code: "UnsupportedMediaType", message: "a report is application/json"}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readPatience)) // else the server's own limit
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, link.MaxReportBytes))
	err := decoder.Decode(&report)
	if err == nil {
		if _, err = decoder.Token(); err == nil {
			err = errors.New("something follows the report")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return report, &refusal{status: http.StatusRequestEntityTooLarge, code: "RequestContentTooLarge", message: fmt.Sprintf("a report has at most %d bytes", link.MaxReportBytes)}
	case err != nil && r.Context().Err() == nil:
		return report, &refusal{status: http.StatusBadRequest, code: "InvalidRequestContent", message: "the report cannot be read: " + short(err.Error())}
	}
	return report, err
}

func factsOf(h link.Heartbeat) func(*resource.ClusterObserved) {
	return func(o *resource.ClusterObserved) {
		o.KubernetesVersion, o.AgentVersion = h.KubernetesVersion, h.AgentVersion
		o.TotalNodeCount, o.TotalCoreCount = h.TotalNodeCount, h.TotalCoreCount
		o.Distribution, o.Infrastructure = h.Distribution, h.Infrastructure
	}
}

// take writes one observation. One of a record that is gone, or of a generation
// that the record never had, is let go: neither is the agent's mistake alone,
// and the next message of desired puts it right.
func (g *Gateway) take(ctx context.Context, o observation) error {
	r, err := g.store.Get(ctx, o.key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.Deleted {
		return g.remove(ctx, r, o)
	}
	if o.value != nil {
		if err := g.update(ctx, r, func(r store.Record) (any, error) { return o.fit(r, g.log) }); err != nil {
			return err
		}
	}
	if o.ProtectedVersion != "" {
		return g.vault.Forget(ctx, o.key, o.ProtectedVersion)
	}
	return nil
}

// remove ends a record whose deletion the agent has carried out.
func (g *Gateway) remove(ctx context.Context, r store.Record, o observation) error {
	for {
		var d resource.Desired[json.RawMessage]
		if err := json.Unmarshal(r.Desired, &d); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		if !d.Deleting || o.Generation != r.Generation || o.OperationID != "" && o.OperationID != d.OperationID {
			g.log.Info("deletion that nobody asks for was let go", "id", r.Key, "generation", o.Generation)
			return nil
		}
		err := g.store.Delete(ctx, r.Key, r.Revision)
		if errors.Is(err, store.ErrConflict) {
			if r, err = g.store.Get(ctx, r.Key); err == nil {
				continue
			}
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		g.log.Info("deletion carried out", "id", o.key)
		return g.vault.ForgetUntil(ctx, o.key, d.ProtectedVersion, r.Revision)
	}
}
