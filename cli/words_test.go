package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWords(t *testing.T) {
	tests := map[string]struct {
		why, in string
		want    []string
	}{
		"kustomizations": {
			why:  "every -k takes the KEY=VALUE words that follow it",
			in:   "create -k name=a path=./x prune=true -k name=b depends_on=a -n cfg",
			want: []string{"create", "-k", "name=a|path=./x|prune=true", "-k", "name=b|depends_on=a", "-n", "cfg"},
		},
		"inline":           {why: "the first word may follow an equals sign", in: "--kustomization=name=a path=.", want: []string{"--kustomization", "name=a|path=."}},
		"name of one":      {why: "-k of the kustomization verbs takes a name", in: "kustomization show -k infra -n cfg", want: []string{"kustomization", "show", "-k", "infra", "-n", "cfg"}},
		"switch":           {why: "az takes true and false after a switch", in: "update --suspend false --no-wait", want: []string{"update", "--suspend=false", "--no-wait"}},
		"switch alone":     {why: "a switch without a value is true", in: "update --suspend -n x", want: []string{"update", "--suspend", "-n", "x"}},
		"force of delete":  {why: "what follows a switch need not be its value", in: "delete --force --yes", want: []string{"delete", "--force", "--yes"}},
		"settings":         {why: "a value may hold an equals sign", in: "--config a=b=c d=e --no-wait", want: []string{"--config", "a=b=c|d=e", "--no-wait"}},
		"identities":       {why: "JSON words belong to their flag", in: `--match-oidc-identity {"issuer":"a"} {"issuer":"b"}`, want: []string{"--match-oidc-identity", `{"issuer":"a"}|{"issuer":"b"}`}},
		"end of the flags": {why: "nothing is changed after --", in: "-- -k name=a b=c", want: []string{"--", "-k", "name=a", "b=c"}},
		"other flags":      {why: "flags that take one value stay as they are", in: "-u https://x/?a=b c=d", want: []string{"-u", "https://x/?a=b", "c=d"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for i := range tc.want {
				tc.want[i] = strings.ReplaceAll(tc.want[i], "|", separator)
			}
			if diff := cmp.Diff(tc.want, Words(strings.Fields(tc.in))); diff != "" {
				t.Errorf("%s: %s", tc.why, diff)
			}
		})
	}
}

func TestSeconds(t *testing.T) {
	for in, want := range map[string]int64{"10m": 600, "1h": 3600, "1h1m1s": 3661, "90s": 90, "0s": 0} {
		if got, err := seconds("--timeout", in); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "10", "m", "1m1h", "-1m", "1d", "99999999999h", "1.5h"} {
		if got, err := seconds("--timeout", in); err == nil || !strings.Contains(err.Error(), "--timeout") {
			t.Errorf("%q is %d, %v; want an error that names the flag", in, got, err)
		}
	}
}

func TestCanonicalFlag(t *testing.T) {
	for in, want := range map[string]string{
		"ns": "namespace", "sync-interval": "interval", "cluster-rp": "cluster-resource-provider", "depends-on": "dependencies",
		"service-principal-client-id": "sp-client-id", "service-principal-client-certificate": "sp-client-cert",
		"service-principal-certificate-password": "sp-cert-password", "service-principal-certificate-send-chain": "sp-cert-send-chain",
		"service-principal": "service-principal", "name": "name",
	} {
		if got := canonicalFlag(in); got != want {
			t.Errorf("--%s is --%s, want --%s", in, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	if got := clean("a\x1b[31mb\nc"); got != "a\uFFFD[31mb c" {
		t.Errorf("got %q", got)
	}
}

func FuzzWords(f *testing.F) {
	f.Add("-k name=a b=c --suspend true -- x")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Fields(strings.ReplaceAll(line, separator, ""))
		joined := strings.NewReplacer(separator, "").Replace(strings.Join(Words(args), ""))
		plain := strings.Join(args, "")
		// Nothing is lost or invented but equals signs and the case of true and false.
		strip := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "=", "")) }
		if strip(joined) != strip(plain) {
			t.Errorf("%q became %q", plain, joined)
		}
	})
}
