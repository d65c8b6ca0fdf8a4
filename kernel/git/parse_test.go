package git

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"
)

// object gives an object as it stands in a pack.
func object(typ byte, base, content []byte) []byte {
	size := len(content)
	b := typ<<4 | byte(size&15)
	size >>= 4
	var out []byte
	for size > 0 {
		out = append(out, b|0x80)
		b = byte(size & 0x7f)
		size >>= 7
	}
	out = append(append(out, b), base...)
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write(content)
	w.Close()
	return append(out, z.Bytes()...)
}

func pack(objects ...[]byte) []byte {
	out := []byte("PACK\x00\x00\x00\x02")
	out = binary.BigEndian.AppendUint32(out, uint32(len(objects)))
	for _, o := range objects {
		out = append(out, o...)
	}
	sum := sha1.Sum(out)
	return append(out, sum[:]...)
}

func nameOf(typ, content string) Hash {
	return sha1.Sum([]byte(fmt.Sprintf("%s %d\x00%s", typ, len(content), content)))
}

// insert is a delta that turns a base of a size into text.
func insert(base int, text string) []byte {
	d := binary.AppendUvarint(nil, uint64(base))
	d = binary.AppendUvarint(d, uint64(len(text)))
	return append(append(d, byte(len(text))), text...)
}

func indexOf(t testing.TB, data []byte) ([]byte, *os.File, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "p.pack"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	table, err := index(context.Background(), bytes.NewReader(data), f, &objects{})
	return table, f, err
}

func TestIndexResolvesDeltasOfBothKinds(t *testing.T) {
	base := object(typeBlob, nil, []byte("base"))
	byName := nameOf("blob", "base")
	data := pack(base, object(typeOfsDelta, []byte{byte(len(base))}, insert(4, "by offset")), object(typeRefDelta, byName[:], insert(4, "by name")))
	table, f, err := indexOf(t, data)
	if err != nil {
		t.Fatal(err)
	}
	o := &objects{packs: []*packFile{{f: f, table: table}}, cache: map[cacheKey]cached{}}
	for _, text := range []string{"base", "by offset", "by name"} {
		typ, got, err := o.read(nameOf("blob", text))
		if err != nil || typ != typeBlob || string(got) != text {
			t.Errorf("%q: %d %q %v", text, typ, got, err)
		}
	}
}

func TestIndexRefusesBadPacks(t *testing.T) {
	blob := object(typeBlob, nil, []byte("base"))
	a, b := nameOf("blob", "a"), nameOf("blob", "b")
	lie := append([]byte(nil), blob...)
	lie[0] = typeBlob<<4 | 9
	bomb := object(typeOfsDelta, []byte{byte(len(blob))}, binary.AppendUvarint(binary.AppendUvarint(nil, 4), 1<<40))
	outside := append(binary.AppendUvarint(binary.AppendUvarint(nil, 4), 8), 0x80|0x10, 8)
	for name, data := range map[string][]byte{
		"empty":                 {},
		"no pack":               []byte("HTTP/1.1 200 OK\r\n\r\n"),
		"too many objects":      []byte("PACK\x00\x00\x00\x02\xff\xff\xff\xff"),
		"truncated":             pack(blob)[:20],
		"no checksum":           pack(blob)[:len(pack(blob))-20],
		"more than it says":     append(pack(blob), 0),
		"wrong size":            pack(lie),
		"reserved type":         pack(object(5, nil, []byte("x"))),
		"base before the start": pack(object(typeOfsDelta, []byte{0x7f}, insert(4, "x"))),
		"base is itself":        pack(object(typeOfsDelta, []byte{0}, insert(4, "x"))),
		"base is no object":     pack(blob, object(typeOfsDelta, []byte{byte(len(blob) - 1)}, insert(4, "x"))),
		"cycle":                 pack(object(typeRefDelta, a[:], insert(1, "b")), object(typeRefDelta, b[:], insert(1, "a"))),
		"delta bomb":            pack(blob, bomb),
		"copy out of bounds":    pack(blob, object(typeOfsDelta, []byte{byte(len(blob))}, outside)),
		"wrong base size":       pack(blob, object(typeOfsDelta, []byte{byte(len(blob))}, insert(5, "x"))),
	} {
		if _, _, err := indexOf(t, data); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestParseTreeRefusesNames(t *testing.T) {
	entry := func(mode, name string) []byte {
		return append([]byte(mode+" "+name+"\x00"), make([]byte, 20)...)
	}
	for _, name := range []string{"", ".", "..", ".git", ".GIT", "a/b", `a\b`, "git~1", "GIT~1", ".git ", ".git. ", ".git::$INDEX_ALLOCATION", ".g\u200cit", "\ufeff.git"} {
		if _, err := parseTree(entry("100644", name)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%q: got %v", name, err)
		}
	}
	for _, data := range []string{"100644", "100644 a", "100644 a\x00short", "\x00 "} {
		if _, err := parseTree([]byte(data)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%q: got %v", data, err)
		}
	}
	nodes, err := parseTree(append(entry("100644", ".gitignore"), entry("40000", "dir")...))
	if err != nil || len(nodes) != 2 || nodes[1].mode != modeDir {
		t.Errorf("%v, %v", nodes, err)
	}
}

func TestHighestTag(t *testing.T) {
	var refs []Ref
	for _, tag := range []string{"v1.0.0", "1.9.0", "v1.10.0", "v2.0.0-rc.1", "v1.10", "latest", "v1.10.0+b", "v1.10.0+a"} {
		refs = append(refs, Ref{Name: "refs/tags/" + tag})
	}
	for constraint, want := range map[string]string{"1.x": "v1.10.0+b", "<1.10.0": "1.9.0", ">=2.0.0-0": "v2.0.0-rc.1", ">=3": ""} {
		c, err := semver.NewConstraint(constraint)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := highestTag(refs, c)
		if strings.TrimPrefix(got.Name, "refs/tags/") != want || ok != (want != "") {
			t.Errorf("%s: got %q, want %q", constraint, got.Name, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "30": 30 * time.Second, "x": 0, "-5": 0, "999999999": 24 * time.Hour,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute, "Wed, 31 Dec 2025 00:00:00 GMT": 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
}

func FuzzIndex(f *testing.F) {
	blob := object(typeBlob, nil, []byte("base"))
	f.Add(pack(blob, object(typeOfsDelta, []byte{byte(len(blob))}, insert(4, "x"))))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, file, err := indexOf(t, data)
		if err != nil {
			return
		}
		p := &packFile{f: file, table: table}
		o := &objects{packs: []*packFile{p}, cache: map[cacheKey]cached{}}
		for i := 0; i < len(table); i += indexRow {
			h := Hash(table[i : i+20])
			typ, content, err := o.read(h)
			if err != nil {
				t.Fatalf("an indexed object cannot be read: %v", err)
			}
			if nameOf(typeNames[typ], string(content)) != h {
				t.Fatalf("object %s has other content", h)
			}
		}
	})
}

func FuzzAdvertisement(f *testing.F) {
	h := strings.Repeat("a1", 20)
	line := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
	f.Add(line("version 2\n")+line("fetch=shallow\n")+"0000", line(h+" refs/heads/main peeled:"+h+"\n")+"0000")
	f.Add(line("# service=git-upload-pack\n")+"0000"+line(h+" HEAD\x00shallow side-band-64k\n")+line(h+" refs/tags/v1^{}\n")+"0000", "")
	f.Add(line("# service=git-upload-pack\n")+"0000"+line("version 1")+line(h+" HEAD\x00shallow filter side-band-64k\n")+"0000", line("NAK\n")+line("\x01PACK")+"0000")
	f.Fuzz(func(t *testing.T, greeting, answer string) {
		s := &session{wire: script{greeting, answer}}
		if s.greet(context.Background()) != nil {
			return
		}
		refs, err := s.list(context.Background(), "refs/")
		for _, r := range refs {
			if err == nil && !strings.HasPrefix(r.Name, "refs/") {
				t.Errorf("unwanted reference %q", r.Name)
			}
		}
		if r, done, err := s.fetch(context.Background(), query{want: []Hash{{1}}}); err == nil {
			io.Copy(io.Discard, r)
			done()
		}
	})
}

// script is a server that says what it was told to.
type script struct{ greeting, answer string }

func (s script) greet(context.Context) (*packets, error) {
	return newPackets(strings.NewReader(s.greeting), nil), nil
}

func (s script) call(context.Context, []byte) (*packets, error) {
	return newPackets(strings.NewReader(s.answer), nil), nil
}

func (s script) close() {}
