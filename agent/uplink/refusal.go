package uplink

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// refusal is an answer of the hub, or of something before it, that is no
// success.
type refusal struct {
	status  int
	code    string
	message string
	// date is what the answering side's clock showed; zero when it said none.
	date time.Time
	// after is how long the hub asked to wait.
	after time.Duration
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the hub answered %d %s", r.status, http.StatusText(r.status))
	if r.code != "" {
		text += " " + r.code
	}
	if r.message != "" {
		text += ": " + r.message
	}
	return text
}

// newRefusal reads the answer's error body: an ARM error or an OAuth error.
func newRefusal(res *http.Response) *refusal {
	r := &refusal{status: res.StatusCode}
	r.date, _ = http.ParseTime(res.Header.Get("Date"))
	if seconds, err := time.ParseDuration(res.Header.Get("Retry-After") + "s"); err == nil && seconds > 0 {
		r.after = min(seconds, time.Minute)
	}
	var body struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	raw, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if json.Unmarshal(raw, &body) != nil {
		return r
	}
	var arm struct{ Code, Message string }
	if json.Unmarshal(body.Error, &arm) == nil {
		r.code, r.message = clip(arm.Code), clip(arm.Message)
		return r
	}
	_ = json.Unmarshal(body.Error, &r.code)
	r.code, r.message = clip(r.code), clip(body.Description)
	return r
}

// clip keeps foreign text short and on one line: it ends in logs.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
