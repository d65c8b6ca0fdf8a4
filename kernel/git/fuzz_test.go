package git

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// version2 is the server as it is, behind a proxy.
func version2(f *fixture) http.Handler {
	to, _ := url.Parse(f.BaseURL())
	return &httputil.ReverseProxy{Transport: http.DefaultTransport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
}

func FuzzPackets(f *testing.F) {
	for _, s := range []string{"0000", "0009data\n0001", "0004", "fff1x", "0008ERR ", "zzzz", "0006\x01a0005\x020000", "0009\x03fail"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := newPackets(bytes.NewReader(data), nil)
		for {
			kind, got, err := p.next()
			if err != nil {
				break
			}
			if kind == pktData && len(got) > maxPacket-4 {
				t.Fatalf("a packet of %d bytes", len(got))
			}
		}
		if n, err := io.Copy(io.Discard, &sideband{p: newPackets(bytes.NewReader(data), nil)}); err == nil && n > int64(len(data)) {
			t.Fatalf("%d bytes out of %d", n, len(data))
		}
	})
}

func FuzzDelta(f *testing.F) {
	f.Add([]byte("base"), insert(4, "x"))
	f.Add([]byte("base"), []byte{4, 4, 0x90, 4})
	f.Add([]byte("base"), []byte{4, 8, 0x91, 0, 4, 0x91, 0, 4})
	f.Fuzz(func(t *testing.T, base, delta []byte) {
		out, err := applyDelta(base, delta)
		if err != nil {
			return
		}
		if _, size, _, err := deltaSizes(delta); err != nil || uint64(len(out)) != size {
			t.Fatalf("%d bytes instead of %d, %v", len(out), size, err)
		}
	})
}

func FuzzTree(f *testing.F) {
	hash := strings.Repeat("h", 20)
	for _, name := range []string{"a", ".git", ".GiT", "git~1", ".g\u200cit", ".git ", ".git.", ".git::$INDEX_ALLOCATION", "..", "a/b", ".gitmodules", "\xff\xfe"} {
		f.Add([]byte("100644 " + name + "\x00" + hash + "40000 d\x00" + hash))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		nodes, err := parseTree(data)
		if err != nil {
			return
		}
		for _, n := range nodes {
			if n.name == "" || n.name == "." || n.name == ".." || strings.ContainsAny(n.name, "/\\\x00") || strings.EqualFold(n.name, ".git") {
				t.Fatalf("the name %q", n.name)
			}
		}
	})
}

func FuzzCommitAndTag(f *testing.F) {
	h := strings.Repeat("a1", 20)
	f.Add([]byte("tree " + h + "\nparent " + h + "\nauthor a\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END\n\nmessage\n"))
	f.Add([]byte("tree " + h + "\ngpgsig a\ngpgsig b\n\n"))
	f.Add([]byte("object " + h + "\ntype commit\ntag v1\ntagger a\n\nmessage\n-----BEGIN SSH SIGNATURE-----\nx\n-----END SSH SIGNATURE-----\n"))
	f.Add([]byte("object " + h + "\n\n-----BEGIN PGP SIGNATURE-----\n-----BEGIN PGP SIGNATURE-----"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseCommit(Hash{}, data); err == nil {
			payload, sig, err := c.Signed()
			if err == nil && len(sig) == 0 && !bytes.Contains(data, []byte("gpgsig")) && bytes.Contains(data, []byte("\n\n")) && !bytes.Equal(payload, data) {
				t.Fatalf("an unsigned commit is not its own payload: %q, %q", payload, data)
			}
			if bytes.Contains(bytes.SplitN(payload, []byte("\n\n"), 2)[0], []byte("\ngpgsig ")) {
				t.Fatalf("a signature is part of what is signed: %q", payload)
			}
			parents(data)
		}
		if tag, _, err := parseTag(Hash{}, data); err == nil {
			payload, sig := tag.Signed()
			if !bytes.Equal(append(bytes.Clone(payload), sig...), data) {
				t.Fatalf("payload and signature are not the tag: %q %q", payload, sig)
			}
		}
	})
}

func FuzzKnownHosts(f *testing.F) {
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
	for _, s := range []string{"github.com " + key, "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= " + key, "@cert-authority *.x " + key, "@revoked * " + key, "# c\n\n", "[h]:22,!x " + key} {
		f.Add([]byte(s))
	}
	u := &url.URL{Scheme: "ssh", Host: "github.com", Path: "/x"}
	identity := []byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n")
	f.Fuzz(func(t *testing.T, known []byte) {
		d, err := newSSHDialer(u, Credentials{Identity: identity, KnownHosts: known}, &seen{})
		if err != nil {
			return
		}
		if err := d.config.HostKeyCallback(d.address, &net.TCPAddr{IP: net.IPv4zero}, noKey{}); err == nil {
			t.Fatal("a key that nobody has was accepted")
		}
	})
}
