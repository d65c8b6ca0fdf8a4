package rest

import (
	"fmt"
	"testing"

	"headwater.dev/hub/auth"
)

// TestTags changes the tags of a group and of clusters one by one.
func TestTags(t *testing.T) {
	h := start(t)
	h.furnish()
	h.must(201, "PUT", path(inManaged, "2022-11-01"), `{"location":"local"}`)
	for _, id := range []string{inGroup, inCluster, inManaged} {
		at := path(id+"/providers/Microsoft.Resources/tags/default", "2021-04-01")
		for _, step := range []struct{ why, method, body, want string }{
			{"there are none", "GET", "", "map[]"},
			{"PUT sets", "PUT", `{"properties":{"tags":{"team":"web","env":"test"}}}`, "map[env:test team:web]"},
			{"names compare without regard to case", "PATCH", `{"operation":"Merge","properties":{"tags":{"Team":"shop","cost":"7"}}}`, "map[cost:7 env:test team:shop]"},
			{"only the value that is sent goes", "PATCH", `{"operation":"delete","properties":{"tags":{"team":"web","env":"test","COST":""}}}`, "map[team:shop]"},
			{"Replace", "PATCH", `{"operation":"Replace","properties":{"tags":{"a":"b"}}}`, "map[a:b]"},
			{"DELETE", "DELETE", "", "map[]"},
		} {
			a := h.must(200, step.method, at, step.body)
			if got := fmt.Sprint(a.property(t, "properties.tags")); got != step.want || a.property(t, "id") != id+"/providers/Microsoft.Resources/tags/default" {
				t.Errorf("%s: %s: %s, want %s", id, step.why, a.body, step.want)
			}
			if got := fmt.Sprint(h.must(200, "GET", path(id, "2024-01-01"), "").property(t, "tags")); got != step.want {
				t.Errorf("%s: %s: the resource shows %s, want %s", id, step.why, got, step.want)
			}
		}
		for _, bad := range []string{`{"operation":"Add","properties":{"tags":{"a":"b"}}}`, `{"operation":"Merge","properties":{"tags":{"a":1}}}`, `{"operation":"Merge","properties":{"tags":[]}}`} {
			h.must(400, "PATCH", at, bad)
		}
		reader := h.somebody(auth.Reader, id)
		if a := h.as(reader, "PATCH", at, `{"operation":"Merge","properties":{"tags":{"a":"b"}}}`); a.status != 403 {
			t.Errorf("%s: a reader changes tags: %d %s", id, a.status, a.body)
		}
		if a := h.as(reader, "GET", at, ""); a.status != 200 {
			t.Errorf("%s: a reader reads tags: %d %s", id, a.status, a.body)
		}
	}
	h.must(404, "GET", path(inGroup+"2/providers/Microsoft.Resources/tags/default", "2021-04-01"), "")
	many := ""
	for i := range 60 {
		many += fmt.Sprintf(`"t%d":"",`, i)
	}
	at := path(inGroup+"/providers/Microsoft.Resources/tags/default", "2021-04-01")
	h.must(200, "PUT", at, `{"properties":{"tags":{"a":"b"}}}`)
	h.must(400, "PATCH", at, `{"operation":"Merge","properties":{"tags":{`+many[:len(many)-1]+`}}}`)
	if got := fmt.Sprint(h.must(200, "GET", at, "").property(t, "properties.tags")); got != "map[a:b]" {
		t.Errorf("what was refused changed them: %s", got)
	}
}
