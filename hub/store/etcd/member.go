package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"headwater.dev/hub/store"
)

const (
	defaultQuota   = 8 << 30
	defaultHistory = 5 * time.Minute
	memberName     = "hub"
)

// maxSocket is the length of the longest path of a socket.
const maxSocket = 100

// socket is where an embedded member hears those who may read its directory, such
// as a backup; empty when the path would be too long.
func socket(dir string) string {
	path, err := filepath.Abs(filepath.Join(dir, "client.sock"))
	if err != nil || len(path) > maxSocket {
		return ""
	}
	return path
}

// memberConfig is a lone member that listens nowhere but at a socket in its
// directory, which has mode 0700.
func memberConfig(c Config, log *slog.Logger) (*embed.Config, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = memberName, c.Dir
	nowhere := url.URL{Scheme: "http", Host: "localhost:2380"} // a name; nothing listens there
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	if path := socket(c.Dir); path != "" {
		cfg.ListenClientUrls = []url.URL{{Scheme: "unix", Path: path}}
		cfg.AdvertiseClientUrls = cfg.ListenClientUrls
		cfg.EnableGRPCGateway = false
	}
	cfg.AdvertisePeerUrls = []url.URL{nowhere}
	cfg.InitialCluster = cfg.InitialClusterFromName(memberName)

	cfg.QuotaBackendBytes = c.QuotaBytes
	if cfg.QuotaBackendBytes == 0 {
		cfg.QuotaBackendBytes = defaultQuota
	}
	history := c.History
	if history == 0 {
		history = defaultHistory
	}
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = history.String()
	cfg.MaxRequestBytes = 3 * store.MaxValue // both parts at most, with room for keys
	// A lone member has no follower that needs to catch up from old entries.
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 5000, 500
	// Without these two, every restart would start all lives anew.
	if err := cfg.ServerFeatureGate.(interface{ SetFromMap(map[string]bool) error }).SetFromMap(map[string]bool{
		string(features.LeaseCheckpoint):        true,
		string(features.LeaseCheckpointPersist): true,
	}); err != nil {
		return nil, fmt.Errorf("turn on lease checkpoints: %w", err)
	}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(log))
	return cfg, nil
}

// own reads what the lone member has. It need not ask whether others know more: a
// write is answered when this process has applied it. What it reads must not go
// away meanwhile.
func (s *Store) own(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	s.reading.RLock()
	defer s.reading.RUnlock()
	select {
	case <-s.member.Server.StoppingNotify():
		return nil, fmt.Errorf("%w: it has stopped", store.ErrUnavailable)
	default:
	}
	resp, err := s.client().Get(ctx, key, append(options, clientv3.WithSerializable())...)
	return resp, fault(ctx, err)
}

// zapLogger hands what etcd logs to slog, one level lower: its information is
// of interest only when etcd itself is being looked into.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(bridge{log: log.With("component", "etcd")})
}

// bridge is a zapcore.Core over slog.
type bridge struct{ log *slog.Logger }

func (b bridge) level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// Enabled reports whether a message of that level reaches anyone.
func (b bridge) Enabled(l zapcore.Level) bool {
	return b.log.Enabled(context.Background(), b.level(l))
}

// With adds fields to all messages.
func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{log: b.log.With(attributes(fields)...)}
}

// Check adds the bridge to a message that somebody wants. What etcd says of its
// listener is not: that is a socket for backups, not a port with load, and it
// complains about every orderly end of it.
func (b bridge) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) && !strings.HasPrefix(e.Message, "Running http and grpc server on single port") &&
		!strings.HasPrefix(e.Message, "setting up serving from embedded etcd failed") {
		return checked.AddCore(e, b)
	}
	return checked
}

// Write hands one message on.
func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	b.log.Log(context.Background(), b.level(e.Level), e.Message, attributes(fields)...)
	return nil
}

// Sync has nothing to flush.
func (b bridge) Sync() error { return nil }

// attributes turns zap's fields into slog's, without the stack traces.
func attributes(fields []zapcore.Field) []any {
	encoded := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(encoded)
	}
	out := make([]any, 0, len(encoded.Fields))
	for k, v := range encoded.Fields {
		if k != "stacktrace" {
			out = append(out, slog.Any(k, v))
		}
	}
	return out
}
