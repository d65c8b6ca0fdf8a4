package gateway_test

import (
	"testing"
	"time"

	"headwater.dev/hub/gateway"
)

// The deadline of one message must not end the stream in the silence after it.
func TestStreamOutlivesTheDeadlinesOfItsMessages(t *testing.T) {
	h := newHub(t, nil)
	const messages = 2 * time.Second
	gateway.SetTiming(h.gateway, messages+messages/2, messages)
	f := h.edge().follow()
	f.next()
	for n := 0; n < 3; {
		select {
		case m, ok := <-f.messages:
			if !ok {
				t.Fatalf("the stream ended before ping %d", n)
			}
			if m.Ping != nil { // what is desired may come again, when it was looked at late
				n++
			}
		case <-time.After(patience):
			t.Fatalf("no ping %d", n)
		}
	}
}
