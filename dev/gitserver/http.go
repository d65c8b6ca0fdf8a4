package gitserver

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
)

// Git sends "version=2"; anything but such words never reaches git's environment.
var protocolPattern = regexp.MustCompile(`^[a-z0-9=.:-]{1,64}$`)

const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

// handleGit serves the smart protocol: GET NAME.git/info/refs, POST NAME.git/git-upload-pack and git-receive-pack.
func (s *Server) handleGit(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	switch {
	case r.Method == http.MethodGet && strings.HasSuffix(path, "/info/refs"):
		service := r.URL.Query().Get("service")
		if service != uploadPack && service != receivePack {
			http.Error(w, "only the smart protocol is spoken here: use a Git client newer than 2010", http.StatusForbidden)
			return
		}
		if dir, repo, ok := s.authorise(w, r, strings.TrimSuffix(path, "/info/refs"), service); ok {
			s.advertise(w, r, pack{dir: dir, repo: repo, service: service})
		}
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/"+uploadPack):
		s.exchange(w, r, strings.TrimSuffix(path, "/"+uploadPack), uploadPack)
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/"+receivePack):
		s.exchange(w, r, strings.TrimSuffix(path, "/"+receivePack), receivePack)
	default:
		http.NotFound(w, r)
	}
}

// pack is one run of upload-pack or receive-pack.
type pack struct {
	dir, repo, service string
}

// authorise answers the request itself when it returns false. Who is not known learns nothing about which private
// repositories exist.
func (s *Server) authorise(w http.ResponseWriter, r *http.Request, path, service string) (dir, repo string, ok bool) {
	var who identity
	if name, password, given := r.BasicAuth(); given {
		if who, ok = s.access.byPassword(name, password); !ok {
			challenge(w, "wrong user name or password")
			return "", "", false
		}
	}
	repo = strings.TrimSuffix(path, ".git")
	dir, err := s.existing(repo)
	write := service == receivePack
	private := err == nil && isPrivate(dir)
	switch {
	case err == nil && who.may(repo, write, private):
		return dir, repo, true
	case who.anonymous() && (err == nil || errors.Is(err, ErrNotFound)):
		challenge(w, "a user name and password are needed")
	case err == nil && who.may(repo, false, private):
		http.Error(w, fmt.Sprintf("%s may not push to %s", who.Name, repo), http.StatusForbidden)
	default:
		http.Error(w, fmt.Sprintf("repository %q not found", repo), http.StatusNotFound)
	}
	return "", "", false
}

func challenge(w http.ResponseWriter, message string) {
	w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
	http.Error(w, message, http.StatusUnauthorized)
}

func protocolEnv(header string) string {
	if !protocolPattern.MatchString(header) {
		return ""
	}
	return "GIT_PROTOCOL=" + header
}

func (s *Server) advertise(w http.ResponseWriter, r *http.Request, p pack) {
	noCache(w, "application/x-"+p.service+"-advertisement")
	version2 := isVersion2(r.Header.Get("Git-Protocol")) && p.service == uploadPack
	s.counts.advertised(p, version2)
	if !version2 {
		line := "# service=" + p.service + "\n"
		fmt.Fprintf(w, "%04x%s0000", len(line)+4, line)
	}
	cmd := s.process(r.Context(), strings.TrimPrefix(p.service, "git-"), "--stateless-rpc", "--http-backend-info-refs", p.dir)
	if p.service == uploadPack {
		cmd.Env = append(cmd.Env, protocolEnv(r.Header.Get("Git-Protocol")))
	}
	cmd.Stdout = s.counts.sending(p, w)
	if err := cmd.Run(); err != nil {
		panic(http.ErrAbortHandler) // the client must not take what it got for a whole answer
	}
}

func (s *Server) exchange(w http.ResponseWriter, r *http.Request, path, service string) {
	dir, repo, ok := s.authorise(w, r, path, service)
	if !ok {
		return
	}
	if r.Header.Get("Content-Type") != "application/x-"+service+"-request" {
		http.Error(w, "the content type is not that of a Git client", http.StatusUnsupportedMediaType)
		return
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, "the body is not gzip", http.StatusBadRequest)
			return
		}
		body = z
	}
	p := pack{dir: dir, repo: repo, service: service}
	noCache(w, "application/x-"+service+"-result")
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/1 only; HTTP/2 always is
	cmd := s.process(r.Context(), strings.TrimPrefix(service, "git-"), "--stateless-rpc", dir)
	cmd.Env = append(cmd.Env, protocolEnv(r.Header.Get("Git-Protocol")))
	cmd.Stdin = s.counts.receiving(p, body)
	cmd.Stdout = s.counts.sending(p, flushing{w})
	if err := cmd.Run(); err != nil && r.Context().Err() == nil && service == receivePack {
		panic(http.ErrAbortHandler)
	}
}

func isVersion2(header string) bool { return strings.Contains(header, "version=2") }

func noCache(w http.ResponseWriter, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
}

// flushing hands every piece to the client at once, so that progress is seen.
type flushing struct{ http.ResponseWriter }

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	if err == nil {
		err = http.NewResponseController(f.ResponseWriter).Flush()
	}
	return n, err
}
