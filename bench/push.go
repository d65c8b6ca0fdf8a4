package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	notifiedPushes = 20
	intervalPushes = 10
	shortInterval  = 5 // seconds
)

func pushNotified(ctx context.Context, b *bed) (string, error) {
	return pushes(ctx, b, pushing{name: "push-notified", interval: far, times: notifiedPushes, notify: true})
}

func pushInterval(ctx context.Context, b *bed) (string, error) {
	return pushes(ctx, b, pushing{name: "push-interval", interval: shortInterval, times: intervalPushes})
}

// pushing is how a push scenario goes.
type pushing struct {
	name     string
	interval int // of the source, in seconds
	times    int
	notify   bool
}

func pushes(ctx context.Context, b *bed, p pushing) (_ string, err error) {
	s, err := b.subject(ctx, p.name, p.interval)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.remove(ctx)) }()
	w, err := s.watch(ctx, &corev1.ConfigMapList{})
	if err != nil {
		return "", err
	}
	defer w.Stop()
	var took []time.Duration
	for i := range p.times {
		value := fmt.Sprintf("push %d", i+1)
		if err := s.push(value); err != nil {
			return "", err
		}
		pushed := time.Now()
		if p.notify {
			if err := s.notify(ctx); err != nil {
				return "", err
			}
		}
		applied, err := sees(ctx, w, hasValue(value))
		if err != nil {
			return "", fmt.Errorf("push %d: %w", i+1, err)
		}
		took = append(took, applied.Sub(pushed))
	}
	return summary(took), nil
}

// summary needs at least one duration.
func summary(took []time.Duration) string {
	slices.Sort(took)
	return fmt.Sprintf("median %s, p95 %s, max %s (n=%d)", seconds(quantile(took, 0.5)), seconds(quantile(took, 0.95)), seconds(took[len(took)-1]), len(took))
}

// quantile is the smallest of the sorted values that at least q of them do not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	for i, d := range sorted {
		if float64(i+1) >= q*float64(len(sorted)) {
			return d
		}
	}
	return sorted[len(sorted)-1]
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
