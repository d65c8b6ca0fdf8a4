package hub

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"headwater.dev/hub/auth"
)

// TestRecover gets in again while the hub runs, and after it has stopped.
func TestRecover(t *testing.T) {
	r := run(t, Config{})
	recovered := func() auth.Admin {
		t.Helper()
		var out bytes.Buffer
		cmd := NewCommand("test")
		cmd.SetOut(&out)
		cmd.SetArgs([]string{"recover", "--data-dir", r.dir})
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		var admin auth.Admin
		if err := json.Unmarshal(out.Bytes(), &admin); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
		return admin
	}
	admin := recovered()
	if admin.TenantID != r.admin.TenantID || admin.SubscriptionID != r.admin.SubscriptionID || admin.ClientID == r.admin.ClientID {
		t.Errorf("recovered %+v", admin)
	}
	r.admin = admin
	token := r.bearer(t)
	resp := r.send(t, "PUT", "/subscriptions/"+admin.SubscriptionID+"/resourceGroups/g?api-version=2022-09-01", token, strings.NewReader(`{"location":"local"}`), "Content-Type", "application/json")
	if resp.StatusCode != 201 {
		t.Errorf("as the recovered administrator: %s", resp.Status)
	}
	resp = r.send(t, "GET", "/providers/Microsoft.Insights/eventtypes/management/values?api-version=2015-04-01", token, nil)
	log, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(log), `"hub recover"`) || strings.Contains(string(log), admin.ClientSecret) {
		t.Errorf("activity: %v %s", err, log)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if again := recovered(); again.ClientID == admin.ClientID {
		t.Errorf("recovered again: %+v", again)
	}
	cmd := NewCommand("test")
	cmd.SetArgs([]string{"recover", "--data-dir", t.TempDir()})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "no storage") {
		t.Errorf("of nothing: %v", err)
	}
}
