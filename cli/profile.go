package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

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

func environment(name string) string { return os.Getenv(name) }

// profilePath is where the login is kept.
func profilePath() (string, error) {
	if dir := environment("HEADWATER_CONFIG_DIR"); dir != "" {
		return filepath.Join(dir, "profile.json"), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the user's configuration directory: %w", err)
	}
	return filepath.Join(dir, "headwater", "profile.json"), nil
}

// loadProfile reads the login; variables of the environment win over it.
func loadProfile() (profile, error) {
	p, err := savedProfile()
	if err != nil {
		return p, err
	}
	for name, field := range map[string]*string{"HEADWATER_HUB": &p.Hub, "AZURE_TENANT_ID": &p.TenantID, "AZURE_CLIENT_ID": &p.ClientID,
		"AZURE_CLIENT_SECRET": &p.ClientSecret, "AZURE_SUBSCRIPTION_ID": &p.SubscriptionID} {
		if v := environment(name); v != "" {
			*field = v
		}
	}
	if file := environment("HEADWATER_CA"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return p, fmt.Errorf("read HEADWATER_CA: %w", err)
		}
		p.CA = string(pem)
	}
	if p.Hub == "" {
		return p, errors.New("not logged in: use \"headwater login\", or set HEADWATER_HUB, HEADWATER_CA and AZURE_TENANT_ID, " +
			"AZURE_CLIENT_ID, AZURE_CLIENT_SECRET, AZURE_SUBSCRIPTION_ID")
	}
	return p, nil
}

func savedProfile() (profile, error) {
	var p profile
	path, err := profilePath()
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
func (p profile) save() error {
	path, err := profilePath()
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
