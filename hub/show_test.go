package hub

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestShow(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "admin.json"), []byte(`{"clientId":"c"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		args      []string
		out, fail string
	}{
		"admin":       {[]string{"show", "admin", "--data-dir", dir}, `{"clientId":"c"}`, ""},
		"missing":     {[]string{"show", "ca", "--data-dir", dir}, "", filepath.Join(dir, "ca.crt")},
		"unknown":     {[]string{"show", "signing.key", "--data-dir", dir}, "", "signing.key"},
		"no data-dir": {[]string{"show", "admin"}, "", "data-dir"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cmd := NewCommand("1")
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetArgs(c.args)
			err := cmd.Execute()
			if (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
				t.Errorf("hub %q: %v, want %q", c.args, err, c.fail)
			}
			if out.String() != c.out {
				t.Errorf("hub %q prints %q, want %q", c.args, out.String(), c.out)
			}
		})
	}
}
