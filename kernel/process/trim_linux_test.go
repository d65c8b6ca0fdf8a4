package process

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestReadOnlyMapping(t *testing.T) {
	const file = "/bin/program"
	tests := map[string]struct {
		line string
		want bool
	}{
		"code":                {"00400000-02a1f000 r-xp 00000000 fe:00 123 /bin/program", true},
		"constants":           {"02a1f000-06000000 r--p 0261f000 fe:00 123 /bin/program", true},
		"variables":           {"06000000-06100000 rw-p 05c00000 fe:00 123 /bin/program", false},
		"heap":                {"c000000000-c000400000 rw-p 00000000 00:00 0", false},
		"another file":        {"7f0000000000-7f0000001000 r--p 00000000 fe:00 9 /bin/other", false},
		"shared":              {"7f0000000000-7f0000001000 r--s 00000000 fe:00 123 /bin/program", false},
		"an end before start": {"02a1f000-00400000 r-xp 00000000 fe:00 123 /bin/program", false},
		"nonsense":            {"zz r-xp 0 0 0 /bin/program", false},
		"empty":               {"", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, ok := readOnlyMapping(tt.line, file); ok != tt.want {
				t.Errorf("readOnlyMapping(%q) = %v, want %v", tt.line, ok, tt.want)
			}
		})
	}
}

// The program goes on as before: what it needs comes back from its file.
func TestDropProgramPages(t *testing.T) {
	before := resident(t)
	if err := dropProgramPages(ownProgram(t)); err != nil {
		t.Fatal(err)
	}
	after := resident(t)
	if after >= before {
		t.Errorf("resident file pages: %d KiB before, %d KiB after", before, after)
	}
}

// Pages of the program go when there are more than the limit, and only then.
func TestTrim(t *testing.T) {
	program := ownProgram(t)
	before, err := mappedBytes()
	if err != nil || before <= 0 {
		t.Fatalf("%d bytes of files are mapped, %v", before, err)
	}
	if err := trim(program, 1<<40); err != nil {
		t.Error(err)
	}
	if now, err := mappedBytes(); err != nil || now < before {
		t.Errorf("pages below the limit went: %d bytes, then %d, %v", before, now, err)
	}
	if err := trim(program, 0); err != nil {
		t.Error(err)
	}
	if after, err := mappedBytes(); err != nil || after >= before {
		t.Errorf("%d bytes before, %d after, %v", before, after, err)
	}
}

// ownProgram is the file of this test, when its pages may be dropped.
func ownProgram(t *testing.T) string {
	t.Helper()
	program, err := fixedProgram()
	if errors.Is(err, errRelocated) {
		t.Skip("this test was linked for relocation (CGO_ENABLED=1 or -buildmode=pie): " + err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// A program that the loader writes addresses into keeps its pages: this one
// does either, and says so.
func TestFixedProgram(t *testing.T) {
	program, err := fixedProgram()
	f, openErr := elf.Open("/proc/self/exe")
	if openErr != nil {
		t.Fatal(openErr)
	}
	defer f.Close()
	relocated := f.Type == elf.ET_DYN || f.Section(".data.rel.ro") != nil
	if relocated && !errors.Is(err, errRelocated) {
		t.Errorf("a relocated program may lose its pages: %q, %v", program, err)
	}
	if !relocated && err != nil {
		t.Errorf("a program at fixed addresses: %v", err)
	}
}

// resident is how many KiB of files this process has mapped in.
func resident(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var n int
		if _, err := fmt.Sscanf(line, "RssFile: %d kB", &n); err == nil {
			return n
		}
	}
	t.Fatal("no RssFile in /proc/self/status")
	return 0
}
