package charts

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/kernel/secret"
)

// canary must not appear in an error.
const canary = "canary-7f3a-Passw0rd"

const indexHead = "apiVersion: v1\ngenerated: now\n"

func TestParseIndex(t *testing.T) {
	for name, c := range map[string]struct {
		why, in, chart string
		want           []string
		err            bool
	}{
		"helm":          {"as Helm writes it", indexHead + "entries:\n  a:\n  - version: 1.0.0\n    description: |\n      x:\n    urls: [a]\n  - version: 2.0.0\n  b:\n  - version: 3.0.0\n", "a", []string{"1.0.0", "2.0.0"}, false},
		"last":          {"the last chart", indexHead + "entries:\n  a:\n  - version: 1.0.0\n  b:\n  - version: 3.0.0\nserverInfo: {}\n", "b", []string{"3.0.0"}, false},
		"indented":      {"lists deeper than keys", "entries:\n    \"a\":\n      - version: 1.0.0\n    b:\n      - version: 2.0.0\napiVersion: v1\n", "a", []string{"1.0.0"}, false},
		"flow":          {"flow style", indexHead + "entries: {a: [{version: 1.0.0}]}\n", "a", []string{"1.0.0"}, false},
		"inner flow":    {"flow style per chart", indexHead + "entries:\n  a: [{version: 1.0.0}]\n", "a", []string{"1.0.0"}, false},
		"json":          {"JSON", `{"apiVersion":"v1","entries":{"a":[{"version":"1.0.0"}]}}`, "a", []string{"1.0.0"}, false},
		"empty":         {"no charts", indexHead + "entries: {}\n", "a", nil, false},
		"html":          {"a web page", "<!doctype html>\n<html>\n", "a", nil, true},
		"no version":    {"the API version is required", "entries:\n  a:\n  - version: 1.0.0\n", "a", nil, true},
		"nothing":       {"an empty file", "", "a", nil, true},
		"windows":       {"CRLF", "apiVersion: v1\r\nentries:\r\n  a:\r\n  - version: 1.0.0\r\n", "a", []string{"1.0.0"}, false},
		"comments":      {"comments and blank lines", indexHead + "entries:\n\n# c\n  a:\n  # d\n  - version: 1.0.0\n", "a", []string{"1.0.0"}, false},
		"other section": {"keys elsewhere are no charts", "apiVersion: v1\nannotations:\n  a:\n  - version: 9.0.0\nentries:\n  b:\n  - version: 1.0.0\n", "a", nil, false},
	} {
		list, err := Versions(strings.NewReader(c.in), c.chart)
		if (err != nil) != c.err {
			t.Errorf("%s: %s: %v", name, c.why, err)
		}
		if err := CheckIndex(strings.NewReader(c.in)); (err != nil) != c.err {
			t.Errorf("%s: %s: check: %v", name, c.why, err)
		}
		var got []string
		for _, v := range list {
			got = append(got, v.Version)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s: %s", name, c.why, diff)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(indexHead+"entries:\n  a:\n  - version: 1.0.0\n", "a")
	f.Add("entries: &a\n  x: *a\napiVersion: v1", "x")
	f.Fuzz(func(t *testing.T, data, chart string) {
		if v, err := Find(strings.NewReader(data), chart, ""); err == nil && v.Version == "" {
			t.Error("a version without a name was found")
		}
	})
}

func TestPickVersion(t *testing.T) {
	versions := []string{"1.0.0", "v1.5.0", "1.5.0-rc.1", "2.0.0-beta", "garbage", "1.5.0+build"}
	for want, expected := range map[string]string{
		"": "v1.5.0", "*": "v1.5.0", "1.0.0": "1.0.0", "^1": "v1.5.0", "2.0.0-beta": "2.0.0-beta", ">=2.0.0-0": "2.0.0-beta",
		"1.5.0+build": "1.5.0+build", ">=3": "", "x y": "", strings.Repeat("1", 300): "",
	} {
		got, err := Pick(versions, want)
		if got != expected || (err == nil) != (expected != "") {
			t.Errorf("%.20q: got %q, %v; want %q", want, got, err, expected)
		}
	}
}

func TestWebKeepsCredentialsAtHome(t *testing.T) {
	seen := map[string]string{}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen["other"] = r.Header.Get("Authorization")
		fmt.Fprint(w, "other")
	}))
	defer other.Close()
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen["home"] = r.Header.Get("Authorization")
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, other.URL+"/x", http.StatusFound)
		case "/big":
			w.Write(make([]byte, 2000))
		default:
			fmt.Fprint(w, "home")
		}
	}))
	defer home.Close()
	w, err := NewWeb(home.URL+"/repo", secret.Basic{Username: "u", Password: canary}, nil, Rules{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	get := func(ref string) (string, error) {
		u, err := w.Resolve(ref)
		if err != nil {
			return "", err
		}
		data, err := w.Get(t.Context(), u, 1000)
		return string(data), err
	}
	if got, err := get("index.yaml"); got != "home" || err != nil || seen["home"] == "" {
		t.Errorf("home: %q, %v, %v", got, err, seen)
	}
	for _, ref := range []string{"/away", other.URL + "/x", "http://169.254.169.254/latest", "http://[::1]:1/x"} {
		_, err := get(ref)
		if err == nil || !strings.Contains(err.Error(), ErrPrivate.Error()) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v, want a refusal of the private address", ref, err)
		}
	}
	if _, err := get("/big"); err == nil || !strings.Contains(err.Error(), "larger than 1000 bytes") {
		t.Errorf("big: %v", err)
	}
	if _, err := get("file:///etc/passwd"); err == nil {
		t.Error("a file URL was accepted")
	}
	// The same rules when the other host may be reached.
	w.client.Transport = http.DefaultTransport
	if got, err := get("/away"); got != "other" || err != nil || seen["other"] != "" {
		t.Errorf("redirect: %q, %v, leaked %q", got, err, seen["other"])
	}
	if got, err := get(other.URL + "/x"); got != "other" || err != nil || seen["other"] != "" {
		t.Errorf("absolute URL: %q, %v, leaked %q", got, err, seen["other"])
	}
	from, _ := http.NewRequest(http.MethodGet, "https://a.example/", nil)
	to, _ := http.NewRequest(http.MethodGet, "http://a.example/", nil)
	if redirect(to, []*http.Request{from}) == nil {
		t.Error("a redirect from https to http was followed")
	}
	secure, err := NewWeb("https://a.example/", secret.Basic{}, nil, Rules{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := secure.Resolve("http://a.example/x.tgz"); err == nil {
		t.Error("an http URL in an https index was accepted")
	}
}

// TestA04PassCredentials shows that passCredentials means the host and port that
// the index names, and no other.
func TestA04PassCredentials(t *testing.T) {
	seen := map[string]string{}
	server := func(name string, next func() string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen[name] = r.Header.Get("Authorization")
			if to := next(); to != "" {
				http.Redirect(w, r, to, http.StatusFound)
			}
		}))
		t.Cleanup(s.Close)
		return s
	}
	third := server("third", func() string { return "" })
	second := server("second", func() string { return third.URL })
	home := server("home", func() string { return "" })
	for pass, want := range map[bool]bool{false: false, true: true} {
		clear(seen)
		w, err := NewWeb(home.URL, secret.Basic{Username: "u", Password: canary}, nil, Rules{Private: []string{strings.TrimPrefix(second.URL, "http://"), "127.0.0.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		w.PassOn = pass
		u, err := w.Resolve(second.URL + "/chart.tgz")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Get(t.Context(), u, 1000); err != nil {
			t.Fatal(err)
		}
		if got := seen["second"] != ""; got != want {
			t.Errorf("passCredentials %v: the named host saw them: %v", pass, got)
		}
		if at, asked := seen["third"]; at != "" || !asked {
			t.Errorf("passCredentials %v: after a redirect: %q, asked %v", pass, at, asked)
		}
	}
}

// TestA03Private shows which hosts an index may lead to, and that a list makes
// exceptions of exactly its own.
func TestA03Private(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "chart") }))
	defer other.Close()
	host := strings.TrimPrefix(other.URL, "http://")
	for name, c := range map[string]struct {
		base  string
		rules Rules
		ok    bool
	}{
		"not listed":         {"http://charts.example", Rules{}, false},
		"listed with port":   {"http://charts.example", Rules{Private: []string{host}}, true},
		"listed":             {"http://charts.example", Rules{Private: []string{"127.0.0.1"}}, true},
		"other port":         {"http://charts.example", Rules{Private: []string{"127.0.0.1:1"}}, false},
		"own host":           {other.URL, Rules{}, true},
		"stranger":           {other.URL, Rules{Stranger: true}, false},
		"own but link-local": {"http://169.254.169.254", Rules{}, false},
	} {
		w, err := NewWeb(c.base, secret.Basic{}, nil, c.rules)
		if err != nil {
			t.Fatal(err)
		}
		ref := other.URL + "/chart.tgz"
		if strings.Contains(c.base, "169.254") {
			ref = "latest/meta-data"
		}
		u, err := w.Resolve(ref)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Get(t.Context(), u, 1000); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		} else if err != nil && !errors.Is(err, ErrPrivate) {
			t.Errorf("%s: %v, want %v", name, err, ErrPrivate)
		}
		w.Close()
	}
}

func TestRefusePrivate(t *testing.T) {
	for address, refused := range map[string]bool{
		"127.0.0.1": true, "10.0.0.1": true, "192.168.1.1": true, "172.16.0.1": true, "169.254.169.254": true, "0.0.0.0": true,
		"::1": true, "fe80::1": true, "fd00::1": true, "::ffff:10.0.0.1": true, "224.0.0.1": true,
		"8.8.8.8": false, "2001:4860:4860::8888": false,
	} {
		err := refusePrivate("tcp", netip.AddrPortFrom(netip.MustParseAddr(address), 443).String(), nil)
		if (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestA08MetadataServices(t *testing.T) {
	for address, refused := range map[string]bool{
		"169.254.169.254": true, "::ffff:169.254.169.254": true, "fe80::1": true, "fd00:ec2::254": true, "0.0.0.0": true, "224.0.0.1": true,
		"127.0.0.1": false, "10.0.0.1": false, "fd00::1": false, "8.8.8.8": false,
	} {
		err := refuseMetadata("tcp", netip.AddrPortFrom(netip.MustParseAddr(address), 80).String(), nil)
		if (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
	}
}
