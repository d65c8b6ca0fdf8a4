package release

import (
	"testing"

	"k8s.io/client-go/rest"
)

// TestEveryCallerGetsItsOwnConfig: Helm's resource builder writes into the
// configuration; with a shared one, parallel releases asked for each other's kinds.
func TestEveryCallerGetsItsOwnConfig(t *testing.T) {
	g := &getter{conn: Connection{Config: &rest.Config{Host: "https://cluster.example"}}}
	one, err := g.ToRESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	one.APIPath = "/apis"
	two, err := g.ToRESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	if two.APIPath != "" || two.Host != "https://cluster.example" || g.conn.Config.APIPath != "" {
		t.Errorf("a caller's change shows elsewhere: %+v", two)
	}
}
