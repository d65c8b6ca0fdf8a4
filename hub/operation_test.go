package hub

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"headwater.dev/client"
	"headwater.dev/hub/store/etcdtest"
)

// TestMain makes this binary a member of an etcd cluster, or runs the tests.
func TestMain(m *testing.M) { etcdtest.Main(m) }

// TestReplicaOverTLS runs a hub over three members of etcd that ask for a client's
// certificate, and goes on without one of them.
func TestReplicaOverTLS(t *testing.T) {
	cluster := etcdtest.Start(t, etcdtest.Config{Members: 3, TLS: true})
	settled := Config{EtcdEndpoints: cluster.Endpoints(), EtcdCA: cluster.CA, EtcdCert: cluster.Cert, EtcdKey: cluster.Key}
	for _, endpoint := range settled.EtcdEndpoints {
		if !strings.HasPrefix(endpoint, "https://") {
			t.Fatalf("%s is not TLS", endpoint)
		}
	}
	r, user, agent, id := waiting(t, settled)
	if _, err := client.Put[any](t.Context(), user, id, client.VersionConfiguration, wanted("s3cret")); err != nil {
		t.Fatal(err)
	}
	agent.run(t)
	await(t, "the agent's secret", func() bool { return agent.secret("apps/httpsKey") != "" })
	cluster.Members[1].Kill()
	if _, err := client.Put[any](t.Context(), user, id, client.VersionConfiguration, wanted("s3cret-2")); err != nil {
		t.Errorf("without one member: %v", err)
	}
	if _, err := client.Get[any](t.Context(), user, id, client.VersionConfiguration); err != nil {
		t.Errorf("without one member: %v", err)
	}

	stranger := Config{DataDir: t.TempDir(), EtcdEndpoints: settled.EtcdEndpoints, EtcdCA: settled.EtcdCA}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if h, err := New(ctx, stranger); err == nil {
		h.Close()
		t.Error("a hub without a client's certificate is let in")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := stranger.checkStorage(ctx); err == nil || !strings.Contains(err.Error(), "--etcd-cert") {
		t.Errorf("hub check without a client's certificate: %v", err)
	}
	settled.DataDir = r.dir
	if err := settled.checkStorage(t.Context()); err != nil {
		t.Errorf("hub check of a hub that runs: %v", err)
	}
}

// TestMetricsAreDocumented compares the guide's table with what is registered.
func TestMetricsAreDocumented(t *testing.T) {
	r := run(t, Config{})
	descriptions := make(chan *prometheus.Desc)
	go func() { r.registry.Describe(descriptions); close(descriptions) }()
	var registered, documented []string
	name := regexp.MustCompile(`fqName: "(headwater_[a-z_]+)"`)
	for d := range descriptions {
		if m := name.FindStringSubmatch(d.String()); m != nil {
			registered = append(registered, m[1])
		}
	}
	row := regexp.MustCompile("(?m)^\\| `(headwater_[a-z_]+)` \\|")
	for _, m := range row.FindAllStringSubmatch(string(read(t, "../docs/guide/operate.md")), -1) {
		documented = append(documented, m[1])
	}
	slices.Sort(registered)
	slices.Sort(documented)
	if d := cmp.Diff(registered, documented); d != "" || len(registered) == 0 {
		t.Errorf("metrics that are registered (-) and in docs/guide/operate.md (+):\n%s", d)
	}
}

// TestEverySettingHasThreeSources gives each flag of "hub serve" by the
// environment and by a file.
func TestEverySettingHasThreeSources(t *testing.T) {
	value := func(f *pflag.Flag) string {
		switch f.Value.Type() {
		case "bool":
			return "true"
		case "int", "int64":
			return "17"
		case "float64":
			return "1.5"
		case "duration":
			return "17m0s"
		}
		return "seventeen"
	}
	for _, by := range []string{"environment", "file"} {
		names := 0
		serve := newServeCommand()
		serve.RunE = func(*cobra.Command, []string) error { return nil }
		var file strings.Builder
		env := map[string]string{}
		serve.Flags().VisitAll(func(f *pflag.Flag) {
			names++
			if by == "file" {
				file.WriteString(f.Name + ": " + value(f) + "\n")
			} else {
				env[variable(f.Name)] = value(f)
			}
		})
		path := filepath.Join(t.TempDir(), "hub.yaml")
		if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		settings(serve, func(name string) string { return env[name] })
		serve.SetArgs([]string{"--config", path})
		if err := serve.Execute(); err != nil {
			t.Errorf("by %s: %v", by, err)
		}
		if names < 30 {
			t.Errorf("there are %d settings only", names)
		}
		serve.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "config" && f.Name != "help" && (!f.Changed || !strings.Contains(f.Value.String(), value(f))) {
				t.Errorf("--%s by %s: %q, want %q", f.Name, by, f.Value, value(f))
			}
		})
	}
}

// TestSecretsAreNowhere puts one secret of each kind and looks for all of them in
// what a hub writes and says, while they are kept and after: files, backup, check,
// log, metrics, activity log and answers.
func TestSecretsAreNowhere(t *testing.T) {
	log := &buffer{}
	r, user, agent, id := waiting(t, Config{MetricsListen: "127.0.0.1:0", Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	cluster, _, _ := strings.Cut(id, "/providers/Microsoft.KubernetesConfiguration")
	said := map[string]string{}
	send := func(method, path, version string, body any) []byte {
		t.Helper()
		var raw []byte
		if body != nil {
			var err error
			if raw, err = json.Marshal(body); err != nil {
				t.Fatal(err)
			}
		}
		answer, err := user.Send(t.Context(), method, path+"?api-version="+version, raw)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		return answer
	}
	secrets := map[string]string{"an extension's setting": "canary-extension-1b", "a configuration's key for HTTPS": "canary-https-2c", "a key for SSH": "canary-ssh-3d",
		"the administrator's secret": r.admin.ClientSecret, "an agent's key": base64.StdEncoding.EncodeToString(agent.key.D.Bytes())}
	ssh := wanted("x")
	props := ssh["properties"].(map[string]any)
	props["gitRepository"] = map[string]any{"url": "ssh://git@git.example/apps.git", "repositoryRef": map[string]any{"branch": "main"}}
	props["configurationProtectedSettings"] = map[string]any{"sshPrivateKey": base64.StdEncoding.EncodeToString([]byte(secrets["a key for SSH"]))}
	said["answers of PUT"] = string(slices.Concat(send("PUT", id, client.VersionConfiguration, wanted(secrets["a configuration's key for HTTPS"])), send("PUT", id+"-ssh", client.VersionConfiguration, ssh),
		send("PUT", cluster+"/providers/Microsoft.KubernetesConfiguration/extensions/flux", "2023-05-01", map[string]any{"properties": map[string]any{
			"extensionType": "microsoft.flux", "configurationProtectedSettings": map[string]any{"canary": secrets["an extension's setting"]}}})))
	var made struct{ Properties struct{ Token string } }
	if err := json.Unmarshal(send("PUT", user.GroupID(sdkGroup)+"/providers/Headwater.Identity/enrolmentTokens/t", "2022-10-01-preview", map[string]any{"properties": map[string]any{}}), &made); err != nil || made.Properties.Token == "" {
		t.Fatalf("no enrolment token: %v", err)
	}
	secrets["an enrolment token"] = made.Properties.Token
	principal := "/providers/Headwater.Identity/servicePrincipals/4b1f7c7e-1f39-4f6c-9f5e-000000000001"
	send("PUT", principal, client.VersionPreview, map[string]any{"properties": map[string]any{"displayName": "pipeline"}})
	var password struct{ SecretText string }
	if err := json.Unmarshal(send("POST", principal+"/addPassword", client.VersionPreview, map[string]any{}), &password); err != nil || password.SecretText == "" {
		t.Fatalf("no secret of a principal: %v", err)
	}
	secrets["a principal's secret"] = password.SecretText
	said["a principal"] = string(send("GET", principal, client.VersionPreview, nil))
	said["lists"] = string(slices.Concat(send("GET", id[:strings.LastIndexByte(id, '/')], client.VersionConfiguration, nil),
		send("GET", user.GroupID(sdkGroup)+"/providers/Headwater.Identity/enrolmentTokens", "2022-10-01-preview", nil)))
	said["the activity log"] = string(send("GET", "/subscriptions/"+r.admin.SubscriptionID+"/providers/Microsoft.Insights/eventtypes/management/values", "2015-04-01", nil))
	if !strings.Contains(said["the activity log"], "enrolmentTokens") {
		t.Errorf("the activity log says nothing of the token: %.300s", said["the activity log"])
	}
	saved := filepath.Join(t.TempDir(), "backup.db")
	if _, err := command(t, "backup", "--data-dir", r.dir, "--output", saved); err != nil {
		t.Fatal(err)
	}
	said["the backup"] = string(read(t, saved)) + string(read(t, saved+".json"))
	if n := r.kept(t); n != 3 || len(said["the backup"]) < 10<<10 {
		t.Errorf("%d secrets are kept, and the backup has %d bytes", n, len(said["the backup"]))
	}
	said["hub check"], _ = command(t, "check", "--data-dir", r.dir, "--listen", "127.0.0.1:0")
	if !strings.Contains(said["hub check"], "ok      storage") {
		t.Errorf("hub check says %q", said["hub check"])
	}
	leave := agent.run(t)
	await(t, "the agent's secrets", func() bool {
		return agent.secret("apps/httpsKey") != "" && agent.secret("apps-ssh/sshPrivateKey") != "" && agent.secret("flux/canary") != ""
	})
	secrets["an agent's token"] = agent.token
	if status, metrics := r.get(t, "http://"+r.MetricsAddr()+"/metrics"); status != http.StatusOK {
		t.Errorf("metrics: %d", status)
	} else {
		said["the metrics"] = metrics
	}
	leave()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	said["the log"] = log.String()
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "admin.json" { // which is there to hold it
			said[path] = string(read(t, path))
		}
		return err
	})
	if err != nil || len(said) < 12 {
		t.Fatalf("looked into %d places: %v", len(said), err)
	}
	for what, secret := range secrets {
		if len(secret) < 10 {
			t.Fatalf("%s is %q", what, secret)
		}
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret))} {
			for place, text := range said {
				if strings.Contains(text, form) {
					t.Errorf("%s holds %s", place, what)
				}
			}
		}
	}
}
