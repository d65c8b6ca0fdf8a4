package fluxconfig

import (
	"strings"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/config"
)

const (
	// maxMessage bounds a message of an object in a FluxConfig's status, in bytes.
	maxMessage = 4 << 10
	// maxStatuses bounds all statuses together, about, in bytes: the API server
	// takes no object of more than 1.5 MiB, and part of that is its own.
	maxStatuses = 700 << 10
	// perStatus and perCondition are about what they take beside their texts.
	perStatus, perCondition = 250, 250
)

// fit keeps statuses within what one object can hold. Who may write to the status
// of an object that a configuration applies must not keep the configuration's own
// from being written: messages are cut, the shorter the more there are, then what
// is compliant is left out, then all children. The statuses' conditions belong to
// m alone.
func fit(m *config.ManagedStatuses) {
	for most := maxMessage; most > 16; most /= 4 {
		total := 0
		each(m, func(s *config.ManagedStatus) { total += cut(s, most) })
		if total <= maxStatuses {
			return
		}
	}
	for name, k := range m.Kustomizations {
		for _, list := range lists(k.ChildStatuses) {
			for child, s := range *list {
				if s.ComplianceState == compliant {
					delete(*list, child)
				}
			}
		}
		m.Kustomizations[name] = k
	}
	total := 0
	each(m, func(s *config.ManagedStatus) { total += cut(s, 64) })
	if total <= maxStatuses {
		return
	}
	for name, k := range m.Kustomizations {
		k.ChildStatuses = nil
		m.Kustomizations[name] = k
	}
}

// each visits every status; what visit changes is kept.
func each(m *config.ManagedStatuses, visit func(*config.ManagedStatus)) {
	for _, s := range []*config.ManagedStatus{m.GitRepository, m.Bucket, m.OCIRepository} {
		if s != nil {
			visit(s)
		}
	}
	for name, k := range m.Kustomizations {
		visit(&k.ManagedStatus)
		for _, list := range lists(k.ChildStatuses) {
			for child, s := range *list {
				visit(&s)
				(*list)[child] = s
			}
		}
		m.Kustomizations[name] = k
	}
}

func lists(c *config.ChildStatuses) []*map[string]config.ManagedStatus {
	if c == nil {
		return nil
	}
	return []*map[string]config.ManagedStatus{&c.Bucket, &c.GitRepository, &c.HelmChart, &c.HelmRelease, &c.HelmRepository, &c.OCIRepository, &c.Kustomization}
}

// cut bounds the messages of a status and returns about how large it is.
func cut(s *config.ManagedStatus, most int) int {
	s.Message = shortened(s.Message, most)
	size := perStatus + len(s.Message)
	for i := range s.Conditions {
		c := &s.Conditions[i]
		c.Message = shortened(c.Message, most)
		c.LastTransitionTime = written(c.LastTransitionTime)
		size += perCondition + len(c.Message) + len(c.Reason) + len(c.Type)
	}
	return size
}

// shortened is a text of at most so many bytes, without cutting a character.
func shortened(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most - len("…")
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return strings.ToValidUTF8(s[:end], "") + "…"
}

// written is the nearest time that the API server takes back: in a zone behind
// UTC one may write a time of the year 9999 that is of the year 10000.
func written(t metav1.Time) metav1.Time {
	if last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC); t.After(last) {
		return metav1.NewTime(last)
	}
	return t
}
