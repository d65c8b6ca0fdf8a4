package fluxconfig

import (
	_ "embed"
	"net"
	"net/url"
	"slices"
	"strings"
)

// published are the host keys of public Git services.
//
//go:embed known_hosts
var published string

// publishedHosts gives the known_hosts lines of the service that an SSH URL
// names; nil for a server that is not in the published list.
func publishedHosts(raw string) []byte {
	if s := scp(raw); s != "" {
		raw = s
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil
	}
	host := strings.ToLower(u.Hostname())
	if port := u.Port(); port != "" && port != "22" {
		host = "[" + host + "]:" + port
	} else if net.ParseIP(host) != nil {
		return nil
	}
	var lines []string
	for line := range strings.Lines(published) {
		names, _, _ := strings.Cut(line, " ")
		if slices.Contains(strings.Split(names, ","), host) {
			lines = append(lines, line)
		}
	}
	return []byte(strings.Join(lines, ""))
}
