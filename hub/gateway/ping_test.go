package gateway_test

import (
	"testing"
	"time"

	"headwater.dev/hub/gateway"
)

// The deadline of one message must not end the stream in the silence after it.
func TestStreamOutlivesTheDeadlinesOfItsMessages(t *testing.T) {
	h := newHub(t, nil)
	const messages = 500 * time.Millisecond
	gateway.SetTiming(h.gateway, messages+messages/2, messages)
	f := h.edge().follow()
	f.next()
	for n := range 3 {
		select {
		case m, ok := <-f.messages:
			if !ok || m.Ping == nil {
				t.Fatalf("ping %d: the stream ended or carried %+v", n, m)
			}
		case <-time.After(patience):
			t.Fatalf("no ping %d", n)
		}
	}
}
