package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const trustFile = "/etc/ssl/certs/ca-certificates.crt"

// trustPlaces are where distributions keep the certificates to trust.
func trustPlaces() []string {
	return []string{trustFile, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}
}

// binary is what the compiler is asked for.
type binary struct {
	platform v1.Platform
	file     string
}

// compile makes a static program that knows its version.
func compile(ctx context.Context, p Program, o Options, b binary) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -X headwater.dev/kernel/process.version="+o.Version, "-o", b.file, p.Package)
	cmd.Dir = o.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+b.platform.OS, "GOARCH="+b.platform.Architecture, "GOFLAGS=-mod=readonly")
	if v := strings.TrimPrefix(b.platform.Variant, "v"); b.platform.Architecture == "arm" && v != "" {
		cmd.Env = append(cmd.Env, "GOARM="+v)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", p.Package, err, bytes.TrimSpace(out))
	}
	return nil
}

// baseLayer holds everything but the program: users, a home, a place for temporary files and the certificates of this
// machine, if it has any.
func baseLayer() (v1.Layer, error) {
	passwd := "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:" + User + ":" + User + ":nonroot:/home/nonroot:/sbin/nologin\n"
	entries := []entry{
		dir("etc", 0o755), dir("etc/ssl", 0o755), dir("etc/ssl/certs", 0o755), dir("home", 0o755),
		{name: "home/nonroot", mode: 0o700, dir: true, owner: 65532}, dir("tmp", 0o1777),
		{name: "etc/passwd", mode: 0o644, data: []byte(passwd)},
		{name: "etc/group", mode: 0o644, data: []byte("root:x:0:\nnonroot:x:" + User + ":\n")},
	}
	for _, place := range trustPlaces() {
		data, err := os.ReadFile(place)
		if err == nil && bytes.Contains(data, []byte("BEGIN CERTIFICATE")) {
			entries = append(entries, entry{name: trustFile[1:], mode: 0o644, data: data})
			break
		}
	}
	return layer(entries, gzip.DefaultCompression)
}

func programLayer(file string, fast bool) (v1.Layer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the program: %w", err)
	}
	level := gzip.DefaultCompression
	if fast {
		level = gzip.BestSpeed
	}
	return layer([]entry{
		dir("usr", 0o755), dir("usr/local", 0o755), dir(binDir[1:], 0o755),
		{name: path.Join(binDir[1:], filepath.Base(file)), mode: 0o755, data: data},
	}, level)
}

// entry is a file or folder in a layer.
type entry struct {
	name  string
	mode  int64
	data  []byte
	dir   bool
	owner int
}

func dir(name string, mode int64) entry { return entry{name: name, mode: mode, dir: true} }

// layer packs entries with fixed times, so that the same content gives the same digest.
func layer(entries []entry, level int) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.data)), Uid: e.owner, Gid: e.owner, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
		if e.dir {
			h.Name, h.Typeflag = e.name+"/", tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack layer: %w", err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithCompressionLevel(level), tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	return l, nil
}
