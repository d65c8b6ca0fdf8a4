package gateway

import "github.com/prometheus/client_golang/prometheus"

// metrics are those of the agents' door; no label can be chosen by an agent.
type metrics struct {
	connected prometheus.Gauge
	messages  prometheus.Counter
	watches   prometheus.Counter
	tokens    *prometheus.CounterVec
	reports   *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "headwater_gateway_connected_agents", Help: "Streams that agents hold open.",
		}),
		messages: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headwater_gateway_desired_messages_total", Help: "Messages with everything desired of a cluster.",
		}),
		watches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headwater_gateway_store_watch_restarts_total", Help: "Times the watch of the store had to begin anew.",
		}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headwater_gateway_token_requests_total", Help: "Agents' requests for a token, by result.",
		}, []string{"result"}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headwater_gateway_reports_total", Help: "Agents' reports, by result.",
		}, []string{"result"}),
	}
	if r != nil {
		r.MustRegister(m.connected, m.messages, m.watches, m.tokens, m.reports)
	}
	return m
}
