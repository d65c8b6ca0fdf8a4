package process

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// errRelocated is a program whose read-only pages differ from its file, because
// the loader wrote addresses into them before they became read-only: dropping
// them would lose the addresses.
var errRelocated = errors.New("the program is relocated when it is loaded: its pages stay")

// fixedProgram is the file of this program. It is an error when its read-only
// pages may hold anything but the file's bytes.
func fixedProgram() (string, error) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("find the program's file: %w", err)
	}
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("read the program's file: %w", err)
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC {
		return program, errRelocated
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_GNU_RELRO {
			return program, errRelocated
		}
	}
	return program, nil
}

// dropProgramPages takes the pages of the program's own read-only code and data
// out of this process. They are clean copies of the file: what is needed again
// comes back from the page cache.
func dropProgramPages(program string) error {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("read the process's mappings: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		start, end, ok := readOnlyMapping(s.Text(), program)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back pages of the program: %w", errno)
		}
	}
	return nil
}

// mappedBytes is how many bytes of files are mapped into this process and in
// memory.
func mappedBytes() (int64, error) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("read the process's memory: %w", err)
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(data), &size, &resident, &shared); err != nil {
		return 0, fmt.Errorf("read the process's memory: %w", err)
	}
	return shared * int64(os.Getpagesize()), nil
}

// readOnlyMapping reads a line of /proc/self/maps and says whether it is a
// mapping of file that cannot hold anything but the file's bytes: private and
// not writable.
func readOnlyMapping(line, file string) (start, end uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) != 6 || fields[5] != file || strings.Contains(fields[1], "w") || !strings.HasSuffix(fields[1], "p") {
		return 0, 0, false
	}
	if n, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end); n != 2 || err != nil || end <= start {
		return 0, 0, false
	}
	return start, end, true
}
