package arm

import (
	"fmt"
	"strings"
)

// MaxNameLength is the longest name of one segment of an id, in bytes.
const MaxNameLength = 260

// Segment is one "type/name" step of an id. Provider is the namespace that
// the step opens with "/providers/<namespace>", empty when the step is a child
// type of the step before it, or a subscription or resource group.
type Segment struct {
	Provider string
	Type     string
	Name     string
}

// ID is a parsed resource id. The zero ID is not valid; make one with ParseID.
// An ID keeps the casing it was written with; compare with Equal or Key.
type ID struct {
	segments []Segment
}

// ParseID reads an id such as
// "/subscriptions/S/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c".
// Keywords (subscriptions, resourceGroups, providers) are read without regard
// to case and written back in their usual casing; provider, type and resource
// names keep theirs. A trailing slash, an empty, "." or ".." segment, a control
// or non-ASCII character and the characters % ? # \ < > : are refused, so that two
// different ids can never fold to the same key by accident.
func ParseID(s string) (ID, error) {
	if !strings.HasPrefix(s, "/") {
		return ID{}, fmt.Errorf("resource id %q: must begin with /", s)
	}
	parts := strings.Split(s[1:], "/")
	for _, p := range parts {
		if err := CheckSegment(p); err != nil {
			return ID{}, fmt.Errorf("resource id %q: %w", s, err)
		}
	}
	var id ID
	for len(parts) > 0 {
		seg, rest, err := id.next(parts)
		if err != nil {
			return ID{}, fmt.Errorf("resource id %q: %w", s, err)
		}
		id.segments = append(id.segments, seg)
		parts = rest
	}
	return id, nil
}

// next takes the step that begins parts and returns what remains.
func (id ID) next(parts []string) (Segment, []string, error) {
	if len(parts) < 2 {
		return Segment{}, nil, fmt.Errorf("segment %q has no name after it", parts[0])
	}
	if strings.EqualFold(parts[0], "providers") {
		if len(parts) < 4 {
			return Segment{}, nil, fmt.Errorf("/providers/%s must be followed by a type and a name", parts[1])
		}
		return Segment{Provider: parts[1], Type: parts[2], Name: parts[3]}, parts[4:], nil
	}
	seg := Segment{Type: parts[0], Name: parts[1]}
	switch {
	case len(id.segments) == 0:
		if !strings.EqualFold(seg.Type, "subscriptions") {
			return Segment{}, nil, fmt.Errorf("must begin with /subscriptions or /providers, not /%s", seg.Type)
		}
		seg.Type = "subscriptions"
	case len(id.segments) == 1 && id.segments[0].Provider == "":
		if !strings.EqualFold(seg.Type, "resourceGroups") {
			return Segment{}, nil, fmt.Errorf("a subscription is followed by /resourceGroups or /providers, not /%s", seg.Type)
		}
		seg.Type = "resourceGroups"
	case id.segments[len(id.segments)-1].Provider == "" && strings.EqualFold(id.segments[len(id.segments)-1].Type, "resourceGroups"):
		return Segment{}, nil, fmt.Errorf("a resource group is followed by /providers, not /%s", seg.Type)
	}
	return seg, parts[2:], nil
}

// CheckSegment reports why s cannot be one segment of an id, or nil.
func CheckSegment(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("empty segment")
	case s == "." || s == "..":
		return fmt.Errorf("segment %q is not a name", s)
	case len(s) > MaxNameLength:
		return fmt.Errorf("a segment of %d characters is longer than %d", len(s), MaxNameLength)
	}
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || strings.IndexByte(`%?#\<>:"`, c) >= 0 {
			return fmt.Errorf("segment %q: character %q is not allowed", s, c)
		}
	}
	return nil
}

// String returns the id in the casing it was written with.
func (id ID) String() string {
	var b strings.Builder
	for _, s := range id.segments {
		if s.Provider != "" {
			b.WriteString("/providers/" + s.Provider)
		}
		b.WriteString("/" + s.Type + "/" + s.Name)
	}
	return b.String()
}

// Key returns the id folded to lower case: what it is stored and compared by.
func (id ID) Key() string { return Fold(id.String()) }

// Equal reports whether both name the same resource.
func (id ID) Equal(other ID) bool { return id.Key() == other.Key() }

// IsZero reports whether id names nothing.
func (id ID) IsZero() bool { return len(id.segments) == 0 }

// Name is the last name of the id.
func (id ID) Name() string {
	if id.IsZero() {
		return ""
	}
	return id.segments[len(id.segments)-1].Name
}

// Type is the full type of the resource, such as
// "Microsoft.KubernetesConfiguration/fluxConfigurations" or
// "Microsoft.Resources/resourceGroups".
func (id ID) Type() string {
	first := len(id.segments) - 1
	for first >= 0 && id.segments[first].Provider == "" {
		first--
	}
	if first < 0 {
		return id.coreType()
	}
	types := []string{id.segments[first].Provider}
	for _, s := range id.segments[first:] {
		types = append(types, s.Type)
	}
	return strings.Join(types, "/")
}

func (id ID) coreType() string {
	switch len(id.segments) {
	case 0:
		return ""
	case 1:
		return "Microsoft.Resources/subscriptions"
	default:
		return "Microsoft.Resources/resourceGroups"
	}
}

// Provider is the namespace of the last provider in the id, empty for a
// subscription or a resource group.
func (id ID) Provider() string {
	for i := len(id.segments) - 1; i >= 0; i-- {
		if p := id.segments[i].Provider; p != "" {
			return p
		}
	}
	return ""
}

// Subscription is the subscription's name, empty for a tenant-level id.
func (id ID) Subscription() string { return id.name("subscriptions", 0) }

// ResourceGroup is the resource group's name, empty when there is none.
func (id ID) ResourceGroup() string { return id.name("resourceGroups", 1) }

func (id ID) name(keyword string, at int) string {
	if len(id.segments) <= at || id.segments[at].Provider != "" || id.segments[at].Type != keyword {
		return ""
	}
	return id.segments[at].Name
}

// Parent is the id without its last step: the cluster of a configuration, the
// group of a cluster. The parent of a subscription is the zero ID.
func (id ID) Parent() ID {
	if id.IsZero() {
		return ID{}
	}
	return ID{segments: id.segments[:len(id.segments)-1]}
}

// Segments returns the steps of the id, outermost first.
func (id ID) Segments() []Segment { return append([]Segment(nil), id.segments...) }

// Child is the resource "type/name" below id; provider is empty for a child of
// the same provider.
func (id ID) Child(provider, typ, name string) ID {
	segments := append(id.Segments(), Segment{Provider: provider, Type: typ, Name: name})
	return ID{segments: segments}
}

// Recase returns id with the casing of provider and type names replaced by
// canon's answer; resource names are left alone. canon gets one provider or
// type name and returns it in its usual casing.
func (id ID) Recase(canon func(string) string) ID {
	segments := id.Segments()
	for i := range segments {
		if segments[i].Provider != "" {
			segments[i].Provider = canon(segments[i].Provider)
		}
		segments[i].Type = canon(segments[i].Type)
	}
	return ID{segments: segments}
}

// Fold lowers A to Z and nothing else, so that no other letter can become
// equal to an ASCII one.
func Fold(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
