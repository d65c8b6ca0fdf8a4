package gitserver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever a client asks for over SSH, what runs is one of two programs on a repository that exists below the directory.
func FuzzSSHCommand(f *testing.F) {
	s := &sshServer{server: &Server{cfg: Config{Dir: f.TempDir()}}}
	for _, name := range []string{"app", "team/app"} {
		dir := filepath.Join(s.server.repositoriesDir(), name+".git")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "HEAD"), nil, 0o600); err != nil {
			f.Fatal(err)
		}
	}
	for _, line := range []string{
		"git-upload-pack '/app.git'", "git receive-pack /team/app", "git-upload-pack '/../app.git'", "git-upload-pack '/team/../app.git'",
		"git-upload-pack '/app.git'; id", "git-upload-pack --help", "",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p, err := s.authorise(identity{Name: "ann"}, line)
		if err != nil {
			return
		}
		if p.service != uploadPack && p.service != receivePack {
			t.Errorf("%q runs %q", line, p.service)
		}
		inside, err := filepath.Rel(s.server.repositoriesDir(), p.dir)
		if err != nil || strings.HasPrefix(inside, "..") || inside != "app.git" && inside != "team/app.git" {
			t.Errorf("%q opens %q", line, p.dir)
		}
	})
}
