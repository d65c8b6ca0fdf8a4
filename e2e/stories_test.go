package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"headwater.dev/dev"
	"headwater.dev/dev/node"
)

// upPatience is how long the system may take to come up.
const upPatience = 3 * time.Minute

// system is what all stories run on.
var system *dev.System

func TestMain(m *testing.M) {
	node.Reexec()
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "headwater-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), upPatience)
	defer cancel()
	system, err = dev.Up(ctx, dev.Options{Dir: filepath.Join(dir, "system"), Progress: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bring the system up (make build makes the programs):", err)
		return 1
	}
	code := m.Run()
	if code != 0 {
		keepLogs()
	}
	down, stop := context.WithTimeout(context.Background(), upPatience)
	defer stop()
	if err := system.Down(down); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// keepLogs copies the logs of a failed run to where E2E_LOGS says.
func keepLogs() {
	to := os.Getenv("E2E_LOGS")
	if to == "" {
		return
	}
	err := filepath.WalkDir(system.Options.Dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(p) != ".log" {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(system.Options.Dir, p)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o600)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "keep logs:", err)
	}
}

func TestStories(t *testing.T) {
	variables, err := system.Env()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d stories: %v", len(files), err)
	}
	// One after the other: some take the hub or the agent away.
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) { testscript.Run(t, story(t, file, variables)) })
	}
}

func story(t *testing.T, file string, variables []dev.Variable) testscript.Params {
	return testscript.Params{
		Files:               []string{file},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			for _, v := range variables {
				env.Setenv(v.Name, v.Value)
			}
			env.Setenv("PATH", system.Options.Bin+":"+filepath.Join(system.Options.Dir, "bin")+":"+os.Getenv("PATH"))
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir)
			env.Setenv("HUB_DATA", system.Hub.Data)
			env.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(env.WorkDir, ".gitconfig"))
			env.Setenv("GIT_PUSH_URL", strings.Replace(system.Git.BaseURL(), "://", "://"+system.GitUser+":"+system.GitPassword+"@", 1))
			return nil
		},
		Cmds: verbs(t),
	}
}
