package front

import (
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Fault is one way in which a server misbehaves when it is told to. Exactly one of Hang, Redirect and Status is used,
// in this order.
type Fault struct {
	// Contains selects the requests whose path contains it; empty means every request.
	Contains string
	// Hang keeps the request unanswered until the client leaves or the server closes.
	Hang bool
	// Redirect answers 302 to this base URL followed by the request's own path and query.
	Redirect string
	// Status answers with this HTTP status and no useful body.
	Status int
	// Times is how many requests are hit; 0 means all until the fault is removed.
	Times int
}

// Faults is the set of faults that are active in a server. The zero value has none.
type Faults struct {
	mu     sync.Mutex
	active []*Fault
}

// Inject activates a fault. The returned function takes it back; calling it twice does no harm.
func (f *Faults) Inject(fault Fault) (remove func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &fault
	f.active = append(f.active, p)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.drop(p)
	}
}

// Take returns the first fault that is active for a path, and uses up one of its times.
func (f *Faults) Take(path string) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.active {
		if !strings.Contains(path, p.Contains) {
			continue
		}
		if p.Times > 0 {
			if p.Times--; p.Times == 0 {
				f.drop(p)
			}
		}
		return *p, true
	}
	return Fault{}, false
}

func (f *Faults) drop(p *Fault) {
	f.active = slices.DeleteFunc(f.active, func(q *Fault) bool { return p == q })
}

func (f *Faults) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fault, hit := f.Take(r.URL.Path)
		switch {
		case !hit:
			next.ServeHTTP(w, r)
		case fault.Hang:
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // no answer, not an empty one
		case fault.Redirect != "":
			http.Redirect(w, r, strings.TrimSuffix(fault.Redirect, "/")+r.URL.RequestURI(), http.StatusFound)
		default:
			http.Error(w, http.StatusText(fault.Status), fault.Status)
		}
	})
}
