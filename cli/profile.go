package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"headwater.dev/client"
)

// profile is a login: which hub, as whom.
type profile struct {
	Hub            string `json:"hub"`
	CA             string `json:"ca,omitempty"` // PEM
	TenantID       string `json:"tenantId"`
	ClientID       string `json:"clientId"`
	ClientSecret   string `json:"clientSecret"`
	SubscriptionID string `json:"subscriptionId"`
}

// profilePath is where the login is kept.
func (s *session) profilePath() (string, error) {
	if dir := s.env("HEADWATER_CONFIG_DIR"); dir != "" {
		return filepath.Join(dir, "profile.json"), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the user's configuration directory: %w", err)
	}
	return filepath.Join(dir, "headwater", "profile.json"), nil
}

// loadProfile reads the login; variables of the environment win over it. The
// secret and the authority of a login are for its own hub: a variable that names
// another one has to come with those, too.
func (s *session) loadProfile() (profile, error) {
	p, err := s.savedProfile()
	if err != nil {
		return p, err
	}
	if hub := strings.TrimSuffix(s.env("HEADWATER_HUB"), "/"); hub != "" && hub != strings.TrimSuffix(p.Hub, "/") {
		p = profile{Hub: hub}
	}
	if id := s.env("AZURE_CLIENT_ID"); id != "" && id != p.ClientID {
		p.ClientSecret = ""
	}
	for name, field := range map[string]*string{"AZURE_TENANT_ID": &p.TenantID, "AZURE_CLIENT_ID": &p.ClientID,
		"AZURE_CLIENT_SECRET": &p.ClientSecret, "AZURE_SUBSCRIPTION_ID": &p.SubscriptionID} {
		if v := s.env(name); v != "" {
			*field = v
		}
	}
	if file := s.env("HEADWATER_CA"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return p, fmt.Errorf("read HEADWATER_CA: %w", err)
		}
		p.CA = string(pem)
	}
	if s.subscription != "" {
		p.SubscriptionID = s.subscription
	}
	return p, p.complete()
}

// complete is an error when something is missing to speak to the hub.
func (p profile) complete() error {
	if p.Hub == "" {
		return errors.New("not logged in: use \"headwater login\", or set HEADWATER_HUB, HEADWATER_CA and AZURE_TENANT_ID, " +
			"AZURE_CLIENT_ID, AZURE_CLIENT_SECRET, AZURE_SUBSCRIPTION_ID")
	}
	for _, v := range []struct{ value, name, flag string }{{p.TenantID, "AZURE_TENANT_ID", "--tenant"},
		{p.ClientID, "AZURE_CLIENT_ID", "-u"}, {p.ClientSecret, "AZURE_CLIENT_SECRET", "-p"}} {
		if v.value == "" {
			return fmt.Errorf("no credentials for %s: %s is not set; set it, or use \"headwater login\" with %s", p.Hub, v.name, v.flag)
		}
	}
	return nil
}

func (s *session) savedProfile() (profile, error) {
	var p profile
	path, err := s.profilePath()
	if err != nil {
		return p, nil // no home: the environment has to do
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return p, fmt.Errorf("read the login in %s: %w", path, err)
	}
	return p, nil
}

// save keeps the login, readable by its owner only.
func (s *session) save(p profile) error {
	path, err := s.profilePath()
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep the login: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".profile-*") // mode 0600
	if err != nil {
		return fmt.Errorf("keep the login: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keep the login: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

func (p profile) client() (*client.Client, error) {
	return client.New(client.Config{Hub: p.Hub, CA: []byte(p.CA), TenantID: p.TenantID, ClientID: p.ClientID,
		ClientSecret: p.ClientSecret, SubscriptionID: p.SubscriptionID})
}

// content resolves a value that may be "@file" or "@-" (standard input).
func content(flag, value string, in io.Reader) (string, error) {
	if len(value) < 2 || value[0] != '@' {
		return value, nil
	}
	var data []byte
	var err error
	if value == "@-" {
		data, err = io.ReadAll(in)
	} else {
		data, err = os.ReadFile(value[1:])
	}
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	return trimNewline(string(data)), nil
}

func trimNewline(s string) string {
	for len(s) > 0 && (s[len(s)-1] == '\n' || s[len(s)-1] == '\r') {
		s = s[:len(s)-1]
	}
	return s
}
