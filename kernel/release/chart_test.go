package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// entry of an archive made for a test.
type entry struct {
	name string
	data string
	link string
}

func pack(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.data)), Typeflag: tar.TypeReg}
		if e.link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, e.link, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

const minimalChart = "apiVersion: v2\nname: mini\nversion: 0.1.0\n"

func TestLoadReader(t *testing.T) {
	sub := string(pack(t, entry{name: "sub/Chart.yaml", data: strings.Replace(minimalChart, "mini", "sub", 1)}))
	many := make([]entry, maxChartEntries+1)
	for i := range many {
		many[i] = entry{name: "mini/templates/x"}
	}
	nested := sub
	for range maxChartDepth + 1 {
		nested = string(pack(t, entry{name: "sub/Chart.yaml", data: minimalChart}, entry{name: "sub/charts/x.tgz", data: nested}))
	}
	cases := map[string]struct {
		why   string
		in    []entry
		error string
	}{
		"Minimal":   {why: "a chart is a directory with Chart.yaml", in: []entry{{name: "mini/Chart.yaml", data: minimalChart}}},
		"Subchart":  {why: "archives below charts/ are subcharts", in: []entry{{name: "mini/Chart.yaml", data: minimalChart}, {name: "mini/charts/sub-1.tgz", data: sub}}},
		"NoChart":   {why: "Chart.yaml is required", in: []entry{{name: "mini/values.yaml", data: "a: 1"}}, error: "Chart.yaml file is missing"},
		"Absolute":  {why: "paths are relative", in: []entry{{name: "/mini/Chart.yaml", data: minimalChart}}, error: "not a relative path"},
		"Parent":    {why: "paths stay inside", in: []entry{{name: "mini/../../x", data: "x"}}, error: "leaves the chart's directory"},
		"Link":      {why: "links could lead outside", in: []entry{{name: "mini/Chart.lock", link: "/etc/passwd"}}, error: "must not contain links"},
		"BigFile":   {why: "a file is bounded", in: []entry{{name: "mini/big", data: strings.Repeat("0", maxChartFile+1)}}, error: ErrChartTooLarge.Error()},
		"ManyFiles": {why: "the number of files is bounded", in: many, error: ErrChartTooLarge.Error()},
		"Nested":    {why: "the depth of subcharts is bounded", in: []entry{{name: "mini/Chart.yaml", data: minimalChart}, {name: "mini/charts/s.tgz", data: nested}}, error: "nested more than"},
		"Empty":     {why: "an archive holds something", error: "no files"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := LoadReader(bytes.NewReader(pack(t, tc.in...)))
			if tc.error != "" {
				if err == nil || !strings.Contains(err.Error(), tc.error) {
					t.Fatalf("%s: got error %v, want one with %q", tc.why, err, tc.error)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", tc.why, err)
			}
			if c.Name() != "mini" {
				t.Errorf("%s: got chart %q", tc.why, c.Name())
			}
			if name == "Subchart" && (len(c.Dependencies()) != 1 || c.Dependencies()[0].Name() != "sub") {
				t.Errorf("%s: got dependencies %v", tc.why, c.Dependencies())
			}
		})
	}
}

func TestLoadArchiveBomb(t *testing.T) {
	// Every file is within its bound; together they are not.
	files := []entry{{name: "mini/Chart.yaml", data: minimalChart}}
	big := strings.Repeat("0", maxChartFile)
	for range maxChartBytes/maxChartFile + 1 {
		files = append(files, entry{name: "mini/templates/big", data: big})
	}
	if _, err := LoadReader(bytes.NewReader(pack(t, files...))); !errors.Is(err, ErrChartTooLarge) {
		t.Fatalf("got %v, want %v", err, ErrChartTooLarge)
	}
}

func TestLoadDir(t *testing.T) {
	c, err := LoadDir("testdata/chart")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Name() + "@" + c.Metadata.Version; got != "greeter@1.2.3" {
		t.Errorf("got %s", got)
	}
	for _, f := range c.Files {
		if f.Name == "ignored.secret" {
			t.Errorf("%s is in .helmignore and was loaded", f.Name)
		}
	}

	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Chart.yaml"), []byte(minimalChart), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "values.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDir(dir); err == nil || !strings.Contains(err.Error(), "values.yaml is not a regular file") {
		t.Errorf("a link was followed: %v", err)
	}
}

func TestLoadFS(t *testing.T) {
	fsys := fstest.MapFS{"charts/mini/Chart.yaml": {Data: []byte(minimalChart)}}
	c, err := LoadFS(fsys, "charts/mini")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name() != "mini" {
		t.Errorf("got chart %q", c.Name())
	}
}

func TestChartCRDsRefusesOtherKinds(t *testing.T) {
	c, err := LoadFS(fstest.MapFS{
		"Chart.yaml":        {Data: []byte(minimalChart)},
		"crds/binding.yaml": {Data: []byte("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: evil}\n")},
	}, ".")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chartCRDs(c); !errors.Is(err, errNotACRD) || !strings.Contains(err.Error(), `ClusterRoleBinding "evil"`) {
		t.Errorf("got %v, want %v that names the object", err, errNotACRD)
	}
}

// FuzzLoadReader: foreign bytes give a chart or an error, never a panic, and a
// chart that was loaded has a name.
func FuzzLoadReader(f *testing.F) {
	t := &testing.T{}
	sub := string(pack(t, entry{name: "sub/Chart.yaml", data: minimalChart}))
	f.Add(pack(t, entry{name: "mini/Chart.yaml", data: minimalChart}, entry{name: "mini/charts/sub.tgz", data: sub}))
	f.Add(pack(t, entry{name: "mini\\Chart.yaml", data: minimalChart}, entry{name: "C:/x", data: "x"}))
	f.Add([]byte("not an archive"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := LoadReader(bytes.NewReader(data))
		if err == nil && c.Name() == "" {
			t.Error("a chart without a name was loaded")
		}
	})
}
