package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
)

const statusFile = "status.json"

// Status says what runs and how it does.
type Status struct {
	Parts []Part `json:"parts"`
}

// Part is a program, server or cluster of the system.
type Part struct {
	Name     string `json:"name"`
	Address  string `json:"address,omitempty"`
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts,omitempty"`
	Problem  string `json:"problem,omitempty"`
	Log      string `json:"log,omitempty"`
}

// Healthy reports whether nothing has a problem.
func (s Status) Healthy() bool {
	for _, p := range s.Parts {
		if p.Problem != "" && p.PID == 0 {
			return false
		}
	}
	return true
}

// Status looks at all parts.
func (s *System) Status() Status {
	parts := []Part{
		part("hub", s.Hub.URL, s.Hub.Err()),
		{Name: "git (http)", Address: s.Git.BaseURL()},
		{Name: "git (ssh)", Address: s.Git.SSHBaseURL()},
		{Name: "oci registry", Address: "oci://" + s.Registry.Host()},
		{Name: "helm repository", Address: s.Helm.URL()},
	}
	parts[0].PID, parts[0].Log = s.Hub.PID(), s.Hub.Log()
	if parts[0].Problem != "" {
		parts[0].PID = 0
	}
	for _, m := range s.Members {
		address := m.Kubeconfig
		if config, err := m.Config(); err == nil {
			address = config.Host
		}
		parts = append(parts, part(m.Name, address, m.Err()))
		for _, p := range m.Processes() {
			parts = append(parts, Part{
				Name: m.Name + " " + p.Deployment, PID: p.PID, Restarts: p.Restarts, Problem: p.Problem, Log: p.Log,
			})
		}
	}
	return Status{Parts: parts}
}

func part(name, address string, problem error) Part {
	p := Part{Name: name, Address: address}
	if problem != nil {
		p.Problem = problem.Error()
	}
	return p
}

// ReadStatus returns the status that the supervisor of a state folder wrote last.
func ReadStatus(dir string) (Status, error) {
	var status Status
	if unlock, err := lockExisting(dir); err == nil {
		unlock()
		return status, ErrNotRunning
	} else if !errors.Is(err, ErrRunning) {
		return status, ErrNotRunning
	}
	content, err := os.ReadFile(filepath.Join(dir, statusFile))
	if errors.Is(err, os.ErrNotExist) {
		return status, fmt.Errorf("the system is on its way up, see %s", filepath.Join(dir, "up.log"))
	}
	if err != nil {
		return status, fmt.Errorf("read status: %w", err)
	}
	if err := json.Unmarshal(content, &status); err != nil {
		return status, fmt.Errorf("parse status: %w", err)
	}
	return status, nil
}

// Print writes the status as a table, problems below it.
func (s Status) Print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PART\tSTATE\tRESTARTS\tWHERE")
	for _, p := range s.Parts {
		state := "up"
		switch {
		case p.Problem != "" && p.PID == 0:
			state = "down"
		case p.Restarts > 0:
			state = "restarted"
		}
		where := p.Address
		if where == "" {
			where = p.Log
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", p.Name, state, p.Restarts, where)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, p := range s.Parts {
		if p.Problem != "" {
			fmt.Fprintf(out, "\n%s: %s\n", p.Name, p.Problem)
		}
	}
	return nil
}
