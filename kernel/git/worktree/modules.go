package worktree

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"headwater.dev/kernel/git"
)

// What a file .gitmodules may cost.
const (
	modulesFile = ".gitmodules"
	maxFile     = 1 << 20
	maxURL      = 2048
)

// module is a section of .gitmodules.
type module struct{ path, url string }

var (
	sectionPattern = regexp.MustCompile(`^\[\s*(?i:submodule)\s+"((?:[^"\\]|\\.)*)"\s*\](.*)$`)
	scpPattern     = regexp.MustCompile(`^(?:([A-Za-z0-9._-]+)@)?([A-Za-z0-9][A-Za-z0-9.-]*):([^/\\].*|/.*)$`)
)

// parseModules reads the paths and URLs of .gitmodules. Of a value that is given
// twice the last one counts, as for git.
func parseModules(data []byte) ([]module, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", git.ErrProtocol, modulesFile, maxFile)
	}
	var names []string
	found := map[string]*module{}
	var in *module
	for line := range strings.SplitSeq(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = nil
			if m := sectionPattern.FindStringSubmatch(line); m != nil {
				if found[m[1]] == nil {
					found[m[1]] = &module{}
					names = append(names, m[1])
				}
				in, line = found[m[1]], strings.TrimSpace(m[2])
			}
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || in == nil || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "path":
			in.path = unquote(value)
		case "url":
			in.url = unquote(value)
		}
	}
	var list []module
	for _, n := range names {
		list = append(list, *found[n])
	}
	return list, nil
}

// unquote reads a value of git's configuration format: quotes, escapes, and
// comments outside of quotes.
func unquote(value string) string {
	var b strings.Builder
	quoted, escaped := false, false
	for _, r := range strings.TrimSpace(value) {
		switch {
		case escaped:
			escaped = false
			if r == 'n' || r == 't' || r == 'b' {
				r = ' '
			}
			b.WriteRune(r)
		case r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case !quoted && (r == '#' || r == ';'):
			return strings.TrimSpace(b.String())
		default:
			b.WriteRune(r)
		}
	}
	return strings.TrimSpace(b.String())
}

// resolve makes a full URL of that of a submodule. Relative ones start at the
// URL of the repository that holds them, as for git; nothing but http, https
// and ssh is left, and never http in what was fetched by https.
func resolve(parent, raw string) (string, error) {
	base, err := url.Parse(parent)
	if err != nil || base.Host == "" || !fetchable(base.Scheme) {
		return "", errors.New("the URL of the repository does not parse")
	}
	switch {
	case raw == "" || len(raw) > maxURL || strings.HasPrefix(raw, "-") || strings.ContainsAny(raw, "\x00\r\n"):
		return "", errors.New("the URL is empty, too long or malformed")
	case strings.HasPrefix(raw, "./") || strings.HasPrefix(raw, "../"):
		to := path.Join("/", base.Path, raw)
		if strings.Count(raw, "../") > strings.Count(strings.Trim(base.Path, "/"), "/")+1 || to == "/" {
			return "", errors.New("the relative URL leaves the server")
		}
		u := *base
		u.Path, u.RawPath = to, ""
		return u.String(), nil
	case !strings.Contains(raw, "://"):
		m := scpPattern.FindStringSubmatch(raw)
		if m == nil {
			return "", errors.New("the URL is neither relative nor http, https or ssh")
		}
		u := url.URL{Scheme: "ssh", Host: m[2], Path: "/" + strings.TrimPrefix(m[3], "/")}
		if m[1] != "" {
			u.User = url.User(m[1])
		}
		return u.String(), nil
	}
	u, err := url.Parse(raw)
	if err != nil || !fetchable(u.Scheme) {
		return "", errors.New("the URL is neither relative nor http, https or ssh")
	}
	if u.Scheme == "http" && base.Scheme != "http" {
		return "", fmt.Errorf("its URL is http in a repository fetched by %s, which is refused", base.Scheme)
	}
	return u.String(), nil
}

func fetchable(scheme string) bool { return scheme == "http" || scheme == "https" || scheme == "ssh" }
