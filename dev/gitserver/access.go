package gitserver

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Account is somebody who may use the server, by user name and password over HTTP and by keys over SSH.
type Account struct {
	Name     string `json:"name"`
	Password string `json:"password,omitempty"`
	// Keys are SSH public keys in the format of authorized_keys.
	Keys []string `json:"keys,omitempty"`
	// Repositories limits the account to these; empty means all.
	Repositories []string `json:"repositories,omitempty"`
	// ReadOnly forbids pushes.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Admin may use the administration API.
	Admin bool `json:"admin,omitempty"`
}

// DeployKey is an SSH public key that opens one repository.
type DeployKey struct {
	Repository string `json:"repository"`
	Title      string `json:"title,omitempty"`
	// Key is an SSH public key in the format of authorized_keys.
	Key string `json:"key"`
	// Write allows pushes.
	Write bool `json:"write,omitempty"`
}

// identity is what a request has proved to be. The zero value is anonymous.
type identity struct {
	Name         string   `json:"name"`
	Repositories []string `json:"repositories,omitempty"`
	ReadOnly     bool     `json:"readOnly,omitempty"`
	Admin        bool     `json:"admin,omitempty"`
}

func (i identity) anonymous() bool { return i.Name == "" }

// may tells whether the identity may read or write a repository.
func (i identity) may(repo string, write, private bool) bool {
	member := !i.anonymous() && (len(i.Repositories) == 0 || slices.Contains(i.Repositories, repo))
	if write {
		return member && !i.ReadOnly
	}
	return member || !private
}

type storedAccount struct {
	identity
	Salt []byte   `json:"salt,omitempty"`
	Hash []byte   `json:"hash,omitempty"`
	Keys []string `json:"keys,omitempty"`
}

// access is the list of accounts and keys. Passwords are kept as salted digests only: they guard a development server
// and are not worth a slow hash on every request of a benchmark.
type access struct {
	mu         sync.RWMutex
	file       string
	Accounts   map[string]storedAccount `json:"accounts"`
	DeployKeys map[string]DeployKey     `json:"deployKeys"` // by normalised key
}

func openAccess(file string) (*access, error) {
	a := &access{file: file, Accounts: map[string]storedAccount{}, DeployKeys: map[string]DeployKey{}}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read git accounts: %w", err)
	}
	if err := json.Unmarshal(data, a); err != nil {
		return nil, fmt.Errorf("read git accounts from %s: %w", file, err)
	}
	return a, nil
}

// change applies a change and writes the file.
func (a *access) change(do func()) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	do()
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("encode git accounts: %w", err)
	}
	tmp := a.file + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("keep git accounts: %w", err)
	}
	if err := os.Rename(tmp, filepath.Clean(a.file)); err != nil {
		return fmt.Errorf("keep git accounts: %w", err)
	}
	return nil
}

// byPassword finds the account of a user name and password.
func (a *access) byPassword(name, password string) (identity, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	acc, ok := a.Accounts[name]
	if !ok || len(acc.Hash) == 0 || subtle.ConstantTimeCompare(digest(acc.Salt, password), acc.Hash) != 1 {
		return identity{}, false
	}
	return acc.identity, true
}

// byKey finds the account or the deploy key that an SSH public key stands for.
func (a *access) byKey(key ssh.PublicKey) (identity, bool) {
	line := normal(key)
	a.mu.RLock()
	defer a.mu.RUnlock()
	if d, ok := a.DeployKeys[line]; ok {
		return identity{Name: "deploy key of " + d.Repository, Repositories: []string{d.Repository}, ReadOnly: !d.Write}, true
	}
	for _, acc := range a.Accounts {
		if slices.Contains(acc.Keys, line) {
			return acc.identity, true
		}
	}
	return identity{}, false
}

// AddAccount adds or replaces an account; it is usable when AddAccount returns.
func (s *Server) AddAccount(acc Account) error {
	if acc.Name == "" {
		return errors.New("add git account: the name is empty")
	}
	if acc.Password == "" && len(acc.Keys) == 0 {
		return fmt.Errorf("add git account %q: give it a password, a key or both", acc.Name)
	}
	st := storedAccount{identity: identity{
		Name: acc.Name, Repositories: acc.Repositories, ReadOnly: acc.ReadOnly, Admin: acc.Admin,
	}}
	for _, r := range acc.Repositories {
		if err := checkName(r); err != nil {
			return fmt.Errorf("add git account %q: %w", acc.Name, err)
		}
	}
	for _, k := range acc.Keys {
		line, err := parseKey(k)
		if err != nil {
			return fmt.Errorf("add git account %q: %w", acc.Name, err)
		}
		st.Keys = append(st.Keys, line)
	}
	if acc.Password != "" {
		st.Salt = make([]byte, 16)
		if _, err := rand.Read(st.Salt); err != nil {
			return fmt.Errorf("add git account %q: %w", acc.Name, err)
		}
		st.Hash = digest(st.Salt, acc.Password)
	}
	return s.access.change(func() { s.access.Accounts[acc.Name] = st })
}

// AddDeployKey lets an SSH key into one repository; it is usable when AddDeployKey returns. A key opens one repository
// only: added for another one, it moves there.
func (s *Server) AddDeployKey(d DeployKey) error {
	if _, err := s.existing(d.Repository); err != nil {
		return fmt.Errorf("add deploy key: %w", err)
	}
	line, err := parseKey(d.Key)
	if err != nil {
		return fmt.Errorf("add deploy key for %q: %w", d.Repository, err)
	}
	d.Key = line
	return s.access.change(func() { s.access.DeployKeys[line] = d })
}

// RemoveDeployKey shuts an SSH key out again.
func (s *Server) RemoveDeployKey(key string) error {
	line, err := parseKey(key)
	if err != nil {
		return fmt.Errorf("remove deploy key: %w", err)
	}
	return s.access.change(func() { delete(s.access.DeployKeys, line) })
}

func parseKey(line string) (string, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", fmt.Errorf("not an SSH public key as in authorized_keys (ssh-ed25519 AAAA…): %w", err)
	}
	return normal(key), nil
}

// normal is a key without its comment.
func normal(key ssh.PublicKey) string {
	line := ssh.MarshalAuthorizedKey(key)
	return string(line[:len(line)-1])
}

func digest(salt []byte, password string) []byte {
	sum := sha256.Sum256(append(slices.Clone(salt), password...))
	return sum[:]
}
