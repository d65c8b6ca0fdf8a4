package arm

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const cluster = "/subscriptions/S1/resourceGroups/My-Group/providers/Microsoft.Kubernetes/connectedClusters/Edge1"

func TestParseID(t *testing.T) {
	type parts struct{ Text, Key, Type, Name, Provider, Subscription, Group, Parent string }
	tests := map[string]struct {
		why  string
		in   string
		want parts
	}{
		"subscription": {
			why: "the shortest id",
			in:  "/SUBSCRIPTIONS/S1",
			want: parts{Text: "/subscriptions/S1", Key: "/subscriptions/s1", Type: "Microsoft.Resources/subscriptions",
				Name: "S1", Subscription: "S1"},
		},
		"group": {
			why: "az writes resourcegroups in lower case",
			in:  "/subscriptions/S1/resourcegroups/My-Group",
			want: parts{Text: "/subscriptions/S1/resourceGroups/My-Group", Key: "/subscriptions/s1/resourcegroups/my-group",
				Type: "Microsoft.Resources/resourceGroups", Name: "My-Group", Subscription: "S1", Group: "My-Group",
				Parent: "/subscriptions/S1"},
		},
		"configuration": {
			why: "an extension resource keeps the casing of its parent",
			in:  cluster + "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/App",
			want: parts{Text: cluster + "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/App",
				Key:  strings.ToLower(cluster) + "/providers/microsoft.kubernetesconfiguration/fluxconfigurations/app",
				Type: "Microsoft.KubernetesConfiguration/fluxConfigurations", Name: "App",
				Provider: "Microsoft.KubernetesConfiguration", Subscription: "S1", Group: "My-Group", Parent: cluster},
		},
		"operation": {
			why: "a child type of the same provider",
			in:  cluster + "/providers/Microsoft.KubernetesConfiguration/extensions/flux/operations/42",
			want: parts{Text: cluster + "/providers/Microsoft.KubernetesConfiguration/extensions/flux/operations/42",
				Key:  strings.ToLower(cluster) + "/providers/microsoft.kubernetesconfiguration/extensions/flux/operations/42",
				Type: "Microsoft.KubernetesConfiguration/extensions/operations", Name: "42",
				Provider: "Microsoft.KubernetesConfiguration", Subscription: "S1", Group: "My-Group",
				Parent: cluster + "/providers/Microsoft.KubernetesConfiguration/extensions/flux"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			id, err := ParseID(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			got := parts{id.String(), id.Key(), id.Type(), id.Name(), id.Provider(), id.Subscription(), id.ResourceGroup(), id.Parent().String()}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.why, diff)
			}
		})
	}
}

func TestParseIDRefuses(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"empty":             {"", "must begin with /"},
		"relative":          {"subscriptions/s", "must begin with /"},
		"unknown root":      {"/tenants/t", "must begin with /subscriptions"},
		"no name":           {"/subscriptions/s/resourceGroups", "has no name"},
		"trailing slash":    {"/subscriptions/s/", "empty segment"},
		"double slash":      {"/subscriptions//s", "empty segment"},
		"parent directory":  {"/subscriptions/s/resourceGroups/..", "not a name"},
		"encoded slash":     {"/subscriptions/s/resourceGroups/a%2Fb", "not allowed"},
		"kelvin sign":       {"/subscriptions/s/resourceGroups/\u212Aube", "not allowed"},
		"newline":           {"/subscriptions/s/resourceGroups/a\nb", "not allowed"},
		"incomplete":        {"/subscriptions/s/providers/Microsoft.Kubernetes/connectedClusters", "must be followed"},
		"group then type":   {"/subscriptions/s/resourceGroups/g/clusters/c", "followed by /providers"},
		"subscription type": {"/subscriptions/s/clusters/c", "followed by /resourceGroups"},
		"endless name":      {"/subscriptions/" + strings.Repeat("a", 261), "longer than"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseID(tc.in)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("ParseID(%q) = %v, want an error with %q", tc.in, err, tc.want)
			}
		})
	}
}

func TestChildAndRecase(t *testing.T) {
	id, err := ParseID(strings.ToLower(cluster))
	if err != nil {
		t.Fatal(err)
	}
	canon := map[string]string{"microsoft.kubernetes": "Microsoft.Kubernetes", "connectedclusters": "connectedClusters"}
	got := id.Recase(func(s string) string {
		if c, ok := canon[Fold(s)]; ok {
			return c
		}
		return s
	}).Child("", "operations", "1").String()
	want := "/subscriptions/s1/resourceGroups/my-group/providers/Microsoft.Kubernetes/connectedClusters/edge1/operations/1"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(cluster)
	f.Add("/subscriptions/s/providers/A.B/c/d/e/f")
	f.Add("/providers/A/b/c")
	f.Add("//")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			return
		}
		again, err := ParseID(id.String())
		if err != nil {
			t.Fatalf("ParseID(%q).String() = %q does not parse: %v", s, id.String(), err)
		}
		if !again.Equal(id) || again.String() != id.String() {
			t.Fatalf("%q does not round-trip: %q", s, again.String())
		}
		if folded, err := ParseID(id.Key()); err != nil || folded.Key() != id.Key() {
			t.Fatalf("the key %q of %q is not its own key: %v", id.Key(), s, err)
		}
		if !strings.EqualFold(s, id.String()) {
			t.Fatalf("%q lost more than casing: %q", s, id.String())
		}
	})
}
