package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"sync"
	"testing"
)

var newTestKey = sync.OnceValues(func() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})), err
})

func testKey(t *testing.T) string {
	t.Helper()
	key, err := newTestKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestRefusals shows the complaint about every combination that cannot work; the
// hub is not asked.
func TestRefusals(t *testing.T) {
	tests := map[string]struct{ args, want string }{
		"no reference":     {"-u https://h/r", "exactly one of --branch, --tag, --semver and --commit"},
		"two references":   {"-u https://h/r --branch a --tag b", "exactly one of --branch"},
		"git url":          {"-u h/r --branch a", "--url does not begin with https://, http://, ssh:// or git@"},
		"bucket url":       {"--kind bucket -u oci://h --bucket-name b", "--url does not begin with https:// or http://, as it has to for --kind bucket"},
		"kind":             {"--kind hg -u https://h/r", "use git, bucket, azblob or oci"},
		"foreign flag":     {"-u https://h/r --branch a --bucket-name b", "--bucket-name is not for --kind git; its flags are --branch"},
		"ssh key on https": {"-u https://h/r --branch a --ssh-private-key x", "--ssh-private-key is for SSH URLs"},
		"password on ssh":  {"-u ssh://h/r --branch a --https-user u", "--https-user is for http(s) URLs"},
		"half of https":    {"-u https://h/r --branch a --https-user u", "--https-user and --https-key belong together"},
		"secret and ref":   {"-u https://h/r --branch a --https-user u --https-key k --local-auth-ref s", "--local-auth-ref and --https-user cannot be combined"},
		"inline and file":  {"-u https://h/r --branch a --https-ca-cert x --https-ca-cert-file y", "either --https-ca-cert or --https-ca-cert-file"},
		"missing file":     {"-u https://h/r --branch a --https-ca-cert-file /nonexistent", "--https-ca-cert-file: open /nonexistent"},
		"no key":           {"-u ssh://h/r --branch a --ssh-private-key QUJD", "--ssh-private-key is not an RSA, ECDSA or Ed25519 private key"},
		"key not base64":   {"-u ssh://h/r --branch a --ssh-private-key -----BEGIN", "--ssh-private-key is not base64"},
		"known hosts":      {"-u ssh://h/r --branch a --known-hosts QUJD", "line 1 is not a host key"},
		"no known hosts":   {"-u ssh://h/r --branch a --known-hosts IwojCg==", "holds no host key"},
		"bucket name":      {"--kind bucket -u https://h", "--kind bucket needs --bucket-name"},
		"bucket keys":      {"--kind bucket -u https://h --bucket-name b --bucket-access-key a", "belong together"},
		"container":        {"--kind azblob -u https://h", "--kind azblob needs --container-name"},
		"blob families":    {"--kind azblob -u https://h --container-name c --account-key a --sas-token b", "--account-key and --sas-token cannot be combined"},
		"blob principal":   {"--kind azblob -u https://h --container-name c --sp-client-id a --sp-client-secret b", "needs --sp-client-id and --sp-tenant-id"},
		"blob secret":      {"--kind azblob -u https://h --container-name c --sp-client-id a --sp-tenant-id b", "either --sp-client-secret or --sp-client-cert"},
		"oci references":   {"--kind oci -u oci://h/r --tag a --digest b", "at most one of --tag, --semver and --digest"},
		"oci operation":    {"--kind oci -u oci://h/r --oci-operation move", "use extract or copy"},
		"duration":         {"-u https://h/r --branch a --interval 5", `--interval: "5" is not a duration`},
		"namespace":        {"-u https://h/r --branch a --namespace A", `--namespace "A" is not a namespace`},
		"unknown word":     {"-u https://h/r --branch a -k name=x pfad=y", `there is no word "pfad"`},
		"no name":          {"-u https://h/r --branch a -k path=y", "the word name=… is missing"},
		"twice":            {"-u https://h/r --branch a -k name=x -k name=x", "x is given twice"},
		"boolean":          {"-u https://h/r --branch a -k name=x prune=maybe", "prune is \"maybe\"; use true or false"},
		"variable":         {"-u https://h/r --branch a -k name=x substitute.A-B=c", `"A-B" is not the name of a variable`},
		"kustomization":    {"-u https://h/r --branch a -k name=x.y", `the kustomization's name "x.y" is none`},
		"long names":       {"-u https://h/r --branch a -k name=" + strings.Repeat("x", 60), "63 characters together; at most 62"},
		"cluster type":     {"-u https://h/r --branch a -t cluster", "use connectedClusters, managedClusters or provisionedClusters"},
		"provider":         {"-u https://h/r --branch a -t provisionedClusters", "needs --cluster-resource-provider"},
		"output":           {"-u https://h/r --branch a -o xml", "use json, yaml, table or none"},
		"unknown flag":     {"-u https://h/r --brunch a", "unknown flag: --brunch"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, x := record(t)
			x.fails(1, tc.want, append(strings.Fields("k8s-configuration flux create -g g -c c -n cfg"), strings.Fields(tc.args)...)...)
			if len(r.requests) > 0 {
				t.Errorf("the hub was asked: %v", r.requests)
			}
		})
	}
}

func TestMissingFlags(t *testing.T) {
	_, x := record(t)
	x.fails(1, `required flag(s) "name" not set`, "k8s-configuration", "flux", "show", "-g", "g", "-c", "c")
	x.fails(1, "give --resource-group or set RESOURCE_GROUP", "k8s-configuration", "flux", "show", "-c", "c", "-n", "x")
	x.fails(1, "there is nothing to change", "k8s-configuration", "flux", "update", "-g", "g", "-c", "c", "-n", "x")
}

// TestA99ComplaintsAreClean keeps what others wrote from steering the terminal.
func TestA99ComplaintsAreClean(t *testing.T) {
	_, x := record(t)
	said := x.run("k8s-configuration", "flux", "show", "-g", "g", "-c", "c", "--unknown\x1b[31m")
	if said.code != 1 || strings.Contains(said.err, "\x1b") {
		t.Errorf("exit code %d and %q", said.code, said.err)
	}
}

func TestInterruptedCommand(t *testing.T) {
	_, x := record(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, complaints bytes.Buffer
	code := Run(ctx, []string{"group", "list"}, Streams{In: strings.NewReader(""), Out: &out, Err: &complaints}, func(n string) string { return x.env[n] })
	if code != 1 || !strings.Contains(complaints.String(), "interrupted") || !strings.Contains(complaints.String(), "goes on") {
		t.Errorf("exit code %d and %q", code, complaints.String())
	}
}
