package gateway

import "time"

// SetTiming sets how often a silent stream carries a ping, and how long an agent may
// take to read one message.
func SetTiming(g *Gateway, ping, patience time.Duration) {
	g.pingEvery, g.writePatience = ping, patience
}
