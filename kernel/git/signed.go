package git

import (
	"bytes"
	"fmt"
	"strings"
)

// maxTags is how many tags may point to each other before a commit comes.
const maxTags = 8

// Tag is an annotated tag.
type Tag struct {
	Hash Hash
	// Name is what the tag calls itself, which a server can not change
	// without breaking its signature.
	Name string
	raw  []byte
}

// String writes the tag as "<name>@<hash>".
func (t Tag) String() string { return printable(t.Name) + "@" + t.Hash.String() }

// Signed gives what was signed, and the signature; it is empty when the tag is
// not signed.
func (t Tag) Signed() (payload, signature []byte) {
	_, body, ok := bytes.Cut(t.raw, []byte("\n\n"))
	if !ok {
		return t.raw, nil
	}
	at := len(t.raw)
	for off := len(t.raw) - len(body); off < len(t.raw); {
		if signatureStarts(t.raw[off:]) {
			at = off
		}
		next := bytes.IndexByte(t.raw[off:], '\n')
		if next < 0 {
			break
		}
		off += next + 1
	}
	return t.raw[:at], t.raw[at:]
}

func signatureStarts(line []byte) bool {
	for _, start := range []string{"-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP MESSAGE-----", "-----BEGIN SSH SIGNATURE-----", "-----BEGIN SIGNED MESSAGE-----"} {
		if bytes.HasPrefix(line, []byte(start)) {
			return true
		}
	}
	return false
}

// Signed gives what was signed, and the signature; it is empty when the commit
// is not signed. A commit with several signatures is refused: programs differ
// in which one they take.
func (c Commit) Signed() (payload, signature []byte, err error) {
	var kept, sig bytes.Buffer
	head, body, _ := bytes.Cut(c.raw, []byte("\n\n"))
	found, skip := 0, false
	var into *bytes.Buffer
	for line := range bytes.SplitSeq(head, []byte("\n")) {
		if text, ok := bytes.CutPrefix(line, []byte(" ")); ok && skip {
			if into != nil {
				into.WriteByte('\n')
				into.Write(text)
			}
			continue
		}
		skip, into = false, nil
		if text, ok := bytes.CutPrefix(line, []byte("gpgsig ")); ok {
			found++
			skip, into = true, &sig
			sig.Write(text)
			continue
		}
		if bytes.HasPrefix(line, []byte("gpgsig-sha256 ")) {
			skip = true
			continue
		}
		kept.Write(line)
		kept.WriteByte('\n')
	}
	if found > 1 {
		return nil, nil, fmt.Errorf("%w: commit %s has more than one signature", ErrProtocol, c.Hash)
	}
	kept.WriteByte('\n')
	kept.Write(body)
	return kept.Bytes(), sig.Bytes(), nil
}

// parents gives the parents that a commit names.
func parents(data []byte) []Hash {
	var list []Hash
	head, _, _ := bytes.Cut(data, []byte("\n\n"))
	for line := range strings.SplitSeq(string(head), "\n") {
		name, ok := strings.CutPrefix(line, "parent ")
		if !ok {
			continue
		}
		if h, err := ParseHash(name); err == nil {
			list = append(list, h)
		}
	}
	return list
}

// tag reads the tag of a target and checks that it leads to the commit: the
// server alone says so in its list of references.
func (o *objects) tag(t Target) (*Tag, error) {
	var first *Tag
	h := t.Object
	for range maxTags {
		data, err := o.want(h, typeTag)
		if err != nil {
			return nil, err
		}
		tag, object, err := parseTag(h, data)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = tag
		}
		if object == t.Commit {
			return first, nil
		}
		typ, _, err := o.read(object)
		if err != nil || typ != typeTag {
			return nil, fmt.Errorf("%w: tag %s does not lead to commit %s", ErrProtocol, printable(t.Tag), t.Commit)
		}
		h = object
	}
	return nil, fmt.Errorf("%w: more than %d tags point to each other", ErrProtocol, maxTags)
}

// parseTag reads name and object of a tag.
func parseTag(h Hash, data []byte) (*Tag, Hash, error) {
	t := &Tag{Hash: h, raw: data}
	head, _, _ := bytes.Cut(data, []byte("\n\n"))
	var object Hash
	for line := range strings.SplitSeq(string(head), "\n") {
		key, value, _ := strings.Cut(line, " ")
		switch {
		case key == "object" && object.IsZero():
			var err error
			if object, err = ParseHash(value); err != nil {
				return nil, object, fmt.Errorf("%w: tag %s names no object", ErrProtocol, h)
			}
		case key == "tag" && t.Name == "":
			t.Name = value
		}
	}
	if object.IsZero() {
		return nil, object, fmt.Errorf("%w: tag %s names no object", ErrProtocol, h)
	}
	return t, object, nil
}
