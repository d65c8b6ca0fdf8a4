package cli

import (
	"fmt"
	"strings"
)

// separator joins the words of one flag; it cannot be typed by accident.
const separator = "\x1f"

// Words brings a command line in az's manner into the form that flags have
// here: a flag that takes several KEY=VALUE words gets them as one value, and a
// switch that takes true or false after a space gets it after an equals sign.
func Words(args []string) []string {
	out := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return append(out, args[i:]...)
		}
		name, value, inline := strings.Cut(a, "=")
		switch {
		case isSwitch(a) && i+1 < len(args) && isBool(args[i+1]):
			i++
			out = append(out, a+"="+strings.ToLower(args[i]))
		case isList(name) && (inline || i+1 < len(args) && isWord(args[i+1])):
			var words []string
			if inline {
				words = append(words, value)
			}
			for i+1 < len(args) && isWord(args[i+1]) {
				i++
				words = append(words, args[i])
			}
			out = append(out, name, strings.Join(words, separator))
		default:
			out = append(out, a)
		}
	}
	return out
}

func isList(flag string) bool {
	switch flag {
	case "-k", "--kustomization", "--configuration-settings", "--config", "--configuration-protected-settings",
		"--config-protected", "--tags", "--verification-config", "--match-oidc-identity":
		return true
	}
	return false
}

// isWord reports whether s is KEY=VALUE or a JSON object, and not the next flag.
func isWord(s string) bool {
	return !strings.HasPrefix(s, "-") && (strings.Contains(s, "=") || strings.HasPrefix(s, "{"))
}

func isSwitch(flag string) bool {
	switch flag {
	case "--suspend", "--prune", "--force", "--disable-health-check", "--bucket-insecure", "--oci-insecure",
		"--use-workload-identity", "--auto-upgrade-minor-version", "--auto-upgrade", "--sp-cert-send-chain",
		"--service-principal-certificate-send-chain":
		return true
	}
	return false
}

func isBool(s string) bool { return strings.EqualFold(s, "true") || strings.EqualFold(s, "false") }

// pairs reads the KEY=VALUE words of a flag.
func pairs(flag string, values []string) (map[string]string, error) {
	out := map[string]string{}
	for _, v := range values {
		for _, word := range strings.Split(v, separator) {
			if word == "" {
				continue
			}
			key, value, ok := strings.Cut(word, "=")
			if !ok || key == "" {
				return nil, fmt.Errorf("%s: %q is not KEY=VALUE", flag, word)
			}
			out[key] = value
		}
	}
	return out, nil
}
