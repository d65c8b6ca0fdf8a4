package gitserver

import (
	"encoding/json"
	"errors"
	"net/http"
)

const maxAdminBody = 64 << 10

// handleAdmin serves the administration API, for accounts with Admin set (HTTP basic authentication). Bodies are JSON:
//
//	GET    /-/repositories  names
//	POST   /-/repositories  {"name", "private"}
//	DELETE /-/repositories  {"name"}
//	POST   /-/accounts      Account
//	POST   /-/keys          DeployKey
//	DELETE /-/keys          {"key"}
//	GET    /-/known-hosts   text; open to all
func (s *Server) handleAdmin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /-/known-hosts", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(s.KnownHosts()))
	})
	mux.Handle("GET /-/repositories", s.admin(func(w http.ResponseWriter, _ *http.Request) error {
		names, err := s.Repositories()
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(names)
	}))
	type repository struct {
		Name    string `json:"name"`
		Private bool   `json:"private"`
	}
	mux.Handle("POST /-/repositories", s.admin(accept(func(r repository) error { return s.CreateRepository(r.Name, r.Private) })))
	mux.Handle("DELETE /-/repositories", s.admin(accept(func(r repository) error { return s.DeleteRepository(r.Name) })))
	mux.Handle("POST /-/accounts", s.admin(accept(s.AddAccount)))
	mux.Handle("POST /-/keys", s.admin(accept(s.AddDeployKey)))
	mux.Handle("DELETE /-/keys", s.admin(accept(func(d DeployKey) error { return s.RemoveDeployKey(d.Key) })))
	return mux
}

// accept decodes a body into a T and hands it on.
func accept[T any](do func(T) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		var v T
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdminBody))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil {
			return err
		}
		if err := do(v); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

func (s *Server) admin(do func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		who, ok := s.access.byPassword(name, password)
		switch {
		case !ok:
			challenge(w, "an administrator's user name and password are needed")
			return
		case !who.Admin:
			http.Error(w, who.Name+" is not an administrator", http.StatusForbidden)
			return
		}
		if err := do(w, r); err != nil {
			status := http.StatusBadRequest
			if errors.Is(err, ErrNotFound) {
				status = http.StatusNotFound
			}
			http.Error(w, err.Error(), status)
		}
	})
}
