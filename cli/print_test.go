package cli

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestA99JSONCannotSteerATerminal(t *testing.T) {
	cases := map[string]struct{ why, in, want string }{
		"plain":         {"letters of all the world stay", "größe 大", `"größe 大"`},
		"escape":        {"the encoder's own work", "\x1b[31m", `"\u001b[31m"`},
		"control of C1": {"CSI in one character", "\u009b31m", `"\u009b31m"`},
		"delete":        {"it erases", "a\x7f", `"a\u007f"`},
		"bidi":          {"it shows text from right to left", "a\u202eb", `"a\u202eb"`},
		"beyond 16 bit": {"tags are invisible", "a\U000e0041", `"a\udb40\udc41"`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			raw, err := json.Marshal(c.in)
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			escape(&b, string(raw))
			var back string
			if err := json.Unmarshal(b.Bytes(), &back); err != nil || back != c.in {
				t.Errorf("%s: %q comes back as %q, %v", c.why, c.in, back, err)
			}
			if b.String() != c.want {
				t.Errorf("%s: got %s, want %s", c.why, b.String(), c.want)
			}
		})
	}
}
