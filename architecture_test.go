package headwater_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "headwater.dev"

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath, Dir, Doc string
	Imports, GoFiles     []string
}

// rel is the path of the package below the module.
func (p pkg) rel() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// rule says what packages below From may import of ours. Everything that is not
// listed is forbidden. Why is printed with a violation.
type rule struct {
	From  string
	May   []string
	Never []string // of others' packages, by prefix
	Why   string
}

var kubernetes = []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"}

// rules are read top down; the first whose From matches counts.
var rules = []rule{
	{From: "api", May: []string{"api"}, Never: []string{"net/http", "os", "os/exec", "sigs.k8s.io/controller-runtime"},
		Why: "api is vocabulary: it does no I/O"},
	{From: "kernel/process", May: nil, Never: kubernetes, Why: "the hub uses kernel/process, and the hub has no way to reach a cluster"},
	{From: "kernel/trace", May: nil, Never: kubernetes, Why: "the hub uses kernel/trace, and the hub has no way to reach a cluster"},
	{From: "kernel/host", May: []string{"kernel", "api/config"}, Why: "the host registers kinds and knows no plane"},
	{From: "kernel", May: []string{"kernel"}, Why: "the kernel knows no plane"},
	{From: "hub/rest", May: []string{"api/arm", "api/resource", "hub/store", "hub/auth", "hub/vault", "kernel/process", "kernel/trace"}, Never: kubernetes,
		Why: "the doors do not know each other"},
	{From: "hub/gateway", May: []string{"api/arm", "api/resource", "api/link", "hub/store", "hub/auth", "hub/vault", "kernel/process"}, Never: kubernetes,
		Why: "the doors do not know each other"},
	{From: "hub/access", May: []string{"api/arm", "hub/store", "hub/auth"}, Never: kubernetes, Why: "rights are mounted by the hub; they know no door"},
	{From: "hub/activity", May: []string{"api/arm", "hub/store", "hub/auth"}, Never: kubernetes, Why: "the log is mounted by the hub; it knows no door"},
	{From: "hub/enrolment", May: []string{"api/arm", "api/link", "api/resource", "hub/store", "hub/auth", "hub/vault"}, Never: kubernetes,
		Why: "enrolment is mounted by the hub; it knows no door"},
	{From: "hub/limit", May: []string{"api/arm", "hub/auth"}, Never: kubernetes, Why: "limits know no door"},
	{From: "hub", May: []string{"api/arm", "api/resource", "api/link", "hub", "kernel/process", "kernel/trace"}, Never: kubernetes,
		Why: "the hub never dials a cluster"},
	{From: "agent/uplink", May: []string{"api", "kernel"}, Why: "agent/uplink is the only package that knows the hub's address"},
	{From: "agent/extension", May: []string{"api", "kernel", "deploy"}, Why: "the agent's parts meet in agent only"},
	{From: "agent/mirror", May: []string{"api", "kernel"}, Why: "the agent's parts meet in agent only"},
	{From: "agent", May: []string{"agent", "api", "kernel", "deploy"}, Why: "the agent knows neither hub nor controllers"},
	{From: "controller/", May: []string{"api/config", "kernel"}, Why: "controllers meet only in the Kubernetes API"},
	{From: "controller", May: []string{"controller", "kernel"}, Why: "controller is the table of contents"},
	{From: "client", May: []string{"api/arm", "api/resource"}, Never: kubernetes, Why: "client is a library for users of the hub"},
	{From: "cli", May: []string{"api", "client", "cli", "deploy", "kernel/apply", "kernel/decrypt", "kernel/manifest", "kernel/release", "kernel/tenant", "kernel/process"},
		Why: "the CLI speaks to the hub's API, installs the agent, and builds, compares and shows with the engine of the loops"},
	{From: "deploy", May: nil, Why: "deploy embeds files"},
	{From: "cmd/hub", May: []string{"hub", "kernel/process"}, Why: "a main is a sentence"},
	{From: "cmd/agent", May: []string{"agent", "controller", "kernel"}, Why: "a main is a sentence"},
	{From: "cmd/headwater", May: []string{"cli", "kernel/process"}, Why: "a main is a sentence"},
	{From: "cmd/dev", May: []string{"dev", "kernel/process"}, Why: "a main is a sentence"},
	{From: "dev", May: []string{"dev", "api", "client", "cli", "deploy", "examples", "hub", "kernel"}, Why: "dev starts programs; it is not part of them"},
	{From: "examples", May: nil, Why: "the sample is files"},
	{From: "e2e", May: []string{"dev", "api", "client", "cli", "hub", "deploy"}, Why: "stories use what users use"},
	{From: "bench", May: []string{"dev", "api", "client", "hub", "kernel", "agent"}, Why: "benchmarks start what they measure"},
	{From: "", May: nil, Why: "the root holds tests of the house only"},
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		r := ruleOf(p.rel())
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, module+"/"); ok {
				if !slices.ContainsFunc(r.May, func(m string) bool { return below(ours, m) }) && !sameUnit(p.rel(), ours, r) {
					t.Errorf("%s imports %s: %s", p.rel(), ours, r.Why)
				}
				continue
			}
			if slices.ContainsFunc(r.Never, func(n string) bool { return below(imp, n) }) {
				t.Errorf("%s imports %s: %s", p.rel(), imp, r.Why)
			}
		}
	}
}

// sameUnit lets a package import what is below it, and below the folder that
// its rule names: hub/store/etcd may import hub/store.
func sameUnit(from, to string, r rule) bool {
	if below(to, from) {
		return true
	}
	unit := from
	if n := strings.Split(from, "/"); len(n) > 2 {
		unit = strings.Join(n[:2], "/")
	}
	return r.From != "" && below(to, unit)
}

func ruleOf(rel string) rule {
	for _, r := range rules {
		if strings.HasSuffix(r.From, "/") && strings.HasPrefix(rel, r.From) || below(rel, r.From) {
			return r
		}
	}
	return rules[len(rules)-1]
}

// below reports whether path is prefix or in its folder.
func below(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	forbidden := regexp.MustCompile(`(^|/)(util|utils|helper|helpers|common|misc|shared|base)$`)
	for _, p := range packages(t) {
		if p.rel() == "" {
			continue
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.rel())
		}
		if forbidden.MatchString(p.rel()) {
			t.Errorf("%s: name a package after its domain noun", p.rel())
		}
	}
}

// Budgets keep files readable. An exception is a line here with its reason.
const (
	maxFile     = 400
	maxTestFile = 800
	maxFunction = 60
	maxMain     = 40
	maxParams   = 6
	maxMethods  = 5
	maxFiles    = 14
)

var exceptions = map[string]string{
	"cli":      "one file per verb",
	"hub/rest": "one file per resource type",
}

func TestBudgets(t *testing.T) {
	used := map[string]bool{}
	over := func(what, format string, args ...any) {
		if _, ok := exceptions[what]; ok {
			used[what] = true
			return
		}
		t.Errorf(what+": "+format, args...)
	}
	for _, p := range packages(t) {
		if len(p.GoFiles) > maxFiles {
			over(p.rel(), "%d files, at most %d", len(p.GoFiles), maxFiles)
		}
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			checkFile(t, filepath.Join(p.rel(), filepath.Base(f)), f, over)
		}
	}
	for what := range exceptions {
		if !used[what] {
			t.Errorf("exception for %s is no longer needed", what)
		}
	}
}

func checkFile(t *testing.T, name, path string, over func(string, string, ...any)) {
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(filepath.Base(path), "zz_generated") {
		return
	}
	limit := maxFile
	test := strings.HasSuffix(path, "_test.go")
	if test {
		limit = maxTestFile
	}
	if n := strings.Count(string(src), "\n"); n > limit {
		over(name, "%d lines, at most %d", n, limit)
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.InterfaceType:
			if len(n.Methods.List) > maxMethods && !test {
				over(name, "an interface of %d methods, at most %d", len(n.Methods.List), maxMethods)
			}
		case *ast.FuncDecl:
			checkFunction(fset, name, n, test, over)
		}
		return true
	})
}

func checkFunction(fset *token.FileSet, name string, n *ast.FuncDecl, test bool, over func(string, string, ...any)) {
	what := name + ":" + n.Name.Name
	lines := fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1
	limit := maxFunction
	if n.Name.Name == "main" {
		limit = maxMain
	}
	if lines > limit && !test {
		over(what, "%d lines, at most %d", lines, limit)
	}
	if p := n.Type.Params.NumFields(); p > maxParams && !test {
		over(what, "%d parameters, at most %d", p, maxParams)
	}
}

// TestArchitectureIsTrue checks that the folders that ARCHITECTURE.md names exist.
func TestArchitectureIsTrue(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	paths := regexp.MustCompile("`([a-z][a-z0-9_.-]*(?:/[a-zA-Z0-9_.-]+)+/?)`").FindAllStringSubmatch(string(text), -1)
	if len(paths) < 20 {
		t.Fatalf("found only %d paths in ARCHITECTURE.md: the pattern no longer fits it", len(paths))
	}
	for _, m := range paths {
		if strings.Contains(m[1], ".io/") || strings.Contains(m[1], ".com/") || strings.Contains(m[1], ".dev/") {
			continue
		}
		if _, err := os.Stat(m[1]); err != nil {
			t.Errorf("ARCHITECTURE.md names %s, which does not exist", m[1])
		}
	}
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,Imports,GoFiles", "./...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
