package e2e

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rogpeppe/go-internal/testscript"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/api/link"
	"headwater.dev/dev/gitserver"
)

// lookEvery is how often until looks.
const lookEvery = 200 * time.Millisecond

// answerPatience is how long an answer of the hub may take.
const answerPatience = 30 * time.Second

type verb = func(ts *testscript.TestScript, neg bool, args []string)

// verbs are the words of the stories besides testscript's own.
func verbs(t *testing.T) map[string]verb {
	return map[string]verb{
		"repo": repo, "push": push, "tlsrepo": tlsRepo, "deploykey": deployKey, "knownhosts": knownHosts,
		"until": until, "cleanup": cleanup, "hub": hub(t),
		"rest": rest, "operation": operation, "anonymous": anonymous, "agenttoken": agentToken,
		"nowhere": nowhere, "keep": keep, "seal": seal, "storage": storage(t), "upload": upload(t),
	}
}

// repo NAME public|private makes a Git repository.
func repo(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(system.Git.CreateRepository(args[0], args[1] == "private"))
}

// push REPOSITORY DIR MESSAGE makes the folder's content that of branch main;
// $SHA is the commit.
func push(ts *testscript.TestScript, neg bool, args []string) {
	files := map[string]string{}
	root := ts.MkAbs(args[1])
	ts.Check(filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(p)
		files[rel] = string(content)
		return err
	}))
	sha, err := system.Git.CommitChange(args[0], "main", gitserver.Change{Message: args[2], Write: files, Replace: true})
	ts.Check(err)
	ts.Setenv("SHA", sha)
}

// tlsrepo NAME DIR USER PASSWORD starts a Git server with TLS that holds one
// private repository with the folder's content, readable for one account; $TLS_GIT_URL is the server, and
// ca.pem its authority.
func tlsRepo(ts *testscript.TestScript, neg bool, args []string) {
	server, err := gitserver.Start(gitserver.Config{Dir: ts.MkAbs(".tlsgit"), TLS: true})
	ts.Check(err)
	ts.Defer(func() { ts.Check(server.Close()) })
	ts.Check(server.CreateRepository(args[0], true))
	ts.Check(server.AddAccount(gitserver.Account{Name: args[2], Password: args[3], Repositories: args[:1], ReadOnly: true}))
	_, err = server.CommitDir(args[0], "main", "first", ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Setenv("TLS_GIT_URL", server.BaseURL())
	ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), server.Authority().PEM(), 0o600))
}

// knownhosts FILE writes the Git server's host keys.
func knownHosts(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(system.Git.KnownHosts()), 0o600))
}

// deploykey REPOSITORY CONFIGURATION adds the configuration's public key.
func deployKey(ts *testscript.TestScript, neg bool, args []string) {
	body := call(ts, "GET", configurationPath(ts, args[1]), nil, bearer(ts))
	key := regexp.MustCompile(`"repositoryPublicKey":\s*"([^"]+)"`).FindStringSubmatch(body)
	if key == nil {
		ts.Fatalf("no repositoryPublicKey in %s", body)
	}
	public := strings.TrimSuffix(strings.ReplaceAll(key[1], `\n`, "\n"), "\n")
	ts.Check(system.Git.AddDeployKey(gitserver.DeployKey{Repository: args[0], Key: public}))
}

// until DURATION PATTERN COMMAND... runs a command until it succeeds and its
// output matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	patience, err := time.ParseDuration(args[0])
	ts.Check(err)
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		out, failed := output(ts, args[2:])
		if failed == nil && pattern.MatchString(out) {
			// Once more through testscript, so that stdout can be asked about.
			ts.Check(ts.Exec(args[2], args[3:]...))
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %s %q does not match (%v); output:\n%s", patience, args[1], failed, out)
		}
		<-tick.C
	}
}

func output(ts *testscript.TestScript, args []string) (string, error) {
	name := args[0]
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if p := filepath.Join(dir, name); executable(p) {
			name = p
			break
		}
	}
	cmd := exec.Command(name, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = os.Environ()
	for _, v := range []string{"KUBECONFIG", "HEADWATER_HUB", "HEADWATER_CA", "AZURE_TENANT_ID", "AZURE_SUBSCRIPTION_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "XDG_CONFIG_HOME"} {
		cmd.Env = append(cmd.Env, v+"="+ts.Getenv(v))
	}
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(complaints.String()))
	}
	return out.String(), nil
}

func executable(p string) bool {
	info, err := os.Stat(p)
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}

// cleanup NAME deletes a configuration and waits until it is gone.
func cleanup(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("timeout", "180", "headwater", "k8s-configuration", "flux", "delete", "-g", ts.Getenv("RESOURCE_GROUP"), "-c", ts.Getenv("CLUSTER"),
		"-t", "connectedClusters", "-n", args[0], "--yes"))
}

// hub kill|start does that to the hub's process.
func hub(t *testing.T) verb {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if args[0] == "kill" {
			ts.Check(system.Hub.Kill())
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), upPatience)
		defer cancel()
		ts.Check(system.Hub.Start(ctx))
	}
}

func clusterPath(ts *testscript.TestScript) string {
	return "/subscriptions/" + ts.Getenv("AZURE_SUBSCRIPTION_ID") + "/resourceGroups/" + ts.Getenv("RESOURCE_GROUP") +
		"/providers/Microsoft.Kubernetes/connectedClusters/" + ts.Getenv("CLUSTER")
}

func configurationPath(ts *testscript.TestScript, name string) string {
	return clusterPath(ts) + "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/" + name + "?api-version=2025-04-01"
}

// rest METHOD fluxConfigurations/NAME [FILE] sends a request as the user;
// stdout is the status, the headers that matter and the body. Variables in the
// file are expanded.
func rest(ts *testscript.TestScript, neg bool, args []string) {
	_, name, _ := strings.Cut(args[1], "/")
	out := call(ts, args[0], configurationPath(ts, name), bodyOf(ts, args[2:]), bearer(ts))
	show(ts, out)
	if url := regexp.MustCompile(`(?m)^Azure-AsyncOperation: (.+)$`).FindStringSubmatch(out); url != nil {
		ts.Setenv("OPERATION", strings.TrimSpace(url[1]))
	}
}

// operation asks for the operation that the last rest started.
func operation(ts *testscript.TestScript, neg bool, args []string) {
	u, err := url.Parse(ts.Getenv("OPERATION"))
	ts.Check(err)
	show(ts, call(ts, "GET", u.RequestURI(), nil, bearer(ts)))
}

// anonymous METHOD PATH sends a request without a token.
func anonymous(ts *testscript.TestScript, neg bool, args []string) {
	show(ts, call(ts, args[0], args[1], nil, ""))
}

// agenttoken METHOD PATH [FILE] sends a request with the token of the cluster's
// own agent.
func agentToken(ts *testscript.TestScript, neg bool, args []string) {
	show(ts, call(ts, args[0], args[1], bodyOf(ts, args[2:]), agentBearer(ts)))
}

func bodyOf(ts *testscript.TestScript, files []string) []byte {
	if len(files) == 0 {
		return nil
	}
	return []byte(os.Expand(ts.ReadFile(files[0]), ts.Getenv))
}

// show makes text the standard output that the next stdout asks about.
func show(ts *testscript.TestScript, text string) {
	file := filepath.Join(ts.MkAbs("."), ".answer")
	ts.Check(os.WriteFile(file, []byte(text), 0o600))
	ts.Check(ts.Exec("cat", file))
}

func call(ts *testscript.TestScript, method, path string, body []byte, token string) string {
	client, err := system.Hub.Client()
	ts.Check(err)
	client.Timeout = answerPatience
	req, err := http.NewRequest(method, system.Hub.URL+path, bytes.NewReader(body))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	ts.Check(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	ts.Check(err)
	return fmt.Sprintf("%d\nAzure-AsyncOperation: %s\n%s\n", res.StatusCode, res.Header.Get("Azure-AsyncOperation"), text)
}

func bearer(ts *testscript.TestScript) string {
	return token(ts, "/"+ts.Getenv("AZURE_TENANT_ID")+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {ts.Getenv("AZURE_CLIENT_ID")}, "client_secret": {ts.Getenv("AZURE_CLIENT_SECRET")},
		"scope": {system.Hub.URL + "/.default"},
	})
}

// agentBearer asks for a token as the agent does, with the key in the cluster.
func agentBearer(ts *testscript.TestScript) string {
	config, err := system.Members[0].Config()
	ts.Check(err)
	kube, err := kubernetes.NewForConfig(config)
	ts.Check(err)
	secret, err := kube.CoreV1().Secrets("headwater-system").Get(context.Background(), "headwater-agent-identity", metav1.GetOptions{})
	ts.Check(err)
	id, now := clusterPath(ts), time.Now()
	assertion, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer: id, Subject: id, Audience: jwt.ClaimStrings{system.Hub.URL + link.PathToken}, ID: ts.Name() + now.String(),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Minute)),
	}).SignedString(privateKey(ts, secret.Data["tls.key"]))
	ts.Check(err)
	return token(ts, link.PathToken, url.Values{
		"grant_type": {"client_credentials"}, "client_assertion_type": {link.ClientAssertionType}, "client_assertion": {assertion},
	})
}

func privateKey(ts *testscript.TestScript, text []byte) *rsa.PrivateKey {
	block, _ := pem.Decode(text)
	if block == nil {
		ts.Fatalf("the agent's key is not PEM")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	ts.Check(err)
	return key.(*rsa.PrivateKey)
}

func token(ts *testscript.TestScript, path string, form url.Values) string {
	client, err := system.Hub.Client()
	ts.Check(err)
	res, err := client.PostForm(system.Hub.URL+path, form)
	ts.Check(err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	ts.Check(err)
	found := regexp.MustCompile(`"access_token":\s*"([^"]+)"`).FindSubmatch(body)
	if found == nil {
		ts.Fatalf("no token: %s %s", res.Status, body)
	}
	return string(found[1])
}

// nowhere TEXT fails when a file of the hub or a log of ours holds the text.
func nowhere(ts *testscript.TestScript, neg bool, args []string) {
	searched := 0
	ts.Check(filepath.WalkDir(system.Options.Dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !e.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(system.Options.Dir, p)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(rel, "hub") && filepath.Ext(p) != ".log" {
			return nil // the cluster's own etcd and the Git server may know it
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		searched++
		if bytes.Contains(content, []byte(args[0])) {
			ts.Fatalf("%s holds %q", rel, args[0])
		}
		return nil
	}))
	if searched < 3 {
		ts.Fatalf("searched only %d files", searched)
	}
}
