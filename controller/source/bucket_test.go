package source

import (
	"crypto/md5"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/kernel/host"
)

// s3 is the part of an S3 server that a reader needs: it lists in pages and
// knows ETags. It recognises the access key and does not check signatures.
type s3 struct {
	mu      sync.Mutex
	objects map[string]string
	reads   int
	// busy is what it says in Retry-After; empty when it is not.
	busy string
}

func (s *s3) set(key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[key] = value
}

// count gives the number of objects that were read.
func (s *s3) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

func etagOf(data string) string { return fmt.Sprintf(`"%x"`, md5.Sum([]byte(data))) }

func (s *s3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fail := func(status int, code string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, canary)
	}
	if !strings.Contains(r.Header.Get("Authorization"), "Credential=key/") {
		fail(http.StatusForbidden, "AccessDenied")
		return
	}
	key, inside := strings.CutPrefix(r.URL.Path, "/data/")
	switch {
	case r.URL.Query().Has("location"):
		fmt.Fprint(w, `<LocationConstraint></LocationConstraint>`)
	case inside && key != "":
		data, ok := s.objects[key]
		if !ok {
			fail(http.StatusNotFound, "NoSuchKey")
			return
		}
		if m := r.Header.Get("If-Match"); m != "" && m != etagOf(data) {
			fail(http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		if r.Method == http.MethodGet {
			s.reads++
		}
		if s.busy != "" {
			w.Header().Set("Retry-After", s.busy)
			fail(http.StatusTooManyRequests, "SlowDown")
			return
		}
		w.Header().Set("ETag", etagOf(data))
		w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if r.Method != http.MethodHead {
			fmt.Fprint(w, data)
		}
	case r.URL.Query().Get("list-type") == "2":
		s.list(w, r)
	default:
		fail(http.StatusNotFound, "NoSuchBucket")
	}
}

func (s *s3) list(w http.ResponseWriter, r *http.Request) {
	type content struct {
		Key, ETag, LastModified string
		Size                    int
	}
	var result struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		Contents              []content
		IsTruncated           bool
		NextContinuationToken string
	}
	var keys []string
	for k := range s.objects {
		if strings.HasPrefix(k, r.URL.Query().Get("prefix")) && k > r.URL.Query().Get("continuation-token") {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for i, k := range keys {
		if i == 2 {
			result.IsTruncated, result.NextContinuationToken = true, keys[i-1]
			break
		}
		result.Contents = append(result.Contents, content{k, etagOf(s.objects[k]), "2026-01-01T00:00:00Z", len(s.objects[k])})
	}
	w.Header().Set("Content-Type", "application/xml")
	xml.NewEncoder(w).Encode(result)
}

func testBucket(t *testing.T, w *world) {
	storage := &s3{objects: map[string]string{"a.yaml": "a: 1\n", "dir/b.yaml": "b: 1\n", "dir/c.txt": "c", ".sourceignore": "*.txt\n", "x/y/z.yaml": "z"}}
	server := httptest.NewServer(storage)
	defer server.Close()
	bucket := func(name, secret string, change ...func(*sourcev1.Bucket)) *sourcev1.Bucket {
		o := &sourcev1.Bucket{}
		o.Name = name
		o.Spec = sourcev1.BucketSpec{BucketName: "data", Endpoint: strings.TrimPrefix(server.URL, "http://"), Insecure: true, Interval: metav1.Duration{Duration: time.Hour}}
		if secret != "" {
			o.Spec.SecretRef = &meta.LocalObjectReference{Name: secret}
		}
		for _, c := range change {
			c(o)
		}
		w.create(o)
		return o
	}
	o := bucket("data", "keys")
	w.failing(o, sourcev1.AuthenticationFailedReason, "not found")
	w.secret("keys", "accesskey", "key", "secretkey", canary)
	first := w.ready(o, "")
	if diff := cmp.Diff(map[string]string{"a.yaml": "a: 1\n", "dir/b.yaml": "b: 1\n", "x/y/z.yaml": "z"}, untar(t, w.download(first))); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(first.Revision, "sha256:") {
		t.Errorf("revision %s", first.Revision)
	}
	reads := storage.reads
	w.request(o)
	w.ready(o, first.Revision)
	if storage.reads != reads {
		t.Errorf("%d reads of an unchanged bucket", storage.reads-reads)
	}
	storage.set("a.yaml", "a: 2\n")
	w.request(o)
	w.wait(o, func() error {
		if o.Status.Artifact.HasRevision(first.Revision) {
			return fmt.Errorf("still %s", first.Revision)
		}
		return nil
	})
	if got := untar(t, w.download(o.Status.Artifact)); got["a.yaml"] != "a: 2\n" {
		t.Errorf("files %v", got)
	}
	p := bucket("prefix", "keys", func(o *sourcev1.Bucket) { o.Spec.Prefix = "dir/" })
	if diff := cmp.Diff(map[string]string{"dir/b.yaml": "b: 1\n"}, untar(t, w.download(w.ready(p, "")))); diff != "" {
		t.Error(diff)
	}
	w.failing(bucket("anonymous", ""), sourcev1.AuthenticationFailedReason, "AccessDenied")
	w.failing(bucket("scheme", "keys", func(o *sourcev1.Bucket) { o.Spec.Endpoint = "http://x" }), sourcev1.URLInvalidReason, "spec.endpoint")
	w.failing(bucket("incomplete", "other"), sourcev1.AuthenticationFailedReason, "not found")
	w.secret("other", "accesskey", canary)
	w.failing(bucket("lacking", "other"), sourcev1.AuthenticationFailedReason, "required fields 'accesskey' and 'secretkey'")
	w.failing(bucket("gone", "keys", func(o *sourcev1.Bucket) { o.Spec.BucketName = "nothing" }), sourcev1.BucketOperationFailedReason, "bucket 'nothing' not found")
	w.failing(bucket("metadata", "keys", func(o *sourcev1.Bucket) { o.Spec.Endpoint = "169.254.169.254" }), sourcev1.BucketOperationFailedReason, "address that is not asked")
	storage.set("x/y", "a file where a folder is")
	w.request(o)
	w.failing(o, sourcev1.BucketOperationFailedReason, "is an object and a folder")
	storage.set("../../evil", "x")
	w.request(o)
	w.failing(o, sourcev1.BucketOperationFailedReason, "cannot be the path of a file")
}

// TestBucketIdentity shows that a storage that is not the provider's is shown no
// identity of the cloud.
func TestBucketIdentity(t *testing.T) {
	for name, c := range map[string]struct {
		provider, endpoint, account string
		shown, refused              bool
	}{
		"google":                 {"gcp", "storage.googleapis.com", "", true, false},
		"google, as somebody":    {"gcp", "storage.googleapis.com", "reader", true, false},
		"not google":             {"gcp", "storage.evil.example", "", false, false},
		"not google as somebody": {"gcp", "storage.evil.example", "reader", false, true},
		"azure":                  {"azure", "https://account.blob.core.windows.net", "", true, false},
		"plain azure":            {"azure", "http://account.blob.core.windows.net", "", false, false},
		"plain google":           {"gcp", "http://storage.googleapis.com", "", false, false},
		"not azure":              {"azure", "https://evil.example", "", false, false},
		"not azure as somebody":  {"azure", "https://evil.example", "reader", false, true},
	} {
		o := newBucket("b", c.endpoint, func(b *sourcev1.Bucket) {
			b.Spec.Endpoint, b.Spec.Insecure, b.Spec.ServiceAccountName = c.endpoint, false, c.account
		})
		shown, err := (&loops{host: &host.Host{}}).identified(c.provider, o)
		if shown != c.shown || (err != nil) != c.refused || err != nil && !strings.Contains(err.Error(), "spec.endpoint") {
			t.Errorf("%s: shown %v, %v", name, shown, err)
		}
	}
}
