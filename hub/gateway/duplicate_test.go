package gateway_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"headwater.dev/api/link"
)

// TestANodeThatWasCutOffIsNoDuplicate cuts the agent's node off, so that the
// cluster starts another; when the node is back, the first agent is there for a
// moment, until the kubelet has ended it. The same happens to its successors.
func TestANodeThatWasCutOffIsNoDuplicate(t *testing.T) {
	h := newHub(t, nil)
	process := func(session string) *agent {
		a := h.edge()
		a.session = session
		return a
	}
	speak := func(why string, a *agent) {
		t.Helper()
		a.token = h.edge().token
		if status, _ := a.asks("revision=0"); status != http.StatusOK {
			t.Fatalf("%s: its question: %d", why, status)
		}
		if status, code := a.report(&link.Heartbeat{AgentVersion: "1"}); status != http.StatusOK {
			t.Fatalf("%s: its report: %d %s", why, status, code)
		}
	}
	now := process("first")
	for i := range 5 {
		for range 20 {
			speak("alone", now)
			h.advance(time.Minute)
		}
		was := now
		now = process(fmt.Sprint("next-", i))
		for range 20 {
			speak("in place of the former", now)
			h.advance(time.Minute)
		}
		for range 3 { // about a minute of both
			speak("back with its node", was)
			speak("beside it", now)
			h.advance(20 * time.Second)
		}
	}
}
